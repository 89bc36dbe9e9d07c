"""SIGKILL of the agent's process before every commit and every file it makes: each answer arrives once, the ledger is whole."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

import grpc
import pytest
from mortal import Kill, Nursery, nursery
from study import load_helpers

from fedstudy.agent.ledger import entries, verify
from fedstudy.errors import FedstudyError, RefusedError
from fedstudy.wire import federation_pb2 as pb

helpers = load_helpers("agent")
World = Any  # tests/agent/conftest.py

world = helpers.world  # the fixture: a fake hub, and the settings of an agent


class Hospital:
    """A hub that asks for two rounds, a trainer that answers, and an agent that is killed once."""

    def __init__(self, world: World, born: Nursery, name: str, kill: Kill) -> None:
        self.world, self.born, self.kill = world, born, kill
        state = world.folder / f"state-{name}"
        self.environment = world.environment() | {"FEDSTUDY_STATE": str(state)}
        self.ledger = state / "ledger.jsonl"
        self.killed, self.where, self.moments = False, "", 0

    async def to_its_end(self) -> dict[str, str]:
        """Instruction → digest of its answer at the hub."""
        hub = self.world.hub
        hub.answers.clear()
        hub.open_instructions.clear()
        hub.submissions.clear()
        tasks = [asyncio.create_task(self._live()), asyncio.create_task(self._configure())]
        try:
            async with asyncio.timeout(60), self.world.trainer.following(hub.plan) as work:
                tasks.append(asyncio.create_task(self._train(work)))
                for round in (1, 2):
                    named = hub.give_training(round)
                    await self.world.until(lambda named=named: named in hub.answers, self.where, 40)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return {named: blob.digest for named, blob in hub.answers.items()}

    async def _configure(self) -> None:
        """The operator tells an agent its wishes again and again: they may not yet have come when it was killed."""
        while True:
            with suppress(grpc.aio.AioRpcError):  # it is dead just now
                await self.world.operator.configure()
            await asyncio.sleep(0.1)

    async def _train(self, work: asyncio.Queue[pb.Instruction]) -> None:
        while True:
            instruction = await work.get()
            try:
                await self.world.trainer.answer(instruction, self.world.update)
            except RefusedError:
                continue
            except FedstudyError:
                work.put_nowait(instruction)

    async def _live(self) -> None:
        """The agent, which comes back when it was killed."""
        process = await self.born.start(self.environment, self.kill)
        try:
            while True:
                code = await asyncio.shield(process.ended)
                assert code == -signal.SIGKILL, code
                self.killed, self.where = True, f"{self.kill}: {process.latest}"
                process = await self.born.start(self.environment)
        finally:
            process = await self.born.latest()  # a start may have been cancelled before it told us
            process.signal(signal.SIGTERM)
            await asyncio.wait({process.ended}, timeout=20)
            assert process.ended.done(), f"it does not stop; {self.where}"
            code = process.ended.result()
            self.moments = process.moments
            if code == -signal.SIGKILL:
                self.killed, self.where = True, f"{self.kill}: {process.latest}"


async def kill_everywhere(world: World, *, after: bool, files: bool, step: int = 1) -> int:
    """Once for each moment (or every step-th); how many times the agent was killed."""
    async with nursery("fedstudy.agent", world.folder / "processes") as born:
        whole = Hospital(world, born, "whole", Kill(files=files))
        expected = await whole.to_its_end()
        kills, fewest = 0, whole.moments
        for moment in range(1, whole.moments + 1, step):
            run = Hospital(world, born, str(moment), Kill(moment, after, files))
            assert await run.to_its_end() == expected, run.where
            verify(run.ledger)
            answers = [entry.instruction for entry in entries(run.ledger) if entry.what == "answer"]
            assert answers == list(expected), run.where
            kills += run.killed
            if not run.killed:
                fewest = min(fewest, run.moments)
    assert kills * step >= 0.8 * fewest
    return kills


async def test_killed_at_every_eighth_commit(world: World) -> None:
    assert await kill_everywhere(world, after=False, files=False, step=8) >= 3


@pytest.mark.slow
async def test_killed_after_every_commit_and_every_change_of_a_file(world: World) -> None:
    assert await kill_everywhere(world, after=True, files=True) > 30


@pytest.mark.slow
async def test_killed_before_every_commit_and_every_change_of_a_file(world: World) -> None:
    assert await kill_everywhere(world, after=False, files=True) > 30
