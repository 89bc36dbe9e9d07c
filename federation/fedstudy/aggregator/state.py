"""What the round machine knows: plain frozen data that is stored as JSON after every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter

from fedstudy.aggregator.algorithms.base import Share, TrainStage
from fedstudy.plan import Parameter
from fedstudy.tensors import Blob
from fedstudy.wire.admin import Phase


class Kind(StrEnum):
    """What the sites are asked for; the words that stand in instruction ids."""

    STATISTICS = "statistics"
    INITIALISE = "initialise"
    TRAIN = "train"
    EVALUATE = "evaluate"
    FINISH = "finish"


@dataclass(frozen=True)
class Stage:
    """One thing asked of some sites at the same time.

    Attributes:
        round: 0 in the prologue.
        index: number of the stage within its round.
        sites: those asked, in canonical (sorted) order.
        parameters: by site.
        inputs: name (model, statistics) → blob.
        opened, deadline: seconds since the epoch.
        answers: site → what it contributed; accepted answers only.
        missing: site → why no answer of it will come (Failed: code).
        overtime: the deadline has passed without a quorum.
        closing: no more answers are taken; the fold is under way.
        resumed: when the aggregator last began again with this stage open; 0: never.
    """

    kind: Kind
    round: int
    index: int
    sites: tuple[str, ...]
    parameters: Mapping[str, Mapping[str, Parameter]]
    inputs: Mapping[str, Blob]
    opened: float
    deadline: float
    split: str = ""
    answers: Mapping[str, Share] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    overtime: bool = False
    closing: bool = False
    resumed: float = 0.0

    @property
    def id(self) -> str:
        """Names the stage for ever."""
        return f"{self.round:04d}-{self.index:03d}-{self.kind.value}"

    def instruction(self, site: str) -> str:
        """The id of one site's instruction."""
        return f"{self.id}-{site}"


@dataclass(frozen=True)
class State:
    """The whole state of a study.

    Attributes:
        sites, required: invited now, sorted; those without which no stage closes.
        connected: sites with an open stream; empty after a restart.
        gone: site → when its stream ended; only of sites that were connected once and are not now.
        late: sites that missed a deadline and have given no sign of life since: asked, but not waited for.
        shares: site → what it last said it has.
        stage: the one open stage.
        round_stages, cursor, visited: the round's train stages, how many are done, and whose updates are in.
        next_index: of the round's next stage.
        tried: sites that were asked to initialise, with why nothing came of it.
        evaluated: last round whose model was evaluated on the validation splits.
        best, since_best, stop: of `stopWhen`.
        owed: site → instruction that was closed without its answer.
        last_rounds: site → last round whose model its update is in.
        durations: kind of stage → site → seconds from opening to its answer, of the latest stages, by this clock alone.
    """

    phase: Phase = Phase.WAITING_FOR_SITES
    reason: str = "SitesMissing"
    message: str = ""
    sites: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    connected: frozenset[str] = frozenset()
    gone: Mapping[str, float] = field(default_factory=dict)
    late: frozenset[str] = frozenset()
    shares: Mapping[str, Share] = field(default_factory=dict)
    stage: Stage | None = None
    round: int = 0
    round_stages: tuple[TrainStage, ...] = ()
    cursor: int = 0
    visited: tuple[str, ...] = ()
    next_index: int = 0
    tried: Mapping[str, str] = field(default_factory=dict)
    model: Blob | None = None
    model_round: int = 0
    statistics: Blob | None = None
    evaluated: int = 0
    tested: bool = False
    best: float | None = None
    since_best: int = 0
    stop: bool = False
    suspended: bool = False
    owed: Mapping[str, str] = field(default_factory=dict)
    last_rounds: Mapping[str, int] = field(default_factory=dict)
    durations: Mapping[Kind, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    first_round_started: float = 0.0
    finish: Stage | None = None
    started: float = 0.0
    round_started: float = 0.0
    finished: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in (Phase.COMPLETE, Phase.FAILED)


STATE: TypeAdapter[State] = TypeAdapter(State)
"""Reads and writes a State as JSON."""


# Events: what happens to a study. `now` is in seconds since the epoch.


@dataclass(frozen=True)
class SitesSet:
    """The operator named the invited sites."""

    now: float
    sites: tuple[str, ...]
    required: tuple[str, ...]


@dataclass(frozen=True)
class Connected:
    """A site opened its stream."""

    now: float
    site: str


@dataclass(frozen=True)
class Disconnected:
    """A site's stream ended."""

    now: float
    site: str


@dataclass(frozen=True)
class Alive:
    """A late site gave a sign of life: progress, or an answer that came too late."""

    now: float
    site: str


@dataclass(frozen=True)
class Answered:
    """A site's answer was verified and is on disk."""

    now: float
    site: str
    instruction: str
    share: Share


@dataclass(frozen=True)
class Failed:
    """A site will not answer an instruction: it said so, or its answer was refused."""

    now: float
    site: str
    instruction: str
    code: str
    message: str


@dataclass(frozen=True)
class Folded:
    """A closed stage was worked up. What is unset was not its product."""

    now: float
    stage: str
    model: Blob | None = None
    statistics: Blob | None = None
    metric: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Suspended:
    """The operator wants a pause, or its end."""

    now: float
    suspend: bool


@dataclass(frozen=True)
class Restarted:
    """The process began again from its store."""

    now: float


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    now: float


Event = (
    SitesSet | Connected | Disconnected | Alive | Answered | Failed | Folded | Suspended | Restarted | Tick
)


# Effects: what the outside has to do, or to write down, after a step.


@dataclass(frozen=True)
class Opened:
    """Sites have a new instruction."""

    stage: Stage
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Closing:
    """Work up the answers of this stage, then report Folded."""

    stage: Stage


@dataclass(frozen=True)
class Closed:
    """A stage took its last answer; `missing` says why which site's is not in."""

    stage: Stage
    missing: Mapping[str, str]


@dataclass(frozen=True)
class RoundClosed:
    """The model of a round is there."""

    round: int
    sites: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class PhaseChanged:
    """The study is somewhere else, or for another reason."""

    phase: Phase
    reason: str
    message: str


Effect = Opened | Closing | Closed | RoundClosed | PhaseChanged
