"""What comes next, where no stage is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedstudy.aggregator.algorithms.base import Share, TrainStage
from fedstudy.aggregator.rounds.closing import skip
from fedstudy.aggregator.rounds.expected import is_lost, is_ring, may_initialise, may_skip, participants
from fedstudy.aggregator.rounds.turn import Turn
from fedstudy.aggregator.state import Kind, Opened, Stage
from fedstudy.plan import Parameter
from fedstudy.tensors import Blob
from fedstudy.wire.admin import Phase

_PHASES = {
    Kind.STATISTICS: Phase.PROLOGUE,
    Kind.INITIALISE: Phase.PROLOGUE,
    Kind.TRAIN: Phase.TRAINING,
    Kind.EVALUATE: Phase.TRAINING,
}


def go_on(turn: Turn) -> bool:
    """Open the next stage; False where the study has to wait."""
    state = turn.state
    if state.suspended:
        turn.phase(Phase.SUSPENDED, "Suspended", "The study is suspended; it goes on where it stopped.")
        return False
    if not state.sites or not state.started:
        if not _enough_connected(turn):
            return False
        turn.state = state = replace(state, started=state.started or turn.now)
    if state.statistics is None:
        _open(turn, Kind.STATISTICS, participants(turn), {})
    elif state.model is None:
        _open_initialise(turn)
    elif state.round == 0:
        _begin_round(turn)
    elif state.cursor < len(state.round_stages):
        _open_train(turn, state.round_stages[state.cursor])
    elif _evaluation_due(turn):
        _open_evaluate(turn, "validation", Phase.TRAINING)
    elif state.round < turn.rules.rounds and not state.stop:
        _begin_round(turn)
    elif not state.tested:
        _open_evaluate(turn, "test", Phase.EPILOGUE)
    else:
        turn.end(Phase.COMPLETE, "Complete", "")
    return True


def _enough_connected(turn: Turn) -> bool:
    state = turn.state
    absent = [s for s in state.required if s not in state.connected]
    if state.sites and len(state.connected) >= turn.rules.min_sites and not absent:
        return True
    named = f", among them {', '.join(absent)}" if absent else ""
    turn.phase(
        Phase.WAITING_FOR_SITES,
        "SitesMissing",
        f"{len(state.connected)} of {len(state.sites)} sites are connected; {turn.rules.min_sites} must be{named}.",
    )
    return False


def _open(
    turn: Turn,
    kind: Kind,
    sites: tuple[str, ...],
    parameters: Mapping[str, Mapping[str, Parameter]],
    split: str = "",
    phase: Phase | None = None,
) -> None:
    state = turn.state
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
        opened=turn.now,
        deadline=turn.now + turn.rules.timeout,
        split=split,
    )
    turn.state = replace(state, stage=stage, next_index=state.next_index + 1)
    reason = state.reason if state.reason == "RoundTimedOut" else "QuorumReached"
    turn.phase(phase or _PHASES[kind], reason, state.message if reason == "RoundTimedOut" else "")
    turn.effects.append(Opened(stage, sites))


def _open_initialise(turn: Turn) -> None:
    """Ask the next site that has not been asked, in canonical order; the lost, and those without statistics, last."""
    state = turn.state
    ranked = sorted(participants(turn), key=lambda s: (s in state.late, s not in state.shares, s))
    left = [s for s in ranked if s not in state.tried]
    if not left:
        if not any(may_initialise(turn, s) for s in state.sites):
            reasons = "; ".join(f"{s}: {state.tried[s]}" for s in state.sites)
            turn.end(Phase.FAILED, "InitialiseFailed", f"No site could make the initial model ({reasons}).")
            return
        failed = {s: why for s, why in state.tried.items() if why.startswith("Failed")}
        turn.state = replace(state, tried=failed)
        left = sorted((s for s in state.sites if s not in failed), key=lambda s: (is_lost(turn, s), s))
    _open(turn, Kind.INITIALISE, (left[0],), {left[0]: {"seed": turn.rules.seed}})


def _begin_round(turn: Turn) -> None:
    state = turn.state
    shares = [state.shares.get(s, Share(s, 0, 0)) for s in participants(turn)]
    number = state.round + 1
    turn.state = replace(
        state,
        round=number,
        round_stages=tuple(turn.rules.train_stages(number, shares)),
        cursor=0,
        visited=(),
        next_index=0,
        round_started=turn.now,
        first_round_started=state.first_round_started or turn.now,
    )


def _open_train(turn: Turn, stage: TrainStage) -> None:
    state = turn.state
    sites = tuple(s for s in stage.sites if s in state.sites)
    passed_by = is_ring(turn) and all(s in state.late or s not in state.sites for s in stage.sites)
    if passed_by and may_skip(turn, stage.sites[0]):
        skip(turn)
    else:
        _open(turn, Kind.TRAIN, sites, stage.parameters)


def _open_evaluate(turn: Turn, split: str, phase: Phase) -> None:
    sites = participants(turn)
    _open(turn, Kind.EVALUATE, sites, {s: {"split": split} for s in sites}, split, phase)


def _evaluation_due(turn: Turn) -> bool:
    state = turn.state
    due = state.round % turn.rules.evaluate_every == 0 or state.round == turn.rules.rounds
    return due and state.evaluated < state.round
