"""The round machine: what a study does next. Pure: `step(state, event)` gives the next state and what to do about it.

Statistics of all sites → initial weights by the first site that answers → rounds (the algorithm's train stages, then now
and then an evaluation) → a last evaluation on the test splits → finish. At most one stage is open. A stage closes when all
sites it waits for have answered or failed, or at its deadline, given a quorum; without one the study waits and says so.
A site that misses a deadline is waited for no more until it gives a sign of life: a lost site costs one deadline, once.
One whose stream has been gone for the grace costs not even that, where the others make a quorum; a slow site that is
connected always has until the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedstudy.aggregator.algorithms.base import Share, TrainStage
from fedstudy.aggregator.state import (
    Alive,
    Answered,
    Closed,
    Closing,
    Connected,
    Disconnected,
    Effect,
    Event,
    Failed,
    Folded,
    Kind,
    Opened,
    PhaseChanged,
    Restarted,
    RoundClosed,
    SitesSet,
    Stage,
    State,
    Suspended,
    Tick,
)
from fedstudy.plan import Parameter, StopWhen, StudyPlan
from fedstudy.tensors import Blob
from fedstudy.wire.admin import Phase

GRACE_SECONDS = 600.0
"""How long a site's stream may be gone before the others stop waiting for it: more than a network is usually away."""

_PHASES = {
    Kind.STATISTICS: Phase.PROLOGUE,
    Kind.INITIALISE: Phase.PROLOGUE,
    Kind.TRAIN: Phase.TRAINING,
    Kind.EVALUATE: Phase.TRAINING,
}


@dataclass(frozen=True)
class Rules:
    """What of the plan the machine needs.

    Attributes:
        train_stages: the algorithm's `stages`.
        timeout: deadline of a stage, in seconds.
        grace: how long a site that is not connected is waited for where the others make a quorum, in seconds.
    """

    rounds: int
    min_sites: int
    min_samples: int
    timeout: float
    evaluate_every: int
    stop_when: StopWhen | None
    seed: int
    train_stages: Callable[[int, Sequence[Share]], list[TrainStage]]
    grace: float = GRACE_SECONDS

    @classmethod
    def of(cls, plan: StudyPlan, train_stages: Callable[[int, Sequence[Share]], list[TrainStage]]) -> Rules:
        """The rules of a plan."""
        f = plan.federation
        return cls(
            rounds=f.rounds,
            min_sites=f.min_sites,
            min_samples=f.min_samples,
            timeout=float(f.round_timeout_seconds),
            evaluate_every=f.evaluate_every,
            stop_when=f.stop_when,
            seed=plan.training.seed,
            train_stages=train_stages,
        )


