"""What goes in and out while the hospital consents: inputs in, answers and reports out. The ledger comes before each.

A progress report makes one entry for its instruction, before the first; the entry of the answer or failure counts them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from fedstudy.agent.relay import Relay
from fedstudy.agent.store import Held
from fedstudy.agent.waiting import until_first
from fedstudy.errors import ConnectionLostError, FedstudyError, NoSpaceError, PlanError, RefusedError
from fedstudy.logs import log
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy.wire.status import from_rpc_error
from fedstudy.wire.transfer import fetch, submit

_log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

CALL_SECONDS = 30.0
"""How long a small call may take."""

TRANSFER_SECONDS = 600.0
"""How long one try of a transfer may take; the next goes on where it ended."""

PROGRESS_SECONDS = 1.0
"""Least time between two progress reports to the hub."""

CODES = frozenset(
    {
        "ManifestError",
        "DataError",
        "PlanError",
        "RefusedError",
        "UpdateError",
        "ConnectionLostError",
        "NoSpaceError",
        "InternalError",
    }
)
"""What a failure may be called outside; any other word of a trainer becomes `Failure`."""


class Courier:
    """Carries between the relay and the hub, over one connection. Each public method works until it is cancelled.

    Raises:
        FedstudyError: the connection is lost, or the hub is at fault; the work goes on over the next connection.
    """

    def __init__(self, stub: FederationStub, relay: Relay) -> None:
        self._stub = stub
        self._relay = relay
        self._blobs = relay.blobs

    async def fetch_inputs(self) -> None:
        """Have the inputs of new instructions here, so that the trainer may have them."""

        async def one(held: Held) -> None:
            for wanted in held.content.inputs:
                blob = Blob(wanted.digest, wanted.size)
                try:
                    await fetch(self._stub, blob, self._blobs, timeout=TRANSFER_SECONDS)
                except RefusedError as error:  # its stage closed meanwhile
                    log(_log, logging.WARNING, "input refused", instruction=held.id, reason=str(error))
                    self._relay.drop(held.id)
                    return
            self._relay.fetched(held.id)

        await self._each(self._relay.to_fetch, one)

    async def forward(self) -> None:
        """Hand in the answers, each until the hub accepts it, refuses it for good, or no longer wants it."""

        async def one(held: Held) -> None:
            if held.answer is None:
                raise PlanError(f"{held.id} has no answer to forward.")
            self._record_answer(held)
            try:
                await submit(
                    self._stub, held.id, held.answer, self._blobs, held.contribution, timeout=TRANSFER_SECONDS
                )
            except (ConnectionLostError, NoSpaceError):
                raise
            except FedstudyError as error:
                if error.exit_code == FedstudyError.exit_code:
                    raise  # a fault inside the hub: its word on the answer is still to come
                log(_log, logging.ERROR, "answer refused by the hub", instruction=held.id, reason=str(error))
                self._relay.forwarded(held.id, refusal=error)
            else:
                self._relay.forwarded(held.id)

        await self._each(self._relay.to_forward, one)

    async def _each(
        self, listed: Callable[[], list[Held]], work: Callable[[Held], Coroutine[Any, Any, None]]
    ) -> None:
        """Work off a list for ever, oldest first; what is cancelled meanwhile is left."""
        while True:
            changed = self._relay.changes.next()
            waiting = listed()
            if not waiting:
                await changed.wait()
                continue
            await until_first(work(waiting[0]), self._until_unwanted(waiting[0].id))

    async def _until_unwanted(self, instruction_id: str) -> None:
        await self._relay.until(lambda: not self._relay.wanted(instruction_id))

    async def report_progress(self) -> None:
        """Tell the hub the latest progress, at most once a second."""
        while True:
            changed = self._relay.changes.next()
            progress, self._relay.progress = self._relay.progress, None
            if progress is None:
                await changed.wait()
                continue
            if not self._relay.ledger.has("progress", progress.instruction_id):
                fields = {"fields": [field.name for field in pb.Progress.DESCRIPTOR.fields]}
                self._relay.record("progress", instruction=progress.instruction_id, fields=fields)
            self._relay.count_report(progress.instruction_id)
            await self._report(pb.ReportRequest(progress=progress))
            await asyncio.sleep(PROGRESS_SECONDS)

    async def report_failures(self) -> None:
        """Tell the hub that the trainer failed, each time once."""
        while True:
            changed = self._relay.changes.next()
            if not self._relay.failures:
                await changed.wait()
                continue
            told = outward(self._relay.failures[0], known=self._relay.wanted)
            fields = {"code": told.code, "final": told.final, **self._counted(told.instruction_id)}
            self._relay.record("failure", instruction=told.instruction_id, fields=fields)
            await self._report(pb.ReportRequest(failure=told))
            self._relay.failures.pop(0)

    async def _report(self, request: pb.ReportRequest) -> None:
        """A report that the hub does not want (its instruction is over) is no fault; a lost connection is."""
        try:
            await call(self._stub.Report(request, timeout=CALL_SECONDS))
        except ConnectionLostError:
            raise
        except FedstudyError as error:
            log(_log, logging.WARNING, "report refused by the hub", reason=str(error))

    def _record_answer(self, held: Held) -> None:
        """In the ledger before it leaves, once however often it is sent."""
        answer = held.answer
        if answer is None or self._relay.ledger.has("answer", held.id, answer.digest):
            return
        said = held.contribution
        contribution = {
            field.name: _plain(getattr(said, field.name)) for field in pb.Contribution.DESCRIPTOR.fields
        }
        self._relay.record(
            "answer",
            instruction=held.id,
            kind=pb.Kind.Name(held.content.kind),
            digest=answer.digest,
            size=answer.size,
            fields={**contribution, **self._counted(held.id)},
        )

    def _counted(self, instruction_id: str) -> dict[str, Any]:
        return {"progress_reports": self._relay.reports(instruction_id)}


def outward(failure: pb.Failure, *, known: Callable[[str], bool]) -> pb.Failure:
    """What the hub hears of a trainer's failure: its kind. Its message may speak of rows and stays in the hospital.

    Args:
        known: whether the hub gave such an instruction; any other id is a trainer's own text, and stays too.
    """
    about = failure.instruction_id if known(failure.instruction_id) else ""
    code = failure.code if failure.code in CODES else "Failure"
    message = f"The trainer failed with {code}; what happened is shown at the hospital."
    return pb.Failure(instruction_id=about, code=code, message=message, final=failure.final)


def federation(channel: grpc.aio.Channel) -> FederationStub:
    """The hub's service over a channel."""
    return FederationStub(channel)  # type: ignore[no-untyped-call]


async def call(awaitable: Awaitable[Reply]) -> Reply:
    """A reply, or the error that the other side raised.

    Raises:
        FedstudyError: as it was raised there.
    """
    try:
        return await awaitable
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _plain(value: float) -> float | str:
    """JSON has no NaN and no infinity; they are written as words."""
    return value if math.isfinite(value) else str(value)
