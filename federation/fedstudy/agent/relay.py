"""Store and forward: instructions from the hub to the trainer, answers from the trainer to the hub.

All is durable before it is acknowledged, so a kill at any moment loses nothing: an instruction that the hub sends again is
known by its id, and one that was answered is answered from the store, without the trainer. A site works on one instruction
at a time; a new one supersedes what the trainer has not answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedstudy.agent import disclosure
from fedstudy.agent.board import Board
from fedstudy.agent.changes import Changes
from fedstudy.agent.consent import Consent
from fedstudy.agent.ledger import Ledger
from fedstudy.agent.own_metrics import own_metrics
from fedstudy.agent.store import Held, Stage, Store, without_deadline
from fedstudy.errors import FedstudyError, PlanError, RefusedError, UpdateError
from fedstudy.logs import log
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.admin import Configure, DatasetProfile, SiteProgress
from fedstudy.wire.blobs import BlobStore

_log = logging.getLogger(__name__)

KEEP_ROUNDS = 2
"""Models and answers of so many latest rounds stay on disk, for a hub that asks again."""

MOST_CODE, MOST_MESSAGE, MOST_FAILURES = 64, 4000, 100
"""Characters of a failure that are kept, and failures that wait for the hub: a trainer must not fill the agent's memory."""

_DONE = (Stage.ANSWERED, Stage.ACCEPTED, Stage.REFUSED)


@dataclass(eq=False)
class TrainerStream:
    """One Follow stream of a trainer: which instructions it has got."""

    sent: set[str] = field(default_factory=set)