def step(rules: Rules, state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The next state and its effects. Events that do not matter change nothing."""
    if state.over and not isinstance(event, Connected | Disconnected | SitesSet | Restarted):
        return state, ()
    turn = _Turn(rules, state, event.now)
    turn.take(event)
    if not turn.state.over:
        turn.settle()
    return turn.state, tuple(turn.effects)


def accepts(state: State, site: str, instruction: str) -> bool:
    """Whether a site's answer to an instruction would count now."""
    stage = state.stage
    return (
        stage is not None
        and not stage.closing
        and site in stage.sites
        and stage.instruction(site) == instruction
        and site not in stage.answers
        and site not in stage.missing
    )


def open_stage(state: State, site: str) -> Stage | None:
    """The stage that waits for this site's answer, or the finish that it should know of."""
    if state.finish is not None:
        return state.finish
    stage = state.stage
    return stage if stage is not None and accepts(state, site, stage.instruction(site)) else None


def next_moment(rules: Rules, state: State, now: float) -> float | None:
    """When time alone changes something next: the open stage's deadline, or the end of an absent site's grace."""
    stage = state.stage
    if stage is None or stage.closing:
        return None
    graces = [state.gone[s] + rules.grace for s in stage.sites if s in state.gone and s not in stage.answers]
    return min([stage.deadline, *(end for end in graces if end > now)])


class _Turn:
    """One step while it is taken."""

    def __init__(self, rules: Rules, state: State, now: float) -> None:
        self.rules, self.state, self.now = rules, state, now
        self.effects: list[Effect] = []

    # What happened

    def take(self, event: Event) -> None:
        state = self.state
        match event:
            case SitesSet():
                self._set_sites(tuple(sorted(set(event.sites))), tuple(sorted(set(event.required))))
            case Connected() if event.site in state.sites:
                self.state = replace(
                    state,
                    connected=state.connected | {event.site},
                    gone={s: since for s, since in state.gone.items() if s != event.site},
                    late=state.late - {event.site},
                )
                self._admit(event.site)
            case Disconnected():
                gone = {event.site: event.now} if event.site in state.connected else {}
                self.state = replace(
                    state, connected=state.connected - {event.site}, gone={**state.gone, **gone}
                )
            case Alive():
                self.state = replace(state, late=state.late - {event.site})
            case Answered() if accepts(state, event.site, event.instruction):
                self._answer(event)
            case Failed() if accepts(state, event.site, event.instruction):
                self._fail_site(event)
            case Folded() if state.stage and state.stage.closing and state.stage.id == event.stage:
                self._folded(event)
            case Suspended():
                self.state = replace(state, suspended=event.suspend)
            case Restarted():
                self._restart()
            case Tick() | _:
                pass

    def _set_sites(self, sites: tuple[str, ...], required: tuple[str, ...]) -> None:
        state = self.state
        kept = frozenset(sites)
        stage = state.stage
        if stage is not None and not stage.closing:
            stage = replace(
                stage,
                sites=tuple(s for s in stage.sites if s in kept),
                answers={s: a for s, a in stage.answers.items() if s in kept},
                missing={s: m for s, m in stage.missing.items() if s in kept},
            )
        self.state = replace(
            state,
            sites=sites,
            required=tuple(s for s in required if s in kept),
            connected=state.connected & kept,
            gone={s: since for s, since in state.gone.items() if s in kept},
            late=state.late & kept,
            stage=stage,
        )

    def _admit(self, site: str) -> None:
        """A stage that is past its deadline for want of sites takes in one that comes."""
        stage = self.state.stage
        if stage is None or stage.closing or not stage.overtime or site in stage.sites:
            return
        if stage.kind is Kind.INITIALISE or self._is_ring():
            return
        parameters = self._parameters(stage, site)
        stage = replace(
            stage,
            sites=tuple(sorted((*stage.sites, site))),
            parameters={**stage.parameters, site: parameters},
            deadline=self.now + self.rules.timeout,
        )
        self.state = replace(self.state, stage=stage)
        self.effects.append(Opened(stage, (site,)))

    def _parameters(self, stage: Stage, site: str) -> Mapping[str, Parameter]:
        if stage.kind is not Kind.TRAIN:
            return next(iter(stage.parameters.values()), {})
        share = self.state.shares.get(site, Share(site, 0, 0))
        return self.rules.train_stages(stage.round, [share])[0].parameters[site]

    def _answer(self, event: Answered) -> None:
        state, stage = self.state, self._stage()
        shares = dict(state.shares)
        if stage.kind in (Kind.STATISTICS, Kind.TRAIN):
            shares[event.site] = event.share
        self.state = replace(
            state,
            shares=shares,
            late=state.late - {event.site},
            stage=replace(stage, answers={**stage.answers, event.site: event.share}),
            owed={s: i for s, i in state.owed.items() if s != event.site},
        )

    def _fail_site(self, event: Failed) -> None:
        state, stage = self.state, self._stage()
        why = f"Failed: {event.code}" + (f" ({event.message})" if event.message else "")
        self.state = replace(
            state,
            late=state.late - {event.site},
            stage=replace(stage, missing={**stage.missing, event.site: why}),
        )

    def _restart(self) -> None:
        stage = self.state.stage
        away = {*self.state.connected, *self.state.gone}
        self.state = replace(self.state, connected=frozenset(), gone=dict.fromkeys(sorted(away), self.now))
        if stage is None:
            return
        if stage.closing:
            self.effects.append(Closing(stage))
        else:  # the time that the aggregator was away is not the sites' fault
            self.state = replace(self.state, stage=replace(stage, deadline=self.now + self.rules.timeout))

    def _folded(self, event: Folded) -> None:
        state, stage = self.state, self._stage()
        self.state = replace(state, stage=None)
        if event.failure:
            self._end(Phase.FAILED, "FoldFailed", event.failure)
            return
        match stage.kind:
            case Kind.STATISTICS:
                self.state = replace(self.state, statistics=event.statistics)
            case Kind.INITIALISE:
                self.state = replace(self.state, model=event.model, model_round=0)
            case Kind.TRAIN:
                self.state = replace(
                    self.state,
                    model=event.model or state.model,
                    model_round=stage.round,
                    cursor=state.cursor + 1,
                )
            case Kind.EVALUATE if stage.split == "test":
                self.state = replace(self.state, tested=True)
            case Kind.EVALUATE:
                self.state = replace(self.state, evaluated=stage.round)
                self._judge(event.metric)
            case _:
                pass
        if stage.kind is Kind.TRAIN:
            self._close_round()

    def _judge(self, metric: float | None) -> None:
        """Apply `stopWhen` to a validation metric."""
        rule, state = self.rules.stop_when, self.state
        if rule is None or metric is None:
            return
        sign = -1.0 if smaller_is_better(rule.metric) else 1.0
        better = state.best is None or sign * metric > sign * state.best
        since = 0 if better else state.since_best + 1
        reached = rule.reaches is not None and sign * metric >= sign * rule.reaches
        tired = rule.patience is not None and since >= rule.patience
        self.state = replace(
            state, best=metric if better else state.best, since_best=since, stop=reached or tired
        )

    def _stage(self) -> Stage:
        stage = self.state.stage
        assert stage is not None  # the callers have asked `accepts`
        return stage

    # What follows

    def settle(self) -> None:
        """Go on until the machine waits for something outside."""
        while not self.state.over:
            stage = self.state.stage
            if stage is None:
                if not self._go_on():
                    return
            elif stage.closing or not self._consider(stage):
                return

    def _go_on(self) -> bool:
        """Open the next stage; False where the study has to wait."""
        state = self.state
        if state.suspended:
            self._phase(Phase.SUSPENDED, "Suspended", "The study is suspended; it goes on where it stopped.")
            return False
        if not state.sites or not state.started:
            if not self._enough_connected():
                return False
            self.state = state = replace(state, started=state.started or self.now)
        if state.statistics is None:
            self._open(Kind.STATISTICS, self._participants(), {})
        elif state.model is None:
            self._open_initialise()
        elif state.round == 0:
            self._begin_round()
        elif state.cursor < len(state.round_stages):
            self._open_train(state.round_stages[state.cursor])
        elif self._evaluation_due():
            self._open_evaluate("validation", Phase.TRAINING)
        elif state.round < self.rules.rounds and not state.stop:
            self._begin_round()
        elif not state.tested:
            self._open_evaluate("test", Phase.EPILOGUE)
        else:
            self._end(Phase.COMPLETE, "Complete", "")
        return True

    def _enough_connected(self) -> bool:
        state = self.state
        absent = [s for s in state.required if s not in state.connected]
        if state.sites and len(state.connected) >= self.rules.min_sites and not absent:
            return True
        named = f", among them {', '.join(absent)}" if absent else ""
        self._phase(
            Phase.WAITING_FOR_SITES,
            "SitesMissing",
            f"{len(state.connected)} of {len(state.sites)} sites are connected; {self.rules.min_sites} must be{named}.",
        )
        return False

    def _participants(self) -> tuple[str, ...]:
        """All but the lost (those that missed a deadline and are still away), as long as the others make a quorum."""
        state = self.state
        here = tuple(
            s for s in state.sites if s in state.connected or s not in state.late or s in state.required
        )
        return here if len(here) >= self.rules.min_sites else state.sites

    def _open(
        self,
        kind: Kind,
        sites: tuple[str, ...],
        parameters: Mapping[str, Mapping[str, Parameter]],
        split: str = "",
        phase: Phase | None = None,
    ) -> None:
        state = self.state
        inputs: dict[str, Blob] = {}
        if state.statistics is not None:
            inputs["statistics"] = state.statistics
        if state.model is not None:
            inputs["model"] = state.model
        stage = Stage(
            kind=kind,
            round=state.round,
            index=state.next_index,
            sites=sites,
            parameters={site: parameters.get(site, {}) for site in sites},
            inputs=inputs,
            opened=self.now,
            deadline=self.now + self.rules.timeout,
            split=split,
        )
        self.state = replace(state, stage=stage, next_index=state.next_index + 1)
        reason = state.reason if state.reason == "RoundTimedOut" else "QuorumReached"
        self._phase(phase or _PHASES[kind], reason, state.message if reason == "RoundTimedOut" else "")
        self.effects.append(Opened(stage, sites))

    def _open_initialise(self) -> None:
        """Ask the next site that has not been asked, in canonical order; the lost, and those without statistics, last."""
        state = self.state
        ranked = sorted(self._participants(), key=lambda s: (s in state.late, s not in state.shares, s))
        left = [s for s in ranked if s not in state.tried]
        if not left:
            if all(state.tried.get(s, "").startswith("Failed") for s in state.sites):
                reasons = "; ".join(f"{s}: {state.tried[s]}" for s in state.sites)
                self._end(
                    Phase.FAILED, "InitialiseFailed", f"No site could make the initial model ({reasons})."
                )
                return
            failed = {s: why for s, why in state.tried.items() if why.startswith("Failed")}
            self.state = replace(state, tried=failed)
            left = [s for s in state.sites if s not in failed]
        self._open(Kind.INITIALISE, (left[0],), {left[0]: {"seed": self.rules.seed}})

    def _begin_round(self) -> None:
        state = self.state
        shares = [state.shares.get(s, Share(s, 0, 0)) for s in self._participants()]
        number = state.round + 1
        self.state = replace(
            state,
            round=number,
            round_stages=tuple(self.rules.train_stages(number, shares)),
            cursor=0,
            visited=(),
            next_index=0,
            round_started=self.now,
            first_round_started=state.first_round_started or self.now,
        )

    def _open_train(self, stage: TrainStage) -> None:
        state = self.state
        sites = tuple(s for s in stage.sites if s in state.sites)
        skip = self._is_ring() and all(s in state.late or s not in state.sites for s in stage.sites)
        if skip and self._may_skip(stage.sites[0]):
            self._skip()
        else:
            self._open(Kind.TRAIN, sites, stage.parameters)

    def _open_evaluate(self, split: str, phase: Phase) -> None:
        sites = self._participants()
        self._open(Kind.EVALUATE, sites, {s: {"split": split} for s in sites}, split, phase)

    def _evaluation_due(self) -> bool:
        state = self.state
        due = state.round % self.rules.evaluate_every == 0 or state.round == self.rules.rounds
        return due and state.evaluated < state.round

    # The open stage

    def _consider(self, stage: Stage) -> bool:
        """Close the stage if it can be; True where the machine goes on at once."""
        pending = [s for s in stage.sites if s not in stage.answers and s not in stage.missing]
        awaited = [s for s in pending if s not in self.state.late and not self._lost(s)]
        timed_out = self.now >= stage.deadline
        if stage.kind is Kind.INITIALISE:
            return self._consider_initialise(stage, any(not self._lost(s) for s in pending), timed_out)
        if self._quorum(stage) and (not awaited or timed_out or stage.overtime):
            return self._close(stage)
        if self._is_ring() and (not pending or timed_out) and self._may_skip_open(stage):
            return self._close(stage)
        if not pending and self._hopeless(stage):
            self._end(Phase.FAILED, "QuorumMissing", self._why_no_quorum(stage))
            return False
        if timed_out or (not pending and not stage.overtime):
            overtime = replace(stage, overtime=True, deadline=self.now + self.rules.timeout)
            self.state = replace(self.state, stage=overtime)
            self._phase(self.state.phase, "QuorumMissing", self._why_no_quorum(stage))
            if not pending:
                for site in sorted(self.state.connected):
                    self._admit(site)
        return False

    def _lost(self, site: str) -> bool:
        return self.now >= self.state.gone.get(site, math.inf) + self.rules.grace

    def _consider_initialise(self, stage: Stage, pending: bool, timed_out: bool) -> bool:
        if stage.answers:
            return self._close(stage)
        if pending and not timed_out:
            return False
        asked = {s: stage.missing.get(s) or self._absence(s) for s in stage.sites}
        self.effects.append(Closed(stage, asked))
        self.state = replace(
            self.state,
            stage=None,
            tried={**self.state.tried, **asked},
            late=self.state.late | {s for s in stage.sites if s not in stage.missing},
            owed={**self.state.owed, **{s: stage.instruction(s) for s in stage.sites}},
        )
        return True

    def _quorum(self, stage: Stage) -> bool:
        if self._is_ring():
            return bool(stage.answers)
        if len(stage.answers) < self.rules.min_sites or not set(self.state.required) <= set(stage.answers):
            return False
        samples = sum(share.samples for share in stage.answers.values())
        return stage.kind is Kind.EVALUATE or samples >= self.rules.min_samples

    def _hopeless(self, stage: Stage) -> bool:
        """All who were asked have answered or failed, and nobody else is there to be asked."""
        if not self.state.sites:
            return False
        if self._is_ring():
            return bool(stage.sites)
        return all(s in stage.sites for s in self.state.sites)

    def _why_no_quorum(self, stage: Stage) -> str:
        state, rules = self.state, self.rules
        samples = sum(share.samples for share in stage.answers.values())
        number = len(stage.answers)
        text = (
            f"{stage.kind.value.capitalize()} of round {stage.round} has {number} answer{'' if number == 1 else 's'}"
            f" with {samples} training cases; at least {rules.min_sites} are needed"
            + (f", with {rules.min_samples} training cases together." if rules.min_samples else ".")
        )
        lacking = [s for s in state.required if s not in stage.answers]
        if lacking:
            text += f" Required and missing: {', '.join(lacking)}."
        failed = "; ".join(f"{site}: {why}" for site, why in sorted(stage.missing.items()))
        return f"{text} {failed}." if failed else text

    def _is_ring(self) -> bool:
        state = self.state
        ring = len(state.round_stages) > 1 and state.cursor < len(state.round_stages)
        stage = state.stage
        return (
            ring
            and len(state.round_stages[state.cursor].sites) == 1
            and (stage is None or stage.kind is Kind.TRAIN)
        )

    def _may_skip_open(self, stage: Stage) -> bool:
        return not stage.answers and all(self._may_skip(s) for s in (stage.sites or ("",)))

    def _may_skip(self, site: str) -> bool:
        """Whether the ring can pass by this site and the round still reach its quorum."""
        state = self.state
        if site in state.required:
            return False
        left = [
            s for stage in state.round_stages[state.cursor + 1 :] for s in stage.sites if s in state.sites
        ]
        possible = {*state.visited, *left}
        samples = sum(state.shares[s].samples for s in possible if s in state.shares)
        return len(possible) >= self.rules.min_sites and samples >= self.rules.min_samples

    def _skip(self) -> None:
        self.state = replace(self.state, cursor=self.state.cursor + 1)
        self._close_round()

    def _close(self, stage: Stage) -> bool:
        """Take no more answers; True where there is nothing to fold."""
        state = self.state
        unanswered = [s for s in stage.sites if s not in stage.answers and s not in stage.missing]
        missing = {
            s: self._absence(s) for s in state.sites if s not in stage.answers and self._concerns(stage, s)
        }
        missing |= stage.missing
        closing = replace(stage, closing=True, missing=missing)
        train = stage.kind is Kind.TRAIN
        self.state = replace(
            state,
            stage=closing,
            late=state.late | set(unanswered),
            owed={**state.owed, **{s: stage.instruction(s) for s in unanswered}},
            visited=(*state.visited, *sorted(stage.answers)) if train else state.visited,
            last_rounds={**state.last_rounds, **dict.fromkeys(stage.answers, stage.round)}
            if train
            else state.last_rounds,
            reason="RoundTimedOut" if unanswered else "QuorumReached",
            message=f"Closed without {', '.join(unanswered)}." if unanswered else "",
        )
        self.effects.append(Closed(closing, missing))
        if not stage.answers:
            self.state = replace(self.state, stage=None)
            self._skip()
            return True
        self.effects.append(Closing(closing))
        return False

    def _concerns(self, stage: Stage, site: str) -> bool:
        return site in stage.sites or not (stage.kind is Kind.INITIALISE or self._is_ring())

    def _absence(self, site: str) -> str:
        return "NoAnswer" if site in self.state.connected else "Disconnected"

    def _close_round(self) -> None:
        state = self.state
        if state.round and state.cursor == len(state.round_stages):
            self.effects.append(
                RoundClosed(state.round, tuple(sorted(set(state.visited))), self.now - state.round_started)
            )

    # The end

    def _end(self, phase: Phase, reason: str, message: str) -> None:
        state = self.state
        inputs = {"model": state.model} if state.model is not None else {}
        finish = Stage(
            kind=Kind.FINISH,
            round=state.round,
            index=state.next_index,
            sites=state.sites,
            parameters={},
            inputs=inputs,
            opened=self.now,
            deadline=self.now + self.rules.timeout,
        )
        self.state = replace(
            state, stage=None, finish=finish, finished=self.now, next_index=state.next_index + 1
        )
        self._phase(phase, reason, message)
        self.effects.append(Opened(finish, state.sites))

    def _phase(self, phase: Phase, reason: str, message: str) -> None:
        state = self.state
        if (state.phase, state.reason, state.message) != (phase, reason, message):
            self.state = replace(state, phase=phase, reason=reason, message=message)
            self.effects.append(PhaseChanged(phase, reason, message))


def smaller_is_better(metric: str) -> bool:
    """Whether a metric is a loss."""
    losses = ("loss", "log_loss", "brier", "ibs", "ece", "log_likelihood_loss")
    return metric in losses or metric.startswith("brier_")
