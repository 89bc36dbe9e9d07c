"""The network between a hospital and the hub is lost in the middle of a transfer, for longer than keepalive, and comes back.

Scaled in time: keepalive and dialling are 25 times as fast as in `fedstudy.wire.channel`, so that a loss of seconds here is one of a
minute there; nothing else knows how long it lasts.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest
from study import load_helpers
from wire_that_breaks import Wire, wire_to

from fedstudy.agent import upstream
from fedstudy.wire import channel

helpers = load_helpers("agent")
World = Any  # tests/agent/conftest.py
world = helpers.world

MIB = 1 << 20
BIG = {"weight": np.arange(6 * MIB, dtype=np.float32) % 1000}
"""24 MiB: more than what the kernel and grpc keep on the way."""


@pytest.fixture(autouse=True)
def _fast_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {
        "grpc.keepalive_time_ms": 600,
        "grpc.keepalive_timeout_ms": 400,
        "grpc.http2.ping_timeout_ms": 400,
        "grpc.http2.min_ping_interval_without_data_ms": 100,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 100,
    }
    for name in ("_CLIENT", "_SERVER"):
        options = dict(getattr(channel, name)) | fast
        monkeypatch.setattr(channel, name, list(options.items()))
    monkeypatch.setattr(upstream, "DIAL_SECONDS", 1.0)


async def lose_and_restore(world: World, wire: Wire) -> None:
    """Once the network is lost, wait until both ends have noticed, and then bring it back."""
    await world.until(lambda: wire.lost, "the network is lost")
    await world.until(lambda: world.hub.followers == 0, "the hub notices")
    await world.shows(connected=False, reason="DialFailed")
    wire.restore()
    await world.shows(connected=True)


async def test_an_upload_goes_on_where_it_was_cut(world: World) -> None:
    async with wire_to(world.hub.port) as wire:
        world.settings = dataclasses.replace(world.settings, upstream=f"127.0.0.1:{wire.port}")
        async with world.agent(), world.trainer.following(world.hub.plan) as work:
            await world.operator.configure()
            model = world.hub.blobs.add_tensors({"constant.scale": np.ones(1, np.float32), **BIG})
            named = world.hub.give("TRAIN", 1, {"model": model})
            instruction = await asyncio.wait_for(work.get(), 30)
            wire.limit_up = wire.up + 10 * MIB
            blob = await world.trainer.answer(instruction, BIG)
            await lose_and_restore(world, wire)
            await world.until(lambda: named in world.hub.answers, "the answer arrives")
    assert world.hub.answers[named] == blob
    assert len(world.hub.submissions) >= 2
    assert wire.up < 1.5 * blob.size  # not from the beginning again


async def test_a_download_goes_on_where_it_was_cut(world: World) -> None:
    async with wire_to(world.hub.port) as wire:
        world.settings = dataclasses.replace(world.settings, upstream=f"127.0.0.1:{wire.port}")
        async with world.agent(), world.trainer.following(world.hub.plan) as work:
            await world.operator.configure()
            await world.shows(connected=True)
            model = world.hub.blobs.add_tensors(BIG)
            wire.limit_down = wire.down + 10 * MIB
            named = world.hub.give("TRAIN", 1, {"model": model})
            await lose_and_restore(world, wire)
            assert (await asyncio.wait_for(work.get(), 30)).id == named
            await world.trainer.answer(named, BIG)
            await world.until(lambda: named in world.hub.answers, "the answer arrives")
    assert wire.down < 1.5 * model.size
