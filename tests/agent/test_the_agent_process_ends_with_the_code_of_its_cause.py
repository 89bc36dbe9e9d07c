"""The agent as a process: what it says and how it ends when it cannot start, and when it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import sys
from typing import Any

import pytest

from fedstudy.agent.ledger import verify
from fedstudy.descriptors import ENOUGH

World = Any  # tests/agent/conftest.py


async def run(environment: dict[str, str]) -> asyncio.subprocess.Process:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FEDSTUDY_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fedstudy.agent", env=inherited | environment, stderr=asyncio.subprocess.PIPE
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int, list[dict[str, Any]]]:
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    lines = [json.loads(line) for line in errors.decode().splitlines() if line.startswith("{")]
    assert "Traceback" not in errors.decode()
    return process.returncode or 0, lines


async def test_missing_settings_are_named_all_at_once(world: World) -> None:
    code, lines = await end(await run({"FEDSTUDY_SITE": "a"}))
    assert code == 3
    for name in ("FEDSTUDY_TLS", "FEDSTUDY_UPSTREAM", "FEDSTUDY_INVITATION", "FEDSTUDY_STATE"):
        assert name in lines[-1]["event"]


async def test_a_taken_port_is_named(world: World) -> None:
    host, _, port = world.settings.listen.partition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        code, lines = await end(await run(world.environment()))
    assert code == 10
    assert port in lines[-1]["event"]


@pytest.mark.parametrize("harm", [lambda data: data[:-80] + b"x" + data[-79:], lambda data: b""])
async def test_a_ledger_that_was_tampered_with_stops_the_agent(world: World, harm: Any) -> None:
    async with world.agent():
        await world.shows(enrolled=True)
    world.ledger.write_bytes(harm(world.ledger.read_bytes()))
    code, lines = await end(await run(world.environment()))
    assert code == 6
    assert "ledger" in lines[-1]["event"]


async def test_it_makes_room_for_connections(world: World) -> None:
    """As the aggregator does: a shell's soft limit is less than what a hostile client may hold half open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = await run(world.environment())
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (256, hard))  # long before Python has begun
    await world.operator.configure()
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == min(ENOUGH, hard)
    process.terminate()
    await end(process)


@pytest.mark.parametrize(("over", "expected"), [(False, 130), (True, 0)])
async def test_sigterm_stops_it_in_order(world: World, over: bool, expected: int) -> None:
    process = await run(world.environment())
    await world.operator.configure()
    await world.shows(connected=True)
    if over:
        world.hub.give("FINISH")
        await world.shows(finished=True)
    process.terminate()
    code, lines = await end(process)
    assert code == expected
    assert lines[-1]["event"] == "stopped"
    verify(world.ledger)
