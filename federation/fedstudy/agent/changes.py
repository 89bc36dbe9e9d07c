"""A wake-up call for all who wait: lossless as long as one takes the next call before one looks at the state."""

from __future__ import annotations

import asyncio


class Changes:
    """Broadcasts that something changed.

    Use: `changed = changes.next()`, look at the state, act, then `await changed.wait()`. A change between taking and waiting
    is not lost, because it sets the very event that was taken.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The event that the next change sets."""
        return self._event

    def notify(self) -> None:
        """Wake everybody who holds the current event."""
        event, self._event = self._event, asyncio.Event()
        event.set()
