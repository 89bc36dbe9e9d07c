"""A few streams move at a time, in order; one that waits for its peer does not hold the others up."""

from __future__ import annotations

import asyncio

import pytest

from fedstudy.errors import ConnectionLostError
from fedstudy.wire import turns
from fedstudy.wire.turns import AT_ONCE, Places

BUSY = 64 << 20


async def test_no_more_than_a_few_move_at_once_and_all_come_to_their_turn_in_order() -> None:
    places, now, most, begun = Places(0), 0, 0, list[int]()

    async def stream(number: int) -> None:
        nonlocal now, most
        async with places.one() as place:
            begun.append(number)
            now += 1
            most = max(most, now)
            for _ in range(3):
                place.moved(BUSY)
                await asyncio.sleep(0)
            now -= 1

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for number in range(5 * AT_ONCE):
            group.create_task(stream(number))
    assert most == AT_ONCE and begun == list(range(5 * AT_ONCE))


async def test_slow_streams_do_not_hold_the_others_up() -> None:
    places, never = Places(2 * AT_ONCE), asyncio.Event()

    async def slow() -> None:
        async with places.one():
            await never.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(slow()) for _ in range(2 * AT_ONCE)]
        await asyncio.sleep(0)
        async with places.one():
            pass
        assert not any(task.done() for task in waiting)
        never.set()


async def test_no_place_is_given_away_while_those_that_have_one_move_enough_together() -> None:
    places, over = Places(2 * AT_ONCE), asyncio.Event()

    async def slow() -> None:
        async with places.one():
            await over.wait()

    async def fast() -> None:
        async with places.one() as place:
            while not over.is_set():
                place.moved(BUSY)
                await asyncio.sleep(turns._MOMENT / 4)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for stream in [fast, *[slow] * (AT_ONCE - 1)]:
            group.create_task(stream())
        await asyncio.sleep(0)
        last = group.create_task(fast())
        await asyncio.sleep(3 * turns._MOMENT)
        assert places.short
        over.set()
        await last


async def test_no_more_slow_uploads_go_on_than_there_is_memory_for() -> None:
    places, done, never = Places(1), list[str](), asyncio.Event()

    async def slow() -> None:
        async with places.one():
            await never.wait()
            done.append("slow")

    async def next_one() -> None:
        async with places.one():
            done.append("next")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE + 1):
            group.create_task(slow())
        await asyncio.sleep(0)
        last = group.create_task(next_one())
        await asyncio.sleep(3 * turns._MOMENT)
        assert not last.done()
        never.set()
    assert sorted(done) == ["next"] + ["slow"] * (AT_ONCE + 1)


async def test_a_stream_of_which_nothing_comes_loses_its_place_to_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "IDLE", 0.5)
    places, never, lost = Places(0), asyncio.Event(), list[str]()

    async def stalled() -> None:
        try:
            async with places.one():
                await never.wait()
        except ConnectionLostError as error:
            lost.append(error.message)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(stalled())
        await asyncio.sleep(0)
        async with places.one():
            assert lost and all("others wait" in text for text in lost)
            never.set()  # one place was wanted: the others may have kept theirs


async def test_a_stream_of_which_nothing_comes_keeps_its_place_while_nobody_else_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "IDLE", 0.25)
    places = Places(0)
    async with places.one():
        await asyncio.sleep(4 * turns._MOMENT)


async def test_a_place_that_was_cancelled_is_given_back() -> None:
    places, never = Places(0), asyncio.Event()

    async def slow() -> None:
        async with places.one():
            await never.wait()

    tasks = [asyncio.create_task(slow()) for _ in range(2 * AT_ONCE)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(10), places.one():
        pass


async def test_a_place_that_ends_before_its_block_is_given_back_once() -> None:
    places, now, most = Places(0), 0, 0

    async def stream() -> None:
        nonlocal now, most
        async with places.one() as place:
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            place.end()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(5 * AT_ONCE):
            group.create_task(stream())
    assert most == AT_ONCE
