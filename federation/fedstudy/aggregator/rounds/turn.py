"""One step of the round machine while it is taken: the state so far, and what is to be done about it."""

from __future__ import annotations

from dataclasses import replace

from fedstudy.aggregator.rounds.rules import Rules
from fedstudy.aggregator.state import Effect, Kind, Opened, PhaseChanged, RoundClosed, Stage, State
from fedstudy.wire.admin import Phase


class Turn:
    """One step while it is taken. `state` is replaced, never changed.

    Attributes:
        now: of the event, in seconds since the epoch.
        effects: so far.
    """

    def __init__(self, rules: Rules, state: State, now: float) -> None:
        self.rules, self.state, self.now = rules, state, now
        self.effects: list[Effect] = []

    def stage(self) -> Stage:
        """The open stage, where there is one for certain."""
        stage = self.state.stage
        assert stage is not None  # what calls this has looked
        return stage

    def phase(self, phase: Phase, reason: str, message: str) -> None:
        """Say where the study is, and why."""
        state = self.state
        if (state.phase, state.reason, state.message) != (phase, reason, message):
            self.state = replace(state, phase=phase, reason=reason, message=message)
            self.effects.append(PhaseChanged(phase, reason, message))

    def end(self, phase: Phase, reason: str, message: str) -> None:
        """End the study; the sites are told."""
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
        self.phase(phase, reason, message)
        self.effects.append(Opened(finish, state.sites))

    def close_round(self) -> None:
        """Say that the round is closed, where its last train stage is."""
        state = self.state
        if state.round and state.cursor == len(state.round_stages):
            self.effects.append(
                RoundClosed(state.round, tuple(sorted(set(state.visited))), self.now - state.round_started)
            )
