"""When the open stage ends: with all answers, at its deadline with a quorum, or for the want of one not yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedstudy.aggregator.rounds.arrivals import admit
from fedstudy.aggregator.rounds.expected import (
    absence,
    concerns,
    is_lost,
    is_ring,
    is_slow,
    may_initialise,
    may_skip,
    share_in,
)
from fedstudy.aggregator.rounds.turn import Turn
from fedstudy.aggregator.state import Closed, Closing, Kind, Stage
from fedstudy.wire.admin import Phase


def consider(turn: Turn, stage: Stage) -> bool:
    """Close the stage if it can be; True where the machine goes on at once."""
    pending = [s for s in stage.sites if s not in stage.answers and s not in stage.missing]
    awaited = [
        s
        for s in pending
        if s not in turn.state.late and not is_lost(turn, s) and not is_slow(turn, stage, s)
    ]
    timed_out = turn.now >= stage.deadline
    if stage.kind is Kind.INITIALISE:
        return _consider_initialise(turn, stage, _worth_waiting(turn, pending), timed_out)
    if _quorum(turn, stage) and (not awaited or timed_out or stage.overtime):
        return _close(turn, stage)
    if is_ring(turn) and (not pending or timed_out) and _may_skip_open(turn, stage):
        return _close(turn, stage)
    if not pending and _hopeless(turn, stage):
        turn.end(Phase.FAILED, "QuorumMissing", _why_no_quorum(turn, stage))
        return False
    if timed_out or (not pending and not stage.overtime):
        overtime = replace(stage, overtime=True, deadline=turn.now + turn.rules.timeout)
        turn.state = replace(turn.state, stage=overtime)
        turn.phase(turn.state.phase, "QuorumMissing", _why_no_quorum(turn, stage))
        if not pending:
            for site in sorted(turn.state.connected):
                admit(turn, site)
    return False


def _consider_initialise(turn: Turn, stage: Stage, pending: bool, timed_out: bool) -> bool:
    if stage.answers:
        return _close(turn, stage)
    if pending and not timed_out:
        return False
    asked = {s: stage.missing.get(s) or absence(turn, s) for s in stage.sites}
    turn.effects.append(Closed(stage, asked))
    turn.state = replace(
        turn.state,
        stage=None,
        tried={**turn.state.tried, **asked},
        late=turn.state.late | {s for s in stage.sites if s not in stage.missing},
        owed={**turn.state.owed, **{s: stage.instruction(s) for s in stage.sites}},
    )
    return True


def _worth_waiting(turn: Turn, pending: Sequence[str]) -> bool:
    """Whether one of these may still make the weights, or no other site is there that could: where all are lost, nobody is asked
    in the place of another without end."""
    if any(not is_lost(turn, s) for s in pending):
        return True
    others = [s for s in turn.state.sites if s not in pending and may_initialise(turn, s)]
    return bool(pending) and all(is_lost(turn, s) for s in others)


def _quorum(turn: Turn, stage: Stage) -> bool:
    if is_ring(turn):
        return bool(stage.answers)
    if len(stage.answers) < turn.rules.min_sites or not set(turn.state.required) <= set(stage.answers):
        return False
    samples = sum(share.samples for share in stage.answers.values())
    return stage.kind is Kind.EVALUATE or samples >= turn.rules.min_samples


def _hopeless(turn: Turn, stage: Stage) -> bool:
    """All who were asked have answered or failed, and nobody else is there to be asked."""
    if not turn.state.sites:
        return False
    if is_ring(turn):
        return bool(stage.sites)
    return all(s in stage.sites for s in turn.state.sites)


def _why_no_quorum(turn: Turn, stage: Stage) -> str:
    state, rules = turn.state, turn.rules
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


def _may_skip_open(turn: Turn, stage: Stage) -> bool:
    return not stage.answers and all(may_skip(turn, s) for s in (stage.sites or ("",)))


def skip(turn: Turn) -> None:
    """Pass by a train stage."""
    turn.state = replace(turn.state, cursor=turn.state.cursor + 1)
    turn.close_round()


def _close(turn: Turn, stage: Stage) -> bool:
    """Take no more answers; True where there is nothing to fold."""
    state = turn.state
    unanswered = [s for s in stage.sites if s not in stage.answers and s not in stage.missing]
    missing = {
        s: absence(turn, s) for s in state.sites if s not in stage.answers and concerns(turn, stage, s)
    }
    missing |= stage.missing
    closing = replace(stage, closing=True, missing=missing)
    train = stage.kind is Kind.TRAIN
    turn.state = replace(
        state,
        stage=closing,
        late=state.late | set(unanswered),
        owed={**state.owed, **{s: stage.instruction(s) for s in unanswered}},
        visited=(*state.visited, *sorted(stage.answers)) if train else state.visited,
        last_rounds={**state.last_rounds, **dict.fromkeys(stage.answers, stage.round)}
        if train
        else state.last_rounds,
        durations=_unlearnt(turn, stage, unanswered),
        reason="RoundTimedOut" if unanswered else "QuorumReached",
        message=_without(turn, stage, unanswered),
    )
    turn.effects.append(Closed(closing, missing))
    if not stage.answers:
        turn.state = replace(turn.state, stage=None)
        skip(turn)
        return True
    turn.effects.append(Closing(closing))
    return False


def _unlearnt(
    turn: Turn, stage: Stage, unanswered: Sequence[str]
) -> Mapping[Kind, Mapping[str, tuple[float, ...]]]:
    """What a site took before says nothing of one that has become slower: it has until the deadline once it is back."""
    known = turn.state.durations
    if not unanswered or stage.kind not in known:
        return known
    left = {s: took for s, took in known[stage.kind].items() if s not in unanswered}
    return {**known, stage.kind: left}


def _without(turn: Turn, stage: Stage, unanswered: Sequence[str]) -> str:
    if not unanswered:
        return ""
    text = f"Closed without {', '.join(unanswered)}."
    missing = 100 * (1 - share_in(turn, stage))
    return f"{text} {missing:.0f} % of the training cases are missing." if turn.state.shares else text
