"""The agent's whole state in one place, watched by the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fedstudy.agent.changes import Changes
from fedstudy.wire.admin import AgentState

COALESCE_SECONDS = 0.2
"""Changes closer together than this reach a watcher as one."""


class Board:
    """Holds the AgentState; every change wakes the watchers."""

    def __init__(self) -> None:
        self.state = AgentState()
        self._changes = Changes()
        self._closed = False

    def update(self, **changes: Any) -> None:
        """Replace fields of the state."""
        state = self.state.model_copy(update=changes)
        if state != self.state:
            self.state = state
            self._changes.notify()

    async def watch(self) -> AsyncIterator[AgentState]:
        """The state at once, then again after every change, at most five times a second; ends when the board is closed."""
        while not self._closed:
            changed, shown = self._changes.next(), self.state
            yield shown
            await asyncio.sleep(COALESCE_SECONDS)
            if self.state is shown and not self._closed:
                await changed.wait()

    def close(self) -> None:
        """End all watching."""
        self._closed = True
        self._changes.notify()
