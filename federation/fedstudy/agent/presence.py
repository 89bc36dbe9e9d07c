"""Whether the trainer that took the work is still alive: a heartbeat, which says nothing of how long the work takes.

A trainer with work reports every few seconds, however slowly it gets on. Every call of it is a sign of life, and so is every
chunk of a transfer. One that took the work and shows none for the limit is silent: its machine is lost, or it hangs. Its
work stays on offer, so whoever follows next takes it up; who sees to it that somebody does is the operator.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from fedstudy.agent.board import Board
from fedstudy.logs import log

_log = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
"""After so long without a sign of life a trainer with work is silent; it gives one every 4 seconds (`fedstudy_trainer.reporting`)."""

_LOOKS = 10
"""So many times within the limit the board is brought up to date."""

Item = TypeVar("Item")


class Presence:
    """The trainer's signs of life, and what they come to on the board.

    Args:
        limit: seconds.
        clock: monotonic seconds, so that a clock that is set makes nobody silent.
    """

    def __init__(
        self, board: Board, limit: float = SILENT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._board, self._limit, self._clock = board, limit, clock
        self._heard, self._checking = clock(), 0
        self._shown = ""
        self._taken = board.state.work
        if self._taken:  # the agent was away: a trainer that worked has the whole limit to come back
            self.seen()

    def seen(self) -> None:
        """The trainer gave a sign of life."""
        self._heard = self._clock()
        self._shown = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if self._board.state.trainer_silent:
            self.show()

    def took(self, instruction_id: str) -> None:
        """A trainer has been given an instruction."""
        self._taken = instruction_id
        self.seen()

    @contextmanager
    def checking(self) -> Iterator[None]:
        """The trainer waits for us during the block."""
        self._checking += 1
        try:
            yield
        finally:
            self._checking -= 1
            self.seen()

    async def of_stream(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """The items, each of which is a sign of life."""
        async for item in items:
            self.seen()
            yield item
            del item  # a chunk is not to be held while the next one comes

    def show(self) -> None:
        """Bring the board up to date."""
        work = self._board.state.work
        if self._taken != work:
            self._taken = ""  # answered, taken back, or suspended: nobody has the work that is next
        silent = bool(work) and work == self._taken and self._age() > self._limit
        if silent and not self._board.state.trainer_silent:
            log(_log, logging.WARNING, "trainer silent", instruction=work, seconds=round(self._age()))
        self._board.update(trainer_last_seen=self._shown, trainer_silent=silent)

    async def watch(self) -> None:
        """Keep the board up to date until cancelled."""
        while True:
            self.show()
            await asyncio.sleep(self._limit / _LOOKS)

    def _age(self) -> float:
        return 0.0 if self._checking else self._clock() - self._heard
