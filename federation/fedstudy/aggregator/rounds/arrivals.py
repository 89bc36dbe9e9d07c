"""What arrives, and what it changes: sites that come and go, answers, failures, products of folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedstudy.aggregator.algorithms.base import Share
from fedstudy.aggregator.rounds.expected import accepts, is_ring
from fedstudy.aggregator.rounds.rules import LATEST
from fedstudy.aggregator.rounds.turn import Turn
from fedstudy.aggregator.state import (
    Alive,
    Answered,
    Closing,
    Connected,
    Disconnected,
    Event,
    Failed,
    Folded,
    Kind,
    Opened,
    Restarted,
    SitesSet,
    Stage,
    Suspended,
    Tick,
)
from fedstudy.plan import Parameter
from fedstudy.wire.admin import Phase


def take(turn: Turn, event: Event) -> None:
    """What an event changes at once; one that does not matter changes nothing."""
    state = turn.state
    match event:
        case SitesSet():
            _set_sites(turn, tuple(sorted(set(event.sites))), tuple(sorted(set(event.required))))
        case Connected() if event.site in state.sites:
            turn.state = replace(
                state,
                connected=state.connected | {event.site},
                gone={s: since for s, since in state.gone.items() if s != event.site},
                late=state.late - {event.site},
            )
            admit(turn, event.site)
        case Disconnected():
            gone = {event.site: event.now} if event.site in state.connected else {}
            turn.state = replace(state, connected=state.connected - {event.site}, gone={**state.gone, **gone})
        case Alive():
            turn.state = replace(state, late=state.late - {event.site})
        case Answered() if accepts(state, event.site, event.instruction):
            _answer(turn, event)
        case Failed() if accepts(state, event.site, event.instruction):
            _fail_site(turn, event)
        case Folded() if state.stage and state.stage.closing and state.stage.id == event.stage:
            _folded(turn, event)
        case Suspended():
            turn.state = replace(state, suspended=event.suspend)
        case Restarted():
            _restart(turn)
        case Tick() | _:
            pass


def _set_sites(turn: Turn, sites: tuple[str, ...], required: tuple[str, ...]) -> None:
    state = turn.state
    kept = frozenset(sites)
    stage = state.stage
    if stage is not None and not stage.closing:
        stage = replace(
            stage,
            sites=tuple(s for s in stage.sites if s in kept),
            answers={s: a for s, a in stage.answers.items() if s in kept},
            missing={s: m for s, m in stage.missing.items() if s in kept},
        )
    turn.state = replace(
        state,
        sites=sites,
        required=tuple(s for s in required if s in kept),
        connected=state.connected & kept,
        gone={s: since for s, since in state.gone.items() if s in kept},
        late=state.late & kept,
        stage=stage,
        durations={
            kind: {s: took for s, took in by_site.items() if s in kept}
            for kind, by_site in state.durations.items()
        },
    )


def admit(turn: Turn, site: str) -> None:
    """A stage that is past its deadline for want of sites takes in one that comes."""
    stage = turn.state.stage
    if stage is None or stage.closing or not stage.overtime or site in stage.sites:
        return
    if stage.kind is Kind.INITIALISE or is_ring(turn):
        return
    parameters = _parameters(turn, stage, site)
    stage = replace(
        stage,
        sites=tuple(sorted((*stage.sites, site))),
        parameters={**stage.parameters, site: parameters},
        deadline=turn.now + turn.rules.timeout,
    )
    turn.state = replace(turn.state, stage=stage)
    turn.effects.append(Opened(stage, (site,)))


def _parameters(turn: Turn, stage: Stage, site: str) -> Mapping[str, Parameter]:
    if stage.kind is not Kind.TRAIN:
        return next(iter(stage.parameters.values()), {})
    share = turn.state.shares.get(site, Share(site, 0, 0))
    return turn.rules.train_stages(stage.round, [share])[0].parameters[site]


def _answer(turn: Turn, event: Answered) -> None:
    state, stage = turn.state, turn.stage()
    shares = dict(state.shares)
    if stage.kind in (Kind.STATISTICS, Kind.TRAIN):
        shares[event.site] = event.share
    turn.state = replace(
        state,
        shares=shares,
        late=state.late - {event.site},
        stage=replace(stage, answers={**stage.answers, event.site: event.share}),
        owed={s: i for s, i in state.owed.items() if s != event.site},
        durations=_measured(turn, stage, event.site),
    )


def _measured(turn: Turn, stage: Stage, site: str) -> Mapping[Kind, Mapping[str, tuple[float, ...]]]:
    """The durations with that of this answer; a stage that was interrupted, or waits for more sites, measures nothing."""
    known = turn.state.durations
    if stage.resumed or stage.overtime:
        return known
    of_kind = known.get(stage.kind, {})
    took = (*of_kind.get(site, ()), max(0.0, turn.now - stage.opened))[-LATEST:]
    return {**known, stage.kind: {**of_kind, site: took}}


def _fail_site(turn: Turn, event: Failed) -> None:
    state, stage = turn.state, turn.stage()
    why = f"Failed: {event.code}" + (f" ({event.message})" if event.message else "")
    turn.state = replace(
        state,
        late=state.late - {event.site},
        stage=replace(stage, missing={**stage.missing, event.site: why}),
    )


def _restart(turn: Turn) -> None:
    stage = turn.state.stage
    away = {*turn.state.connected, *turn.state.gone}
    turn.state = replace(turn.state, connected=frozenset(), gone=dict.fromkeys(sorted(away), turn.now))
    if stage is None:
        return
    if stage.closing:
        turn.effects.append(Closing(stage))
    else:  # the time that the aggregator was away is not the sites' fault
        renewed = replace(stage, deadline=turn.now + turn.rules.timeout, resumed=turn.now)
        turn.state = replace(turn.state, stage=renewed)


def _folded(turn: Turn, event: Folded) -> None:
    state, stage = turn.state, turn.stage()
    turn.state = replace(state, stage=None)
    if event.failure:
        turn.end(Phase.FAILED, "FoldFailed", event.failure)
        return
    match stage.kind:
        case Kind.STATISTICS:
            turn.state = replace(turn.state, statistics=event.statistics)
        case Kind.INITIALISE:
            turn.state = replace(turn.state, model=event.model, model_round=0)
        case Kind.TRAIN:
            turn.state = replace(
                turn.state,
                model=event.model or state.model,
                model_round=stage.round,
                cursor=state.cursor + 1,
            )
        case Kind.EVALUATE if stage.split == "test":
            turn.state = replace(turn.state, tested=True)
        case Kind.EVALUATE:
            turn.state = replace(turn.state, evaluated=stage.round)
            _judge(turn, event.metric)
        case _:
            pass
    if stage.kind is Kind.TRAIN:
        turn.close_round()


def _judge(turn: Turn, metric: float | None) -> None:
    """Apply `stopWhen` to a validation metric."""
    rule, state = turn.rules.stop_when, turn.state
    if rule is None or metric is None:
        return
    sign = -1.0 if _smaller_is_better(rule.metric) else 1.0
    better = state.best is None or sign * metric > sign * state.best
    since = 0 if better else state.since_best + 1
    reached = rule.reaches is not None and sign * metric >= sign * rule.reaches
    tired = rule.patience is not None and since >= rule.patience
    turn.state = replace(
        state, best=metric if better else state.best, since_best=since, stop=reached or tired
    )


def _smaller_is_better(metric: str) -> bool:
    """Whether a metric is a loss."""
    losses = ("loss", "log_loss", "brier", "ibs", "ece", "log_likelihood_loss")
    return metric in losses or metric.startswith("brier_")
