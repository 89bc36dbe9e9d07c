"""A study's round machine with a clock of its own, and a check of what must hold after every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedstudy.aggregator.algorithms.base import Share, TrainStage
from fedstudy.aggregator.rounds import Rules, accepts, step
from fedstudy.aggregator.state import (
    STATE,
    Answered,
    Closed,
    Closing,
    Connected,
    Effect,
    Event,
    Failed,
    Folded,
    Kind,
    Opened,
    Restarted,
    RoundClosed,
    SitesSet,
    Stage,
    State,
    Tick,
)
from fedstudy.tensors import Blob

NAMES = ("a", "b", "c", "d")
TIMEOUT = 100.0


def star(round: int, shares: Sequence[Share]) -> list[TrainStage]:
    sites = tuple(s.site for s in shares)
    return [TrainStage(sites, {s: {"t": round} for s in sites})]


def ring(round: int, shares: Sequence[Share]) -> list[TrainStage]:
    return [TrainStage((s.site,), {s.site: {"t": round}}) for s in shares]


def rules(*, schedule: str = "star", **changes: object) -> Rules:
    values: dict[str, object] = {
        "rounds": 2, "min_sites": 2, "min_samples": 0, "timeout": TIMEOUT, "evaluate_every": 1,
        "stop_when": None, "seed": 1, "train_stages": {"star": star, "ring": ring}[schedule],
    }  # fmt: skip
    return Rules(**{**values, **changes})  # type: ignore[arg-type]


def blob(*parts: object) -> Blob:
    return Blob(Blob.of(repr(parts).encode()).digest, 1)


@dataclass
class World:
    """The machine with its clock, and a check of what must hold after every step."""

    rules: Rules
    state: State = field(default_factory=State)
    now: float = 1.0
    effects: list[Effect] = field(default_factory=list)
    closing: Stage | None = None
    seen: dict[str, Stage] = field(default_factory=dict)

    def send(self, event: Event) -> None:
        before = self.state.stage
        self.state, effects = step(self.rules, self.state, event)
        assert STATE.validate_json(STATE.dump_json(self.state)) == self.state
        opened = [e.stage for e in effects if isinstance(e, Opened) and e.stage.kind is not Kind.FINISH]
        for stage in opened:
            known = self.seen.setdefault(stage.id, stage)
            assert (known.kind, known.inputs, known.opened) == (stage.kind, stage.inputs, stage.opened)
        for effect in effects:
            if isinstance(effect, Closing):
                assert self.closing is None or isinstance(event, Restarted)
                self.closing = effect.stage
            if isinstance(effect, Closed) and effect.stage.kind is Kind.STATISTICS:
                assert len(effect.stage.answers) >= self.rules.min_sites
                assert set(self.state.required) <= set(effect.stage.answers)
            if isinstance(effect, RoundClosed):
                assert len(effect.sites) >= self.rules.min_sites
        if before is not None and self.state.stage is not None and before.id != self.state.stage.id:
            closed = [e.stage.id for e in effects if isinstance(e, Closed)]
            assert before.id in closed or isinstance(event, Folded)
        self.effects += effects

    def fold(self, metric: float | None = None) -> None:
        stage = self.closing
        if stage is None:
            return
        self.closing = None
        product = blob(stage.kind.value, stage.inputs, sorted(stage.answers))
        match stage.kind:
            case Kind.STATISTICS:
                self.send(Folded(self.now, stage.id, statistics=product))
            case Kind.INITIALISE | Kind.TRAIN:
                self.send(Folded(self.now, stage.id, model=product))
            case _:
                self.send(Folded(self.now, stage.id, metric=metric))

    def waiting(self) -> list[str]:
        stage = self.state.stage
        return [s for s in NAMES if stage and accepts(self.state, s, stage.instruction(s))]

    def answer(self, site: str, samples: int = 10) -> None:
        stage = self.state.stage
        assert stage is not None
        self.send(Answered(self.now, site, stage.instruction(site), Share(site, samples, 0)))

    def fail(self, site: str) -> None:
        stage = self.state.stage
        assert stage is not None
        self.send(Failed(self.now, site, stage.instruction(site), "DataError", "no such column"))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick(self.now))

    def start(self, *sites: str, required: Sequence[str] = ()) -> None:
        self.send(SitesSet(self.now, sites or NAMES, tuple(required)))
        for site in sites or NAMES:
            self.send(Connected(self.now, site))

    def run(self, answering: Sequence[str] = NAMES, until: Kind | None = None) -> None:
        """All go well for the answering sites; deadlines pass for the others."""
        for _ in range(500):
            stage = self.state.stage
            if self.state.over or (until is not None and stage is not None and stage.kind is until):
                return
            if self.closing is not None:
                self.fold()
                continue
            ready = [s for s in self.waiting() if s in answering and s in self.state.connected]
            if ready:
                self.answer(ready[0])
            else:
                self.tick(TIMEOUT)
        raise AssertionError(f"the study does not end: {self.state}")
