"""A trainer's life: take the plan, open the data, answer instructions one at a time, end in order."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedstudy.errors import ConnectionLostError, FedstudyError, NoSpaceError
from fedstudy.logs import log
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.federation_pb2_grpc import FederationStub
from fedstudy.wire.transfer import fetch, submit
from fedstudy_trainer.connection import connected, instructions, offered_plan, parameters_of
from fedstudy_trainer.contribution import Contribution, Trained
from fedstudy_trainer.reporting import Reporter, alive, failure, report
from fedstudy_trainer.settings import Release, Settings
from fedstudy_trainer.threads import in_thread
from fedstudy_trainer.work import Cancelled, Worker

TRANSFER_SECONDS = 3600.0
"""Limit of a transfer where the instruction has no deadline."""

ROOM_SECONDS = 2.0
"""How often a full disk is tried again."""

_log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Serve the agent until the study is over, or until one answer is handed over (release BetweenRounds).

    Raises:
        FedstudyError: what makes going on impossible; it has been reported to the agent where that can be reached.
    """
    async with connected(settings) as stub:
        plan, digest = await offered_plan(stub, settings)
        log(_log, logging.INFO, "plan taken", study=plan.study, digest=digest)
        try:
            async with alive(stub):  # opening the data may take long
                worker = await in_thread(lambda: Worker(settings, plan))
        except Exception as error:
            await report(stub, failure("", error))
            raise
        session = _Session(settings, stub, worker)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(session.read(digest))
                await session.work()
                reading.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None


@dataclass(frozen=True)
class _Answer:
    blob: Blob
    contribution: Contribution


