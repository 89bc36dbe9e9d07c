"""The running study: gives events to the round machine, writes each step down, and works up closed stages off the loop.

All state changes happen on the event loop, between two awaits: step, commit, then the new state is the state. What is
committed is on disk; only then is an answer acknowledged or an instruction sent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedstudy.aggregator.algorithms import algorithm
from fedstudy.aggregator.algorithms.base import Share
from fedstudy.aggregator.bell import Bell
from fedstudy.aggregator.calls import asks_anew
from fedstudy.aggregator.evaluate import watched_metric
from fedstudy.aggregator.folding import Product, work_up
from fedstudy.aggregator.records import (
    Statement,
    notes_of,
    product_statements,
    round_statement,
    statements_of,
)
from fedstudy.aggregator.rounds import Rules, accepts, next_moment, open_stage, step
from fedstudy.aggregator.state import (
    Alive,
    Answered,
    Closed,
    Effect,
    Event,
    Failed,
    Folded,
    Restarted,
    RoundClosed,
    SitesSet,
    Stage,
    State,
    Tick,
)
from fedstudy.aggregator.store import AnswerRow, Note, Store
from fedstudy.aggregator.verify import size_limit, verify
from fedstudy.errors import ConnectionLostError, FedstudyError, NoSpaceError, RefusedError, UpdateError
from fedstudy.logs import log
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Blob
from fedstudy.wire.admin import SiteProgress
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.federation_pb2 import Contribution, SubmitHeader

_logger = logging.getLogger(__name__)

TOGETHER = 0.01
"""Seconds for which an answer that is ready waits for others that are just being verified, to share their commit."""

RETRY_SECONDS = 2.0
"""How often a full disk is tried again."""


@dataclass(frozen=True)
class Change:
    """A step, and what is written down with it."""

    event: Event
    notes: tuple[Note, ...] = ()
    answer: AnswerRow | None = None
    statements: tuple[Statement, ...] = ()


class Engine:
    """One study. `run` has to be running for closed stages and deadlines to be worked off.

    Attributes:
        state: the round machine's state; replaced, never changed.
        bell: rings after every change.
        calls: rings when a site may have to be told something.
        progress: site → what its trainer last said; kept in memory only.
        remarks: site → its last failure that was not final.
        stopping: the process is about to end; streams end themselves.
        folds: how many stages were worked up since the start, and the seconds that it took.
        trouble: what holds the study up (a full disk), None when nothing does.
    """

    def __init__(
        self,
        plan: StudyPlan,
        folder: Path,
        *,
        sites: Sequence[str],
        required: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the study's folder, or begin a new study in it.

        Raises:
            PlanError: the algorithm does not know a parameter, or the folder holds another plan.
            NoSpaceError: the disk is full.
        """
        self.plan, self.folder, self.clock = plan, folder, clock
        self.algorithm = algorithm(plan)
        self.rules = Rules.of(plan, self.algorithm.stages)
        self.plan_digest = str(plan.digest())
        self.store = Store(folder, plan=plan.canonical(), digest=self.plan_digest)
        self.blobs = BlobStore(folder / "blobs")
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        for left in self.scratch.iterdir():  # of a fold that was under way when the process died
            left.unlink()
        self.bell, self.calls = Bell(), Bell()
        self._norms: tuple[str, list[float]] = ("", [])
        self._limit: tuple[str, int] = ("", 0)
        self._ready: list[tuple[Change, asyncio.Future[None]]] = []
        self.progress: dict[str, SiteProgress] = {}
        self.remarks: dict[str, str] = {}
        self.stopping = False
        self.trouble: NoSpaceError | None = None
        self.traffic: dict[str, tuple[int, int]] = {}
        self._examined: dict[str, int] = {}  # digest → how many submissions of it are being verified
        self.refusals = self.store.refusals()
        self.folds = (0, 0.0)
        self.metrics = self.store.latest_evaluation("validation") or {}
        self._mark = self.traffic_total()
        known = self.store.load()
        self.state = known or State()
        if known is None:
            self.apply(SitesSet(clock(), tuple(sites), tuple(required)))
        else:
            self.apply(Restarted(clock()), notes=[("Restarted", {})])
            self._drop(self.blobs.digests())

    # Steps

    def apply(
        self,
        event: Event,
        *,
        notes: Sequence[Note] = (),
        answer: AnswerRow | None = None,
        statements: Sequence[Statement] = (),
    ) -> None:
        """Take one step, durably. On an error nothing has happened.

        Raises:
            NoSpaceError: the disk is full.
        """
        self.take([Change(event, tuple(notes), answer, tuple(statements))])

    def take(self, changes: Sequence[Change]) -> None:
        """Take some steps in one transaction: all of them, or none.

        Raises:
            NoSpaceError: the disk is full.
        """
        state, told, happened = self.state, list[Note](), list[Effect]()
        notes, answers, rows = list[Note](), list[AnswerRow](), list[Statement]()
        for change in changes:
            state, effects = step(self.rules, state, change.event)
            happened += effects
            told += notes_of(effects, state)
            notes += [*change.notes, *notes_of(effects, state)]
            answers += [change.answer] if change.answer is not None else []
            rows += [*change.statements, *statements_of(effects, state, change.event.now)]
            rows += [self._round_row(e, state, effects) for e in effects if isinstance(e, RoundClosed)]
        if state == self.state and not (notes or answers or rows):
            return
        closed = any(isinstance(effect, RoundClosed) for effect in happened)
        traffic = self.traffic if closed else {}
        self.store.commit(state, notes, answers=answers, statements=rows, traffic=traffic)
        self.traffic = {} if closed else self.traffic
        for kind, detail in told:
            log(_logger, logging.INFO, kind, **detail)
        before, self.state = self.state, state
        self.hold(None)
        self.bell.ring()
        if asks_anew(before, state):
            self.calls.ring()

    async def _count_in(self, change: Change) -> None:
        """Take an answer in, together with all others that are ready at about the same time: they share one commit.

        Raises:
            RefusedError: the instruction was closed meanwhile.
            NoSpaceError: the disk is full; nothing of it has happened.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._ready.append((change, done))
        if len(self._ready) == sum(self._examined.values()):
            loop.call_soon(self._count_ready_in)
        elif len(self._ready) == 1:
            loop.call_later(TOGETHER, self._count_ready_in)
        await done

    def _count_ready_in(self) -> None:
        ready, self._ready = self._ready, []
        if not ready:
            return  # they went with the one before
        taken: dict[str, tuple[Change, asyncio.Future[None]]] = {}
        for change, done in ready:
            answer = change.answer
            assert answer is not None
            try:
                self.require_open(answer.site, answer.instruction)
                if answer.instruction in taken:
                    raise RefusedError(f"The instruction {answer.instruction} was answered a moment ago.")
                taken[answer.instruction] = (change, done)
            except FedstudyError as error:
                _tell(done, error)
        try:
            self.take([change for change, _ in taken.values()])
        except BaseException as error:  # noqa: BLE001 - raised where each of them waits
            for _, done in taken.values():
                _tell(done, error)
            return
        for _, done in taken.values():
            _tell(done)

    def _round_row(self, closed: RoundClosed, state: State, effects: Sequence[object]) -> Statement:
        now, mark = self.traffic_total(), self._mark
        self._mark = now
        missing = {s: why for e in effects if isinstance(e, Closed) for s, why in e.missing.items()}
        return round_statement(closed, state, self.store, (now[0] - mark[0], now[1] - mark[1]), missing)

    async def run(self) -> None:
        """Work until cancelled: deadlines, and the folding of closed stages."""
        while True:
            ring = self.bell.next()
            try:
                stage = self.state.stage
                if stage is not None and stage.closing:
                    await self._work_up(stage)
                    continue
                self.apply(Tick(self.clock()))
                await _wait(ring, self._seconds_to_next())
            except NoSpaceError as error:
                self.hold(error)
                await asyncio.sleep(RETRY_SECONDS)

    def _seconds_to_next(self) -> float | None:
        moment = next_moment(self.rules, self.state, now := self.clock())
        return None if moment is None else max(0.0, min(moment - now, 3600.0))

    async def _work_up(self, stage: Stage) -> None:
        try:
            answers = [row for row in self.store.answers(stage.id) if row.site in stage.answers]
            began = time.monotonic()
            product = await asyncio.to_thread(
                work_up, stage, answers, self.plan, self.algorithm, self.blobs, self.scratch
            )
            self.folds = (self.folds[0] + 1, self.folds[1] + time.monotonic() - began)
        except NoSpaceError:
            raise
        except (FedstudyError, ValueError, ArithmeticError, IndexError) as error:
            # A fold of numbers that contradict each other must not end the process: it would end again after each restart.
            log(
                _logger,
                logging.ERROR,
                "FoldFailed",
                stage=stage.id,
                error=type(error).__name__,
                message=str(error),
            )
            self.apply(Folded(self.clock(), stage.id, failure=f"{stage.id} could not be folded: {error}"))
            return
        self._take_product(stage, product)
        spent = {row.blob.digest for row in answers} | {blob.digest for blob in stage.inputs.values()}
        await asyncio.sleep(0)  # the sites hear of the next stage first
        self._drop(spent)

    def _take_product(self, stage: Stage, product: Product) -> None:
        metric, notes = None, list[Note]()
        if product.evaluation is not None:
            found = product.evaluation
            rule = self.rules.stop_when
            metric = watched_metric(found.metrics, rule.metric) if rule is not None else None
            notes.append(
                ("Evaluated", {"round": stage.round, "split": stage.split, "metrics": found.metrics})
            )
        self.apply(
            Folded(self.clock(), stage.id, model=product.model, statistics=product.statistics, metric=metric),
            notes=notes,
            statements=product_statements(stage, product),
        )
        if product.evaluation is not None and stage.split == "validation":
            self.metrics = product.evaluation.model_dump(mode="json", by_alias=True)
            self.bell.ring()

    def _drop(self, digests: set[str]) -> None:
        """Delete blobs that nothing needs any more. On the loop, so that no answer can arrive in between."""
        state = self.state
        wanted = self.store.kept_digests()
        wanted |= {blob.digest for blob in (state.model, state.statistics) if blob is not None}
        if state.stage is not None:
            wanted |= {blob.digest for blob in state.stage.inputs.values()}
            wanted |= {row.blob.digest for row in self.store.answers(state.stage.id)}
        for digest in digests - wanted - self._examined.keys():
            self.blobs.delete(digest)

    def hold(self, error: NoSpaceError | None) -> None:
        """Show that a full disk holds the study up; None: it does not, something was written."""
        if error is not None:
            self.blobs.make_room()
        if (error is None) != (self.trouble is None):
            log(_logger, logging.WARNING, "NoSpace" if error else "SpaceAgain", message=str(error or ""))
            self.trouble = error
            self.bell.ring()

    # Answers

    def expect(self, site: str, header: SubmitHeader) -> Blob:
        """The blob that a site may send now in answer to an instruction.

        Raises:
            RefusedError: the instruction is not, or no longer, open for the site.
            UpdateError: the answer is larger than any valid one.
        """
        self.require_open(site, header.instruction_id)
        stage = self.state.stage
        limit = self._size_limit(stage) if stage else 0
        if header.size > limit:
            raise UpdateError(
                f"The answer has {header.size} bytes; {limit} is the most for {header.instruction_id}."
            )
        return Blob(header.digest, header.size)

    def require_open(self, site: str, instruction: str) -> None:
        """Pass if a site's answer to an instruction would count.

        Raises:
            RefusedError: it would not.
        """
        if accepts(self.state, site, instruction):
            return
        if site in self.state.late:
            self.apply(Alive(self.clock(), site))
        raise RefusedError(
            f"The instruction {instruction} is not open for {site}: it was answered, closed, or never given.",
            "Drop this answer and follow the next instruction.",
        )

    async def accept(self, site: str, header: SubmitHeader) -> None:
        """Verify a spooled answer and count it; it is durable on return. A second time is no fault.

        Raises:
            UpdateError: the answer may not count; the refusal is recorded, and the site missing from this stage.
            RefusedError: the instruction was closed meanwhile.
            NoSpaceError: the disk is full; the answer may be submitted again.
            ConnectionLostError: the bytes were dropped with another submission of them; they have to come again.
        """
        digest, spoiled = header.digest, False
        if not self.blobs.has(digest):
            raise ConnectionLostError(f"{digest} is not here any more.", "Submit it again.")
        self._examined[digest] = self._examined.get(digest, 0) + 1
        try:
            await self._accept(site, header)
        except (UpdateError, RefusedError):
            spoiled = True
            raise
        finally:
            self._examined[digest] -= 1
            if not self._examined[digest]:
                del self._examined[digest]
            if spoiled:
                self._drop({digest})

    async def _accept(self, site: str, header: SubmitHeader) -> None:
        stage = self.state.stage
        self.require_open(site, header.instruction_id)
        assert stage is not None
        try:
            norm = await asyncio.to_thread(
                verify, self.blobs.path(header.digest), stage, self.plan, self.algorithm,
                self.input_path(stage), self._norms_before(stage),
            )  # fmt: skip
            share = contribution_share(site, header.contribution)
        except UpdateError as error:
            self.refuse_update(site, header.instruction_id, error)
            raise
        c = header.contribution
        row = AnswerRow(
            header.instruction_id, stage.id, site, Blob(header.digest, header.size), share.samples, share.events,
            c.steps, c.seconds, c.loss if math.isfinite(c.loss) else None, norm,
        )  # fmt: skip
        detail = {
            "instruction": row.instruction,
            "site": site,
            "digest": row.blob.digest,
            "size": row.blob.size,
            "samples": row.samples,
            "events": row.events,
        }
        event = Answered(self.clock(), site, header.instruction_id, share)
        await self._count_in(Change(event, (("AnswerAccepted", detail),), row))
        self.progress.pop(site, None)
        self.remarks.pop(site, None)

    def _size_limit(self, stage: Stage) -> int:
        """The same for all answers to a stage, so found once."""
        if self._limit[0] != stage.id:
            limit = size_limit(stage, self.plan, self.algorithm, self.input_path(stage))
            self._limit = (stage.id, limit)
        return self._limit[1]

    def _norms_before(self, stage: Stage) -> list[float]:
        """Norms of the updates of closed stages: the same for all answers to a stage, so read once."""
        if self._norms[0] != stage.id:
            self._norms = (stage.id, self.store.norms())
        return self._norms[1]

    def fail(self, site: str, instruction: str, code: str, message: str) -> None:
        """A site says that it will not answer; without an instruction it means the open one."""
        stage = open_stage(self.state, site)
        about = instruction or (stage.instruction(site) if stage is not None else "")
        self.progress.pop(site, None)
        detail = {"site": site, "instruction": about, "code": code, "message": message}
        self.apply(Failed(self.clock(), site, about, code, message), notes=[("SiteFailed", detail)])

    def refuse_update(self, site: str, instruction: str, error: UpdateError) -> None:
        """Record a refused answer; the site counts as missing from the stage."""
        self.record_refusal(f"site/{site}", f"Submit {instruction}", error.message)
        self.apply(Failed(self.clock(), site, instruction, "UpdateRefused", error.message))

    def record_refusal(self, peer: str, method: str, reason: str) -> None:
        """Count and write down a refusal."""
        log(_logger, logging.WARNING, "Refused", peer=peer, method=method, reason=reason)
        self.store.refuse(peer=peer, method=method, reason=reason)
        self.refusals += 1
        self.bell.ring()

    def input_path(self, stage: Stage | None) -> Path | None:
        """Where the stage's model is."""
        model = stage.inputs.get("model") if stage is not None else None
        return self.blobs.path(model.digest) if model is not None else None

    def may_fetch(self, site: str, digest: str) -> bool:
        """Whether the site's open instruction names a blob."""
        stage = open_stage(self.state, site)
        return stage is not None and any(blob.digest == digest for blob in stage.inputs.values())

    # Traffic

    def count(self, site: str, *, received: int = 0, sent: int = 0) -> None:
        """Count bytes of blobs from and to a site."""
        before = self.traffic.get(site, (0, 0))
        self.traffic[site] = (before[0] + received, before[1] + sent)

    def flush_traffic(self) -> None:
        """Write the counts down."""
        counts, self.traffic = self.traffic, {}
        if counts:
            self.store.traffic(counts)

    def traffic_total(self) -> tuple[int, int]:
        """Bytes received from and sent to all sites so far."""
        rows = [entry[1:] for entry in self.store.sites().values()]
        pairs = [*rows, *self.traffic.values()]
        return sum(p[0] for p in pairs), sum(p[1] for p in pairs)

    def stop(self) -> None:
        """Let all streams end."""
        self.stopping = True
        self.bell.ring()
        self.calls.ring()

    def require_running(self) -> None:
        """Pass unless the process is about to end.

        Raises:
            ConnectionLostError: it is; the peer will find the next one.
        """
        if self.stopping:
            raise ConnectionLostError("The aggregator is stopping.", "Nothing is lost: connect again.")

    def close(self) -> None:
        """Write down what is in memory and close the database."""
        self.flush_traffic()
        self.store.close()


def contribution_share(site: str, contribution: Contribution) -> Share:
    """What a site says it contributed.

    Raises:
        UpdateError: a count is impossible.
    """
    if contribution.samples > 1 << 40 or contribution.events > 1 << 40:
        raise UpdateError(f"The answer claims {contribution.samples} cases and {contribution.events} events.")
    if not math.isfinite(contribution.seconds) or contribution.steps > 1 << 40:
        raise UpdateError(f"The answer claims {contribution.steps} steps in {contribution.seconds} seconds.")
    return Share(site, int(contribution.samples), int(contribution.events))


def _tell(done: asyncio.Future[None], error: BaseException | None = None) -> None:
    if done.cancelled():
        return  # the call is gone; the site asks again
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass  # the deadline has come
