"""Who may move a chunk now: a few streams at a time, in order, so that hundreds of them take no more memory than a few.

gRPC holds several copies of a message while it is read or written, of every stream that has one under way; a stream that waits
here holds only what its flow control window lets in. A slow peer does not hold the others up: its turn ends after a moment,
though its chunk does not.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

AT_ONCE = 4
"""Streams that move a chunk at the same time."""

_MOMENT = 0.25  # seconds; a turn that lasts longer waits for the peer, not for us


class Turns:
    """The turns of one listener's streams, first come, first served."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    def one(self) -> Turn:
        """A turn for one chunk, as an asynchronous context manager."""
        return Turn(self._free)


class Turn:
    """One turn; it ends with its block, or before."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free, self._held = free, False

    async def __aenter__(self) -> None:
        await self._free.acquire()
        self._held = True
        self._timer = asyncio.get_running_loop().call_later(_MOMENT, self._end)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._end()

    def _end(self) -> None:
        if self._held:
            self._held = False
            self._free.release()
