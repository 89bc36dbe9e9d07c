"""The round machine: what a study does next. Pure: `step(state, event)` gives the next state and what to do about it.

Statistics of all sites → initial weights by the first site that answers → rounds (the algorithm's train stages, then now
and then an evaluation) → a last evaluation on the test splits → finish. At most one stage is open. A stage closes when all
sites it waits for have answered or failed, or at its deadline, given a quorum; without one the study waits and says so.
A site that misses a deadline is waited for no more until it gives a sign of life: a lost site costs one deadline, once.
One whose stream has been gone for the grace costs not even that, where the others make a quorum. A site that is connected
has several times what it took before, and until the deadline where too many of the training cases are its own: the stream
says alive, durations say slow. All times are the aggregator's.

`arrivals`: what an event changes. `closing`: when the open stage ends. `following`: what comes next. `expected`: who is waited for.
"""

from __future__ import annotations

from fedstudy.aggregator.rounds.arrivals import take
from fedstudy.aggregator.rounds.closing import consider
from fedstudy.aggregator.rounds.expected import accepts, next_moment, open_stage
from fedstudy.aggregator.rounds.following import go_on
from fedstudy.aggregator.rounds.rules import Rules
from fedstudy.aggregator.rounds.turn import Turn
from fedstudy.aggregator.state import Connected, Disconnected, Effect, Event, Restarted, SitesSet, State

__all__ = ["Rules", "accepts", "next_moment", "open_stage", "step"]


def step(rules: Rules, state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The next state and its effects. Events that do not matter change nothing."""
    if state.over and not isinstance(event, Connected | Disconnected | SitesSet | Restarted):
        return state, ()
    turn = Turn(rules, state, event.now)
    take(turn, event)
    if not turn.state.over:
        _settle(turn)
    return turn.state, tuple(turn.effects)


def _settle(turn: Turn) -> None:
    """Go on until the machine waits for something outside."""
    while not turn.state.over:
        stage = turn.state.stage
        if stage is None:
            if not go_on(turn):
                return
        elif stage.closing or not consider(turn, stage):
            return
