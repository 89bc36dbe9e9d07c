"""The keyed work queue: what is to be reconciled next. De-duplicated, never two workers on one key, backing off by key.

`Schedule` is the whole logic, without a clock and without asyncio, so that it can be tested by itself; `WorkQueue` adds time and workers.
A key that is taken answers every request made before: what was put off for it is dropped. A request that comes while the key is
being worked on is kept, and the key is due again when the work is done.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fedstudy.logs import log

K = TypeVar("K", bound=Hashable)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """How long to wait after the n-th failure in a row: base · 2ⁿ⁻¹ up to the limit, times a random factor of 0.5 to 1."""

    base: float = 0.5
    limit: float = 300.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds. `chance` is uniform in [0, 1)."""
        return min(self.limit, self.base * 2.0 ** min(failures - 1, 60)) * (0.5 + chance / 2)


@dataclass
class Schedule(Generic[K]):
    """Which keys are ready, at work, and put off. Times are seconds of any one clock."""

    ready: dict[K, None] = field(default_factory=dict)
    patient: dict[K, None] = field(default_factory=dict)
    """Ready too, but only taken when nothing else is."""
    working: set[K] = field(default_factory=set)
    again: set[K] = field(default_factory=set)
    later: dict[K, float] = field(default_factory=dict)
    failures: dict[K, int] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)
    _count: int = 0

    def add(self, key: K, *, haste: bool = True) -> None:
        """The key is due now; without haste, after those that are in haste."""
        if key in self.working:
            self.again.add(key)
        elif haste:
            self.patient.pop(key, None)
            self.ready.setdefault(key)
        elif key not in self.ready:
            self.patient.setdefault(key)

    def add_at(self, key: K, when: float) -> None:
        """The key is due at a time, or earlier where that was asked for already."""
        if key in self.later and self.later[key] <= when:
            return
        self.later[key] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, key))

    def advance(self, now: float) -> float | None:
        """Make what is due ready. Returns the time of the next that is not due, if any."""
        while self._heap:
            when, _, key = self._heap[0]
            if self.later.get(key) != when:  # taken, or asked for earlier
                heapq.heappop(self._heap)
            elif when <= now:
                heapq.heappop(self._heap)
                del self.later[key]
                self.add(key)
            else:
                return when
        return None

    def take(self) -> K | None:
        """The key that has been ready longest, now at work; None where there is none."""
        waiting = self.ready or self.patient
        if not waiting:
            return None
        key = next(iter(waiting))
        del waiting[key]
        self.later.pop(key, None)
        self.working.add(key)
        return key

    def done(self, key: K, *, failed: bool) -> int:
        """The work on a key has ended. Returns how often in a row it has failed."""
        self.working.discard(key)
        if failed:
            self.failures[key] = self.failures.get(key, 0) + 1
        else:
            self.failures.pop(key, None)
        if key in self.again:
            self.again.discard(key)
            self.ready.setdefault(key)
        return self.failures.get(key, 0)


Worker = Callable[[K], Awaitable[float | None]]
"""Works on a key; returns seconds after which to do so again, or None."""


@dataclass(frozen=True)
class Figures:
    """A queue at one moment: keys, and seconds of the passes under way."""

    ready: int
    adds: int
    retries: int
    unfinished_seconds: float
    longest_seconds: float


class WorkQueue(Generic[K]):
    """A schedule with a clock and workers.

    Args:
        backoff: after failures.
        seed: of the jitter.
    """

    def __init__(self, *, backoff: Backoff | None = None, seed: int | None = None) -> None:
        self._schedule: Schedule[K] = Schedule()
        self._backoff = backoff or Backoff()
        self._random = random.Random(seed)
        self._wake = asyncio.Event()
        self._started: dict[K, float] = {}
        self._adds = self._retries = 0

    def figures(self) -> Figures:
        """What is going on now; asked from within the loop."""
        now = asyncio.get_running_loop().time()
        since = [now - started for started in self._started.values()]
        return Figures(self._waiting(), self._adds, self._retries, sum(since), max(since, default=0.0))

    def __len__(self) -> int:
        return self._waiting() + len(self._schedule.working)

    def _waiting(self) -> int:
        return len(self._schedule.ready) + len(self._schedule.patient)

    def add(self, key: K, *, haste: bool = True) -> None:
        """The key is due now; without haste, after those that are in haste."""
        self._adds += 1
        self._schedule.add(key, haste=haste)
        self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """The key is due in so many seconds, or earlier where that was asked for already."""
        self._schedule.add_at(key, asyncio.get_running_loop().time() + seconds)
        self._wake.set()

    async def run(self, worker: Worker[K], *, workers: int = 1) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(worker))

    async def _take(self) -> K:
        loop = asyncio.get_running_loop()
        while True:
            due = self._schedule.advance(loop.time())
            key = self._schedule.take()
            if key is not None:
                if self._waiting():
                    self._wake.set()
                return key
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _work(self, worker: Worker[K]) -> None:
        while True:
            key = await self._take()
            again: float | None = None
            failed = False
            self._started[key] = asyncio.get_running_loop().time()
            try:
                again = await worker(key)
            except Exception as error:
                failed = True
                self._retries += 1
                log(
                    _logger,
                    logging.WARNING,
                    "A pass failed; it is tried again.",
                    key=str(key),
                    error=repr(error),
                )
                _logger.debug("traceback", exc_info=error)
            finally:
                del self._started[key]
                failures = self._schedule.done(key, failed=failed)
                self._wake.set()
            if failed:
                again = self._backoff.delay(failures, self._random.random())
            if again is not None:
                self.add_after(key, again)