class _Session:
    """Instructions between the stream that brings them and the work that answers them."""

    def __init__(self, settings: Settings, stub: FederationStub, worker: Worker) -> None:
        self._settings = settings
        self._stub = stub
        self._worker = worker
        self._store = BlobStore(settings.scratch / "blobs")
        self._queue: asyncio.Queue[pb.Instruction] = asyncio.Queue()
        self._stops: dict[str, threading.Event] = {}  # of instructions that are queued or under way
        self._unwanted: set[str] = set()  # of those, the ones that were cancelled
        self._again: dict[str, pb.Instruction] = {}  # and of these, the ones that are wanted after all
        self._answers: dict[str, _Answer] = {}

    async def read(self, digest: str) -> None:
        """Put what the stream brings into the queue; an instruction that is there already is not put twice."""
        async for instruction in instructions(self._stub, digest, self._settings, lambda: bool(self._stops)):
            if instruction.kind == pb.Kind.CANCEL:
                unwanted = str(parameters_of(instruction).get("instruction", ""))
                if unwanted in self._stops:
                    self._stops[unwanted].set()
                    self._unwanted.add(unwanted)
                    self._again.pop(unwanted, None)
            elif instruction.id not in self._stops:
                self._put(instruction)
            elif instruction.id in self._unwanted:
                self._again[instruction.id] = instruction

    def _put(self, instruction: pb.Instruction) -> None:
        self._stops[instruction.id] = threading.Event()
        self._queue.put_nowait(instruction)

    async def work(self) -> None:
        """Answer instructions until FINISH, or until one is done with and the trainer is to give its place back."""
        while True:
            instruction = await self._next()
            if instruction is None:
                return
            if instruction.kind == pb.Kind.FINISH:
                self._worker.forget_round()
                return
            try:
                await self._answer_given_room(instruction)
            except Cancelled:  # its checkpoint stays: a hospital that suspends cancels too, and asks again
                log(_log, logging.INFO, "cancelled", instruction=instruction.id)
            except Exception as error:
                await report(self._stub, failure(instruction.id, error))
                if not self._goes_on_after(error):
                    raise
                log(_log, logging.ERROR, "failed", instruction=instruction.id, message=str(error))
            finally:
                self._done_with(instruction.id)
            if self._settings.release is Release.BETWEEN_ROUNDS:
                return

    def _done_with(self, instruction_id: str) -> None:
        """The work on an instruction has ended, one way or another; where it is wanted again by now, it begins again."""
        del self._stops[instruction_id]
        self._unwanted.discard(instruction_id)
        if (again := self._again.pop(instruction_id, None)) is not None:
            self._put(again)

    async def _next(self) -> pb.Instruction | None:
        """The next instruction; None when a trainer that should not idle has idled long enough."""
        if self._settings.release is Release.NEVER:
            return await self._queue.get()
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                return await self._queue.get()
        except TimeoutError:
            log(_log, logging.INFO, "no work came", seconds=self._settings.connect_timeout)
            return None

    def _goes_on_after(self, error: Exception) -> bool:
        """Whether the next instruction may succeed; a fault of ours, or of the data, would only come again."""
        passing = isinstance(error, FedstudyError) and not failure("", error).failure.final
        lost = isinstance(error, ConnectionLostError)
        return passing and not lost and self._settings.release is Release.NEVER

    async def _answer_given_room(self, instruction: pb.Instruction) -> None:
        """Answer; while a disk is full, ours or the agent's, try again until the instruction is cancelled."""
        while True:
            try:
                return await self._answer(instruction)
            except NoSpaceError as error:
                await report(self._stub, failure(instruction.id, error))
                log(_log, logging.WARNING, "waits for room", instruction=instruction.id, message=str(error))
            self._stops[instruction.id] = threading.Event()  # the one before has ended the try before
            await asyncio.sleep(ROOM_SECONDS)

    async def _answer(self, instruction: pb.Instruction) -> None:
        seconds = float(instruction.deadline_seconds) or TRANSFER_SECONDS
        if instruction.id not in self._answers:
            stop = self._stops[instruction.id]
            if stop.is_set():
                raise Cancelled("The instruction was cancelled before it began.")
            trained = await self._do(instruction, stop, seconds)
            metadata = {"instruction": instruction.id, "kind": pb.Kind.Name(instruction.kind)}
            async with alive(self._stub):
                blob = await in_thread(lambda: self._store.add_tensors(trained.tensors, metadata))
            self._answers = {instruction.id: _Answer(blob, trained.contribution)}
        answer = self._answers[instruction.id]
        async with alive(self._stub):
            await submit(
                self._stub,
                instruction.id,
                answer.blob,
                self._store,
                _message(answer.contribution),
                timeout=seconds,
            )
        log(_log, logging.INFO, "answered", instruction=instruction.id, bytes=answer.blob.size)
        self._worker.forget_round()
        self._forget_all_but({answer.blob.digest, *(item.digest for item in instruction.inputs)})

    async def _do(self, instruction: pb.Instruction, stop: threading.Event, seconds: float) -> Trained:
        reporter = Reporter(self._stub, instruction.id)
        async with reporter.reporting():
            inputs = await self._fetched(instruction, seconds)
            parameters = parameters_of(instruction)
            log(_log, logging.INFO, "working", instruction=instruction.id, **parameters)
            try:
                return await in_thread(
                    lambda: self._worker.do(
                        instruction.id,
                        instruction.kind,
                        inputs,
                        parameters,
                        progress=reporter.note,
                        stop=stop,
                    )
                )
            finally:
                stop.set()  # when this wait is cancelled, the thread ends with its step

    async def _fetched(self, instruction: pb.Instruction, seconds: float) -> Mapping[str, Path]:
        return {
            item.name: await fetch(self._stub, Blob(item.digest, item.size), self._store, timeout=seconds)
            for item in instruction.inputs
        }

    def _forget_all_but(self, wanted: set[str]) -> None:
        for digest in self._store.digests() - wanted:
            self._store.delete(digest)


def _message(contribution: Contribution) -> pb.Contribution:
    return pb.Contribution(
        samples=contribution.samples,
        events=contribution.events,
        steps=contribution.steps,
        seconds=contribution.seconds,
        loss=contribution.loss,
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that made the others happen, for a person a group says too much."""
    known = errors.subgroup(FedstudyError)
    first: BaseException = (known or errors).exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
