"""Disclosure control over the wire: the trainer is told, the hospital sees it, the hub learns no more than that it failed."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from fedstudy.agent.ledger import entries
from fedstudy.errors import RefusedError, UpdateError
from fedstudy.wire import federation_pb2 as pb

World = Any  # tests/agent/conftest.py


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (lambda update: update | {"patients": np.arange(6, dtype=np.float32)}, "patients"),
        (lambda update: {"weight": np.full((2, 3), np.nan, np.float32)}, "NaN"),
        (lambda update: {"weight": np.ones((3, 2), np.float32)}, "weight"),
    ],
)
async def test_a_wrong_answer_stays_and_a_right_one_may_follow(
    world: World, tensors: Any, fault: str
) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        instruction = await asyncio.wait_for(work.get(), 20)
        with pytest.raises(UpdateError, match=fault):
            await world.trainer.answer(instruction, tensors(world.update))
        await world.until(lambda: fault in world.state.failure)
        await world.shows(work=named)
        await world.until(lambda: world.hub.reports)
        assert world.hub.submissions == []
        await world.trainer.answer(named, world.update)
        await world.until(lambda: named in world.hub.answers)
        await world.shows(failure="")
    assert [r.failure.code for r in world.hub.reports] == ["UpdateError"]
    assert fault not in str(world.hub.reports)
    assert [entry.what for entry in entries(world.ledger)] == ["enrolment", "presence", "failure", "answer"]


async def test_an_evaluation_of_which_no_metrics_come_is_refused(world: World) -> None:
    """What lacks a tensor discloses nothing, but the hospital's own metrics need it; found by `make fuzz`."""
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        world.hub.give("EVALUATE", 1, {"model": world.hub.blobs.add_tensors(world.model)})
        instruction = await asyncio.wait_for(work.get(), 20)
        with pytest.raises(UpdateError, match="No metrics come"):
            await world.trainer.answer(instruction, {})
        await world.until(lambda: "No metrics come" in world.state.failure)
        assert world.hub.submissions == []


async def test_an_answer_that_nobody_asked_for_is_refused(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        await world.shows(connected=True)
        with pytest.raises(RefusedError):
            await world.trainer.answer("0001-000-train-hospital-a", world.update)


async def test_a_trainer_fetches_nothing_but_its_inputs(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        instruction = world.hub.give_training()
        got = await asyncio.wait_for(work.get(), 20)
        await world.trainer.answer(got, world.update)
        await world.until(lambda: instruction in world.hub.answers)
        stranger = pb.Instruction(id="x", inputs=[pb.Input(name="m", digest="blake3:" + "1" * 64, size=4)])
        with pytest.raises(RefusedError):
            await world.trainer.answer(stranger, world.update)


async def test_fields_that_the_protocol_does_not_know_do_not_leave(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        await asyncio.wait_for(work.get(), 20)
        smuggled = pb.Progress(instruction_id=named, samples_done=1)
        smuggled.MergeFromString(b"\x7a\x08Jane Doe")  # field 15, unknown
        assert b"Jane" in smuggled.SerializeToString()
        await world.trainer.stub.Report(pb.ReportRequest(progress=smuggled))
        await world.until(lambda: world.hub.reports)
    assert b"Jane" not in world.hub.reports[0].SerializeToString()
