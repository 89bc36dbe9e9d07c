"""A bell that wakes all who listen: how a change of the study reaches streams and the main loop."""

from __future__ import annotations

import asyncio


class Bell:
    """Take `next()` before looking at the state, then wait for it: no change is missed in between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Is set by the next ring."""
        return self._event

    def ring(self) -> None:
        """Wake all who listen now."""
        old, self._event = self._event, asyncio.Event()
        old.set()
