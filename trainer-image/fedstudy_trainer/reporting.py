"""Tells the agent how far an instruction is: at most once a second, and at least every five seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from fedstudy.errors import FINAL_EXIT_CODES, FedstudyError
from fedstudy.logs import log
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy_trainer.contribution import Progress

SOONEST_SECONDS, LATEST_SECONDS = 1.0, 4.0

_log = logging.getLogger(__name__)


class Reporter:
    """The latest progress of one instruction. `note` may be called from any thread."""

    def __init__(self, stub: FederationStub, instruction_id: str) -> None:
        self._stub = stub
        self._id = instruction_id
        self._latest = Progress(0, 0, 0.0, 0.0, 0.0)

    def note(self, progress: Progress) -> None:
        """Keep this progress until the next report."""
        self._latest = progress

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """Report while the block runs; the last word is sent at its end."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._latest.samples_total:
            await self._send(self._latest)

    async def _run(self) -> None:
        sent, sent_at = None, 0.0
        while True:
            latest, now = self._latest, time.monotonic()
            if latest != sent or now - sent_at >= LATEST_SECONDS:
                await self._send(latest)
                sent, sent_at = latest, now
            await asyncio.sleep(SOONEST_SECONDS)

    async def _send(self, progress: Progress) -> None:
        message = pb.Progress(
            instruction_id=self._id,
            samples_done=progress.samples_done,
            samples_total=progress.samples_total,
            loss=progress.loss,
            samples_per_second=progress.samples_per_second,
            seconds_left=progress.seconds_left,
        )
        await report(self._stub, pb.ReportRequest(progress=message))


@asynccontextmanager
async def alive(stub: FederationStub) -> AsyncIterator[None]:
    """Give a sign of life every few seconds while the block does what has no progress to report: an agent that hears nothing of
    a trainer with work takes it for gone."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(LATEST_SECONDS)
            await report(stub, pb.ReportRequest())

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def report(stub: FederationStub, request: pb.ReportRequest) -> None:
    """Send a report. One that cannot be sent is logged and forgotten: work does not stop for it."""
    try:
        await stub.Report(request, timeout=LATEST_SECONDS)
    except grpc.aio.AioRpcError as error:
        log(_log, logging.WARNING, "report not sent", code=error.code().name, details=error.details())


def failure(instruction_id: str, error: Exception) -> pb.ReportRequest:
    """The report of a failure; `final` where trying again without a change cannot help."""
    told = isinstance(error, FedstudyError)
    message = str(error) if told else f"The trainer failed: {type(error).__name__}: {error}"
    final = isinstance(error, FedstudyError) and error.exit_code in FINAL_EXIT_CODES
    code = type(error).__name__ if told else "InternalError"
    return pb.ReportRequest(
        failure=pb.Failure(instruction_id=instruction_id, code=code, message=message, final=final)
    )