class Relay:
    """The agent's state: what the hub asked for, what the trainer answered, what the hospital sees of both."""

    def __init__(
        self, *, store: Store, blobs: BlobStore, ledger: Ledger, consent: Consent, board: Board
    ) -> None:
        self.blobs = blobs
        self.ledger = ledger
        self.consent = consent
        self.board = board
        self.changes = Changes()
        self.failures: list[pb.Failure] = []
        self.progress: pb.Progress | None = None
        self.closed = False
        self._store = store
        self._streams: set[TrainerStream] = set()
        self._uploads: list[set[str]] = []
        self._reports: dict[str, int] = {}
        profile = store.fact("profile")
        board.update(
            profile=DatasetProfile.model_validate_json(profile) if profile else None,
            failure=store.fact("failure").decode(),
            metrics=json.loads(store.fact("metrics") or b"{}"),
        )
        self.refresh()

    # --- the hospital's side -------------------------------------------------------------------------------------------

    def configure(self, wishes: Configure) -> None:
        """Take the hospital's wishes."""
        self.consent.configure(wishes)
        self.refresh()

    def offer(self, document: bytes, digest: str) -> None:
        """Take the plan that the hub offers. Another plan than before drops all work on the old one.

        Raises:
            PlanError: the plan is malformed or not the one that its digest names.
        """
        known = self.consent.offered
        if not self.consent.offer(document, digest):
            return
        if known is not None:
            log(_log, logging.WARNING, "the hub offers another plan", digest=digest, before=known.digest)
            self._store.forget_instructions()
            self._set_failure("")
            self.progress = None
            self._show_profile(None)
            self._show_metrics({})
        self.refresh()

    # --- the hub's side ------------------------------------------------------------------------------------------------

    def receive(self, instruction: pb.Instruction) -> None:
        """Take an instruction from the hub, perhaps again.

        Raises:
            PlanError: the id was given before with other content, or the kind is unknown.
        """
        if instruction.kind == pb.CANCEL:
            self._cancel(str(parameters(instruction).get("instruction", "")))
        elif instruction.kind == pb.KIND_UNSPECIFIED or instruction.kind not in pb.Kind.values():
            raise PlanError(f"The hub sent {instruction.id!r}, of a kind that this release does not know.")
        elif (held := self._store.get(instruction.id)) is None:
            self._supersede(instruction.id)
            self._store.receive(instruction)
        else:
            self._again(held, instruction)
        self.refresh()

    def to_fetch(self) -> list[Held]:
        """Instructions whose inputs are still to be fetched."""
        return self._store.at(Stage.RECEIVED)

    def fetched(self, instruction_id: str) -> None:
        """All inputs of an instruction are in the blob store: the trainer may have it."""
        held = self._store.get(instruction_id)
        if held is not None and held.stage is Stage.RECEIVED:
            self._store.move(instruction_id, Stage.OFFERED)
            self._collect()
            self.refresh()

    def drop(self, instruction_id: str) -> None:
        """The hub does not want an instruction any more."""
        self._cancel(instruction_id)
        self.refresh()

    def to_forward(self) -> list[Held]:
        """Answers on their way to the hub."""
        return self._store.at(Stage.ANSWERED)

    def forwarded(self, instruction_id: str, *, refusal: FedstudyError | None = None) -> None:
        """The hub has accepted an answer, or refused it for good."""
        held = self._store.get(instruction_id)
        if held is None or held.stage is not Stage.ANSWERED:
            return
        self._store.move(instruction_id, Stage.REFUSED if refusal else Stage.ACCEPTED)
        if refusal and not isinstance(refusal, RefusedError):  # one that came too late is no failure
            self._set_failure(f"The hub refused the answer to {instruction_id}: {refusal}")
        self._collect()
        self.refresh()

    def wanted(self, instruction_id: str) -> bool:
        """Whether the hub still waits for an instruction's answer, as far as is known here."""
        held = self._store.get(instruction_id)
        return held is not None and held.stage is not Stage.CANCELLED

    # --- the trainer's side --------------------------------------------------------------------------------------------

    def open_stream(self) -> TrainerStream:
        """A trainer follows."""
        stream = TrainerStream()
        self._streams.add(stream)
        return stream

    def close_stream(self, stream: TrainerStream) -> None:
        """A trainer is gone."""
        self._streams.discard(stream)
        self.refresh()

    def next_for(self, stream: TrainerStream) -> pb.Instruction | None:
        """What a trainer's stream is to get next: a CANCEL of what it should no longer do, or an instruction."""
        offered = {held.id: held for held in self._store.at(Stage.OFFERED)} if self.consent.given else {}
        for gone in sorted(stream.sent - set(offered)):
            held = self._store.get(gone)
            if held is None or held.stage not in _DONE:
                document = json.dumps({"instruction": gone}).encode()
                return pb.Instruction(id=f"cancel-{gone}", kind=pb.CANCEL, parameters=document)
            stream.sent.discard(gone)
        return next((held.timed() for held in offered.values() if held.id not in stream.sent), None)

    def sent(self, stream: TrainerStream, instruction: pb.Instruction) -> None:
        """A trainer's stream has taken what `next_for` gave."""
        if instruction.kind == pb.CANCEL:
            stream.sent.discard(str(parameters(instruction)["instruction"]))
        else:
            stream.sent.add(instruction.id)
        self.refresh()

    def lent(self, digest: str) -> bool:
        """Whether a trainer may fetch a blob: an input of what it has to do."""
        held = self._store.at(Stage.OFFERED) if self.consent.given else []
        return any(digest == i.digest for one in held for i in one.content.inputs)

    def answered(self, instruction_id: str) -> bool:
        """Whether the answer to an instruction is durable here.

        Raises:
            RefusedError: there is no such instruction, or it is no longer wanted.
        """
        held = self._store.get(instruction_id)
        if held is None or held.stage not in (Stage.OFFERED, *_DONE) or held.content.kind == pb.FINISH:
            raise RefusedError(
                f"No answer to {instruction_id!r} is wanted.",
                "It was cancelled or never given; follow for the next one.",
            )
        return held.stage in _DONE

    @contextmanager
    def uploads(self) -> Iterator[set[str]]:
        """Digests put into the set are kept in the blob store until the end of the block, wanted or not."""
        kept: set[str] = set()
        self._uploads.append(kept)
        try:
            yield kept
        finally:
            self._uploads.remove(kept)
            self._collect()

    async def accept(self, header: pb.SubmitHeader) -> None:
        """Take an answer whose bytes are in the blob store: check it for disclosure, then keep it durably.

        Raises:
            UpdateError: it holds what is not declared, or is not finite; it is not kept and never leaves.
            RefusedError: the instruction is no longer wanted.
        """
        if self.answered(header.instruction_id):
            return
        metrics = await self._check(header)
        if self.answered(
            header.instruction_id
        ):  # the check takes time: it may be cancelled or answered by now
            return
        header.contribution.DiscardUnknownFields()  # what is not declared does not leave
        self._store.answer(header.instruction_id, Blob(header.digest, header.size), header.contribution)
        self._set_failure("")
        self.progress = None
        if metrics:
            self._show_metrics(metrics)
        self.refresh()

    def report_progress(self, progress: pb.Progress) -> None:
        """A trainer says how far it is."""
        held = self._store.get(progress.instruction_id)
        if held is None or held.stage is not Stage.OFFERED:
            return
        progress.DiscardUnknownFields()  # what is not declared does not leave
        self.progress = progress
        self.board.update(
            progress=SiteProgress(
                instruction_id=progress.instruction_id,
                samples_done=progress.samples_done,
                samples_total=progress.samples_total,
                loss=_finite(progress.loss),
                seconds_left=_finite(progress.seconds_left),
                samples_per_second=_finite(progress.samples_per_second),
            )
        )
        self.changes.notify()

    def report_failure(self, failure: pb.Failure) -> None:
        """A trainer says that it failed. Its message stays in the hospital, since it may speak of rows; its code goes on."""
        code, message = failure.code[:MOST_CODE], failure.message[:MOST_MESSAGE]
        self._set_failure(f"{code}: {message}")
        if len(self.failures) < MOST_FAILURES or failure.final:
            told = pb.Failure(
                instruction_id=failure.instruction_id[:MOST_MESSAGE], code=code, final=failure.final
            )
            self.failures = [*self.failures[1 - MOST_FAILURES :], told]
        self.refresh()

    def report_profile(self, profile: DatasetProfile) -> None:
        """A preflight's findings; they stay in the hospital."""
        self._show_profile(profile)

    def close(self) -> None:
        """End the trainers' streams: the agent stops."""
        self.closed = True
        self.changes.notify()

    # --- what is shown -------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the study is over for this site."""
        return self._finish() is not None

    def refresh(self) -> None:
        """Show the state as it is now, and wake all who wait for it to change."""
        verdict, offered = self.consent.verdict(), self.consent.offered
        current = self._current()
        self.board.update(
            plan_digest=offered.digest if offered else "",
            plan=offered.document.decode() if offered else "",
            approved=verdict.approved,
            approval_reason=verdict.reason.value,
            violations=[violation.message for violation in self.consent.violations()],
            work=self._work(),
            finished=self.finished,
            ledger_head=str(self.ledger.head),
            bytes_sent=self.ledger.bytes_sent,
            round=max(self.board.state.round, current.content.round) if current else self.board.state.round,
        )
        self.changes.notify()

    def record(self, what: str, **entry: Any) -> None:
        """Write into the ledger (arguments as `Ledger.append`) what is about to leave, and note the head outside of it.

        Raises:
            NoSpaceError: the disk is full; it must not leave.
        """
        self.ledger.append(what, **entry)
        self.note_head()

    def note_head(self) -> None:
        """Note the ledger's head outside of it, so that a truncation shows."""
        self._store.set_fact("ledger", str(self.ledger.head).encode())
        self.board.update(ledger_head=str(self.ledger.head), bytes_sent=self.ledger.bytes_sent)

    def count_report(self, instruction_id: str) -> None:
        """One more progress report on an instruction left."""
        self._reports[instruction_id] = self._reports.get(instruction_id, 0) + 1

    def reports(self, instruction_id: str) -> int:
        """How many progress reports on an instruction left, since the agent started."""
        return self._reports.pop(instruction_id, 0)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of this state."""
        while True:
            changed = self.changes.next()
            if holds():
                return
            await changed.wait()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _current(self) -> Held | None:
        held = self._store.at(Stage.OFFERED, Stage.RECEIVED, *_DONE)
        return held[-1] if held else None

    def _finish(self) -> Held | None:
        return next((h for h in self._store.at(Stage.OFFERED) if h.content.kind == pb.FINISH), None)

    def _work(self) -> str:
        if not self.consent.given:
            return ""
        if (finish := self._finish()) is not None:
            return finish.id if any(finish.id not in stream.sent for stream in self._streams) else ""
        held = self._store.at(Stage.OFFERED)
        return held[0].id if held else ""

    def _cancel(self, instruction_id: str) -> None:
        held = self._store.get(instruction_id)
        if held is not None and held.stage not in (Stage.ACCEPTED, Stage.REFUSED):
            self._store.move(instruction_id, Stage.CANCELLED)
            self._collect()

    def _supersede(self, newer: str) -> None:
        for held in self._store.at(Stage.RECEIVED, Stage.OFFERED):
            if held.id != newer:
                log(_log, logging.INFO, "superseded", instruction=held.id, by=newer)
                self._store.move(held.id, Stage.CANCELLED)

    def _again(self, held: Held, instruction: pb.Instruction) -> None:
        if held.content != without_deadline(instruction):
            raise PlanError(
                f"The hub sent {instruction.id!r} again with other content; it was not run.",
                "The hub's aggregator is at fault; tell the hub's administrator.",
            )
        self._store.set_deadline(instruction)
        if held.answer is not None and self.blobs.has(held.answer.digest):
            self._store.move(held.id, Stage.ANSWERED)
        elif held.stage in (Stage.CANCELLED, *_DONE):
            self._supersede(held.id)
            self._store.move(held.id, Stage.RECEIVED)

    async def _check(self, header: pb.SubmitHeader) -> dict[str, float]:
        """Check an answer for disclosure; the metrics that an evaluation gives."""
        held, offered = self._store.get(header.instruction_id), self.consent.offered
        if held is None or offered is None:
            raise RefusedError(f"No answer to {header.instruction_id!r} is wanted.")
        model = held.input("model")
        try:
            return await asyncio.to_thread(
                _examine,
                self.blobs.path(header.digest),
                held.content,
                offered.plan,
                self.blobs.path(model.digest) if model else None,
            )
        except UpdateError as error:
            log(_log, logging.ERROR, "answer not sent", instruction=held.id, reason=error.message)
            self.report_failure(
                pb.Failure(instruction_id=held.id, code="UpdateError", message=str(error), final=False)
            )
            raise

    def _collect(self) -> None:
        """Forget old rounds, and delete the blobs that nothing needs any more."""
        self._store.prune(KEEP_ROUNDS)
        wanted = self._store.wanted_blobs().union(*self._uploads)
        for digest in self.blobs.digests() - wanted:
            self.blobs.delete(digest)

    def _set_failure(self, failure: str) -> None:
        self._store.set_fact("failure", failure.encode())
        self.board.update(failure=failure)

    def _show_metrics(self, metrics: dict[str, float]) -> None:
        self._store.set_fact("metrics", json.dumps(metrics).encode())
        self.board.update(metrics=metrics)

    def _show_profile(self, profile: DatasetProfile | None) -> None:
        self._store.set_fact("profile", profile.model_dump_json(by_alias=True).encode() if profile else b"")
        self.board.update(profile=profile)


def _examine(
    answer: Path, instruction: pb.Instruction, plan: StudyPlan, model: Path | None
) -> dict[str, float]:
    disclosure.check(answer, instruction, plan, model)
    if instruction.kind != pb.EVALUATE or model is None:
        return {}
    return own_metrics(answer, plan, model)


def parameters(instruction: pb.Instruction) -> dict[str, object]:
    """An instruction's parameters.

    Raises:
        PlanError: they are not a JSON object.
    """
    try:
        document = json.loads(instruction.parameters or b"{}")
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise PlanError(f"The parameters of {instruction.id!r} are not a JSON object.")
    return document


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
