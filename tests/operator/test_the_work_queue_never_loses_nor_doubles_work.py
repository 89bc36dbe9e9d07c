"""The work queue: what is asked for is done, once at a time, and failures back off."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedstudy_operator.queue import Backoff, Schedule, WorkQueue

_keys = st.sampled_from("abcd")


class ScheduleMachine(RuleBasedStateMachine):
    """Against a model: `owed` are keys asked for since their last start."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule: Schedule[str] = Schedule()
        self.now = 0.0
        self.owed: set[str] = set()
        self.later: dict[str, float] = {}
        self.working: set[str] = set()
        self.failures: Counter[str] = Counter()

    @rule(key=_keys)
    def add(self, key: str) -> None:
        self.schedule.add(key)
        self.owed.add(key)

    @rule(key=_keys, delay=st.integers(0, 5))
    def add_after(self, key: str, delay: int) -> None:
        self.schedule.add_at(key, self.now + delay)
        self.later[key] = min(self.later.get(key, self.now + delay), self.now + delay)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        due = self.schedule.advance(self.now)
        for key, when in list(self.later.items()):
            if when <= self.now:
                self.owed.add(key)
                del self.later[key]
        assert due == min(self.later.values(), default=None)

    @rule()
    def take(self) -> None:
        key = self.schedule.take()
        if key is None:
            assert not self.owed - self.working
            return
        assert key in self.owed
        assert key not in self.working
        self.owed.discard(key)
        self.later.pop(key, None)
        self.working.add(key)

    @rule(key=_keys, failed=st.booleans())
    def done(self, key: str, failed: bool) -> None:
        if key not in self.working:
            return
        self.working.discard(key)
        self.failures[key] = self.failures[key] + 1 if failed else 0
        assert self.schedule.done(key, failed=failed) == self.failures[key]

    @invariant()
    def ready_is_what_is_owed_and_not_at_work(self) -> None:
        assert set(self.schedule.ready) == self.owed - self.working
        assert self.schedule.again == self.owed & self.working


ScheduleMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSchedule = ScheduleMachine.TestCase


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_the_wait_grows_and_has_a_limit(failures: int, chance: float) -> None:
    backoff = Backoff(base=0.5, limit=300)
    delay = backoff.delay(failures, chance)
    assert 0.25 <= delay <= 300
    assert backoff.delay(failures + 1, chance) >= delay


async def test_no_key_is_at_two_workers_at_once_and_each_request_is_answered() -> None:
    queue: WorkQueue[str] = WorkQueue()
    at_work: set[str] = set()
    passes: Counter[str] = Counter()
    enough = asyncio.Event()

    async def worker(key: str) -> None:
        assert key not in at_work
        at_work.add(key)
        passes[key] += 1
        if passes[key] == 1:
            queue.add(key)  # a change while at work asks for another pass
        await asyncio.sleep(0)
        at_work.discard(key)
        if all(passes[k] >= 2 for k in "abc"):
            enough.set()

    task = asyncio.create_task(queue.run(worker, workers=3))
    for key in "abcabcabc":
        queue.add(key)
    async with asyncio.timeout(5):
        await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert passes == Counter(a=2, b=2, c=2)


async def test_a_failing_pass_is_tried_again_until_it_succeeds() -> None:
    queue: WorkQueue[str] = WorkQueue(backoff=Backoff(base=0.001, limit=0.01), seed=1)
    tries = 0
    done = asyncio.Event()

    async def worker(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise RuntimeError("not yet")
        done.set()

    task = asyncio.create_task(queue.run(worker))
    queue.add("a")
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert tries == 4


async def test_a_worker_says_when_it_wants_to_look_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    passes = 0
    done = asyncio.Event()

    async def worker(key: str) -> float | None:
        nonlocal passes
        passes += 1
        if passes == 3:
            done.set()
            return None
        return 0.001

    task = asyncio.create_task(queue.run(worker))
    queue.add("a")
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
