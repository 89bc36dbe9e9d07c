"""Whose answer counts, who is waited for and until when, and who can be done without."""

from __future__ import annotations

import math
from statistics import median

from fedstudy.aggregator.rounds.rules import FEWEST, SHARE, SLACK, Rules
from fedstudy.aggregator.rounds.turn import Turn
from fedstudy.aggregator.state import Kind, Stage, State


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
    slow = [expected_until(rules, state, stage, s) for s in stage.sites if s not in stage.answers]
    return min([stage.deadline, *(end for end in (*graces, *slow) if end > now)])


def expected_until(rules: Rules, state: State, stage: Stage, site: str) -> float:
    """Until when a site's answer is waited for, by what its former ones took."""
    before = state.durations.get(stage.kind, {}).get(site, ())
    if len(before) < FEWEST:
        return stage.deadline
    patience = max(rules.grace, SLACK * median(before))
    return min(stage.deadline, max(stage.opened, stage.resumed) + patience)


def participants(turn: Turn) -> tuple[str, ...]:
    """All but the lost (those that missed a deadline and are still away), as long as the others make a quorum."""
    state = turn.state
    here = tuple(s for s in state.sites if s in state.connected or s not in state.late or s in state.required)
    return here if len(here) >= turn.rules.min_sites else state.sites


def is_lost(turn: Turn, site: str) -> bool:
    """Whether a site's stream has been gone for the grace."""
    return turn.now >= turn.state.gone.get(site, math.inf) + turn.rules.grace


def may_initialise(turn: Turn, site: str) -> bool:
    """Whether a site has not failed to make the weights."""
    return not turn.state.tried.get(site, "").startswith("Failed")


def is_slow(turn: Turn, stage: Stage, site: str) -> bool:
    """Whether a site takes far longer than ever, and the others have so many of the cases that they can go on."""
    return turn.now >= expected_until(turn.rules, turn.state, stage, site) and share_in(turn, stage) >= SHARE


def share_in(turn: Turn, stage: Stage) -> float:
    """The part of the stage's known training cases whose sites have answered."""
    known = {s: share.samples for s, share in turn.state.shares.items() if s in stage.sites}
    return sum(n for s, n in known.items() if s in stage.answers) / max(1, sum(known.values()))


def absence(turn: Turn, site: str) -> str:
    """Why a site has not answered, as far as is known here."""
    return "NoAnswer" if site in turn.state.connected else "Disconnected"


def concerns(turn: Turn, stage: Stage, site: str) -> bool:
    """Whether a site is missing from a stage that it has not answered; one stage of a ring, or of the weights, is another's."""
    return site in stage.sites or not (stage.kind is Kind.INITIALISE or is_ring(turn))


def is_ring(turn: Turn) -> bool:
    """Whether the sites train one after another, and it is the turn of one now."""
    state = turn.state
    ring = len(state.round_stages) > 1 and state.cursor < len(state.round_stages)
    stage = state.stage
    return (
        ring
        and len(state.round_stages[state.cursor].sites) == 1
        and (stage is None or stage.kind is Kind.TRAIN)
    )


def may_skip(turn: Turn, site: str) -> bool:
    """Whether the ring can pass by this site and the round still reach its quorum."""
    state = turn.state
    if site in state.required:
        return False
    left = [s for stage in state.round_stages[state.cursor + 1 :] for s in stage.sites if s in state.sites]
    possible = {*state.visited, *left}
    samples = sum(state.shares[s].samples for s in possible if s in state.shares)
    return len(possible) >= turn.rules.min_sites and samples >= turn.rules.min_samples
