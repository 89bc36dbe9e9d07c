"""A heartbeat says that a trainer lives, and no more: silence is told, and another trainer may take the work up (issue 4, item 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.clock import Clock

from fedstudy.agent.board import Board
from fedstudy.agent.presence import SILENT_SECONDS, Presence
from fedstudy.agent.settings import Settings
from fedstudy.errors import ManifestError
from fedstudy.wire import federation_pb2 as pb

SILENT = 1.0


@pytest.fixture
async def at_work(world: Any) -> AsyncIterator[tuple[Any, str]]:
    """A trainer has taken an instruction of an agent that waits a second for signs of life."""
    world.settings = replace(world.settings, silent=SILENT)
    async with world.agent():
        await world.operator.configure()
        instruction = world.hub.give_training()
        await world.shows(work=instruction)
        async with world.trainer.following(world.hub.plan) as got:
            assert (await asyncio.wait_for(got.get(), 10)).id == instruction
            yield world, instruction


async def test_a_trainer_that_shows_no_sign_of_life_is_silent_until_it_shows_one(at_work: Any) -> None:
    world, _ = at_work
    await world.shows(trainer_silent=True)
    seen = world.state.trainer_last_seen
    assert seen
    await world.trainer.stub.Report(pb.ReportRequest())
    await world.shows(trainer_silent=False)
    assert world.state.trainer_last_seen >= seen


@pytest.fixture
def taken() -> tuple[Board, Presence, Clock]:
    """A trainer has taken an instruction just now."""
    board, clock = Board(), Clock()
    presence = Presence(board, clock=clock)
    board.update(work="0001-000-train-a")
    presence.took("0001-000-train-a")
    return board, presence, clock


def test_a_trainer_that_gets_nowhere_for_an_hour_but_lives_is_not_silent(taken: Any) -> None:
    """However long it takes: who is too slow is for the hub's deadlines to say."""
    board, presence, clock = taken
    for _ in range(3600 // 4):
        clock.now += 4
        presence.show()
        assert not board.state.trainer_silent
        presence.seen()
    clock.now += SILENT_SECONDS + 1
    presence.show()
    assert board.state.trainer_silent


async def test_each_chunk_of_a_long_transfer_is_a_sign_of_life(taken: Any) -> None:
    board, presence, clock = taken

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            clock.now += SILENT_SECONDS / 2
            yield b""

    async for _ in presence.of_stream(chunks()):
        presence.show()
        assert not board.state.trainer_silent


def test_a_trainer_is_not_blamed_for_the_agents_own_work(taken: Any) -> None:
    board, presence, clock = taken
    with presence.checking():
        clock.now += 10 * SILENT_SECONDS
        presence.show()
    presence.show()
    assert not board.state.trainer_silent


@pytest.mark.parametrize("work", ["", "0001-001-evaluate-a"])
def test_a_trainer_that_has_not_taken_the_work_need_not_speak(taken: Any, work: str) -> None:
    board, presence, clock = taken
    board.update(work=work)
    clock.now += 10 * SILENT_SECONDS
    presence.show()
    assert not board.state.trainer_silent


async def test_the_work_of_a_silent_trainer_is_taken_up_by_the_next_and_its_own_late_answer_does_no_harm(
    at_work: Any,
) -> None:
    world, instruction = at_work
    await world.shows(trainer_silent=True)
    before = len(world.operator.seen)
    async with world.trainer.following(world.hub.plan) as second:
        given = await asyncio.wait_for(second.get(), 10)
        assert given.id == instruction
        await world.until(
            lambda: any(not state.trainer_silent for state in world.operator.seen[before:]), "heard again"
        )
        await world.trainer.answer(given, world.update, samples=3)
    await world.until(lambda: instruction in world.hub.answers, "the answer reaches the hub")
    first = world.hub.answers[instruction]
    await world.trainer.answer(given, {"weight": 2 * world.update["weight"]}, samples=4)
    await world.shows(work="", failure="")
    assert world.hub.answers[instruction] == first


async def test_a_trainer_that_does_not_come_back_to_an_agent_that_was_away_is_silent(world: Any) -> None:
    world.settings = replace(world.settings, silent=SILENT)
    async with world.agent():
        await world.operator.configure()
        instruction = world.hub.give_training()
        await world.shows(work=instruction)
    async with world.agent():
        await world.shows(work=instruction, trainer_silent=True)


def test_a_limit_that_is_none_is_refused(world: Any) -> None:
    for text in ("soon", "0", "nan", "inf"):
        with pytest.raises(ManifestError, match="FEDSTUDY_TRAINER_SILENT"):
            Settings.from_environment({**world.environment(), "FEDSTUDY_TRAINER_SILENT": text})
