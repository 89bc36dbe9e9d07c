"""Who may move bytes now: a few streams at a time, in order, so that hundreds of them take no more memory than a few.

gRPC holds several copies of what is read or written, of every stream that has something under way: up to its flow control
window, which it widens for a fast peer, and a message. A stream that waits for its place here holds nothing.

A place is for a stream that keeps us busy. One that does not, since its peer's line is slow, gives its place to the next and
goes on beside it: at its pace it needs little of the window. So many slow ones do not hold the others up. While those that have
places move enough together, or we come too late to look, none is given away: a stream that seems slow then may only have to share
our processor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedstudy.errors import ConnectionLostError

AT_ONCE = 2
"""Streams that have a place at the same time."""

SLOW = 28
"""Uploads that go on beside them, slowly."""

IDLE = 10.0
"""Seconds after which an upload of which nothing comes has to begin again, where others wait for its place."""

_MOMENT = 0.25  # seconds between two looks at a stream
_LATE = 0.025  # seconds; a look that comes later found the loop, or the processor, busy
_PATIENT = 2  # looks in a row that find a stream slow before it gives its place away: one may fall to its peer's first moment
_SLOW_RATE = 16 << 20  # bytes a second; below, a stream waits for its peer and not for us


class Places:
    """The places of one listener's streams, first come, first served.

    Args:
        slow: how many streams may go on beside those that have a place; None: any number.
    """

    def __init__(self, slow: int | None = None) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._moves: dict[Place, int] = {}  # what each that has a place has moved in its last moment
        self._slow, self._waiting = slow, 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Place]:
        """A place for a stream, for the time of the block.

        Raises:
            ConnectionLostError: from the block: nothing was moved for long, and others wait.
        """
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        place = Place(self)
        try:
            async with asyncio.timeout(None) as place.limit:
                yield place
        except TimeoutError:
            if not place.limit.expired():
                raise
            raise ConnectionLostError(
                f"Nothing came for {IDLE:g} seconds, and others wait.", "Go on with what is left."
            ) from None
        finally:
            place.end()

    def is_slow(self, place: Place, moved: int) -> bool:
        """Whether a stream that moved so much in its last moment has its peer to wait for."""
        self._moves[place] = moved
        enough = _SLOW_RATE * _MOMENT
        return moved < enough and sum(self._moves.values()) < AT_ONCE * enough

    def lend(self, place: Place) -> bool:
        """Give a slow stream's place to the next; False where too many are slow already."""
        if self._slow == 0:
            return False
        del self._moves[place]
        self._slow = None if self._slow is None else self._slow - 1
        self._free.release()
        return True

    def free(self, place: Place, *, lent: bool) -> None:
        """A stream has ended."""
        self._moves.pop(place, None)
        if not lent:
            self._free.release()
        elif self._slow is not None:
            self._slow += 1

    @property
    def short(self) -> bool:
        """Whether an idle stream keeps others waiting."""
        return self._slow is not None and self._waiting > 0


class Place:
    """A stream's place; it says `moved` of all that it moves.

    Attributes:
        limit: ends the block that the place was made for.
    """

    limit: asyncio.Timeout

    def __init__(self, places: Places) -> None:
        self._loop = asyncio.get_running_loop()
        self._places, self._bytes, self._idle = places, 0, 0.0
        self._lent = self._ended = False
        self._slow_looks = 0
        self._timer = self._loop.call_later(_MOMENT, self._look)
        self._due = self._loop.time() + _MOMENT

    def moved(self, size: int) -> None:
        """So many bytes came or went."""
        self._bytes += size

    def end(self) -> None:
        """Nothing more will be moved: the place is for the next. At the latest at the end of the block."""
        self._timer.cancel()
        if not self._ended:
            self._ended = True
            self._places.free(self, lent=self._lent)

    def _look(self) -> None:
        moved, self._bytes = self._bytes, 0
        self._idle = 0.0 if moved else self._idle + _MOMENT
        if not self._lent:
            late = self._loop.time() - self._due > _LATE
            self._slow_looks = self._slow_looks + 1 if self._places.is_slow(self, moved) and not late else 0
            self._lent = self._slow_looks >= _PATIENT and self._places.lend(self)
        if self._idle >= IDLE and self._places.short:
            self.limit.reschedule(self._loop.time())
            return
        self._timer = self._loop.call_later(_MOMENT, self._look)
        self._due = self._loop.time() + _MOMENT
