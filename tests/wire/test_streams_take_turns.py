"""A few streams move at a time, in order; one that waits for its peer does not hold the others up."""

from __future__ import annotations

import asyncio

from fedstudy.wire.turns import AT_ONCE, Turns


async def test_no_more_than_a_few_move_at_once_and_all_come_to_their_turn() -> None:
    turns, now, most, done = Turns(), 0, 0, list[int]()

    async def stream(number: int) -> None:
        nonlocal now, most
        for _ in range(3):
            async with turns.one():
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1
        done.append(number)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for number in range(5 * AT_ONCE):
            group.create_task(stream(number))
    assert most == AT_ONCE and sorted(done) == list(range(5 * AT_ONCE))


async def test_slow_streams_do_not_hold_the_others_up() -> None:
    turns, never = Turns(), asyncio.Event()

    async def slow() -> None:
        async with turns.one():
            await never.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(slow()) for _ in range(2 * AT_ONCE)]
        await asyncio.sleep(0)
        async with turns.one():
            pass
        assert not any(task.done() for task in waiting)
        never.set()


async def test_a_turn_that_was_cancelled_is_given_back() -> None:
    turns, never = Turns(), asyncio.Event()

    async def slow() -> None:
        async with turns.one():
            await never.wait()

    tasks = [asyncio.create_task(slow()) for _ in range(AT_ONCE)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(10), turns.one():
        pass
