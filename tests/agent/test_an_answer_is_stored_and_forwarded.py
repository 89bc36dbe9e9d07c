"""Store and forward over real mutual TLS, whatever happens to the hub or the agent meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstudy.agent.ledger import entries, verify
from fedstudy.errors import FedstudyError
from fedstudy.measures import classification_statistics
from fedstudy.tensors import HASH, Blob, encode, read
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.blobs import path_of

World = Any  # tests/agent/conftest.py


async def test_an_answer_passes_through_the_ledger_to_the_hub(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        instruction = await asyncio.wait_for(work.get(), 20)
        assert (instruction.id, instruction.kind, instruction.round) == (named, pb.TRAIN, 1)
        assert 50 < instruction.deadline_seconds <= 60
        await world.shows(work=named, connected=True, reason="", enrolled=True, round=1)
        blob = await world.trainer.answer(instruction, world.update, samples=12, loss=0.5)
        await world.until(lambda: named in world.hub.answers, "the hub has the answer")
        await world.until(lambda: world.state.bytes_sent == sum(e.bytes for e in entries(world.ledger)))
    np.testing.assert_array_equal(read(world.hub.blobs.path(blob.digest))["weight"], world.update["weight"])
    assert world.hub.contributions[named].samples == 12
    enrolment, presence, answer = entries(world.ledger)
    assert (enrolment.what, presence.what, answer.what) == ("enrolment", "presence", "answer")
    assert (answer.instruction, answer.kind) == (named, "TRAIN")
    assert (answer.digest, answer.bytes) == (blob.digest, blob.size)
    assert (answer.fields["samples"], answer.fields["loss"]) == (12, 0.5)
    assert verify(world.ledger).entries == 3


async def test_a_trainer_may_end_while_the_hub_is_away(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        async with world.trainer.following(world.hub.plan) as work:
            named = world.hub.give_training()
            instruction = await asyncio.wait_for(work.get(), 20)
            await world.hub.stop()
            await world.trainer.answer(instruction, world.update)  # accepted at the agent
        await world.shows(connected=False, reason="DialFailed", work="")
        await world.hub.start()
        await world.until(lambda: named in world.hub.answers, "the answer is forwarded")


async def test_an_agent_started_again_forwards_what_it_holds_without_a_trainer(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        async with world.trainer.following(world.hub.plan) as work:
            named = world.hub.give_training()
            instruction = await asyncio.wait_for(work.get(), 20)
            await world.hub.stop()
            await world.trainer.answer(instruction, world.update)
    await world.hub.start()
    async with world.agent():
        await world.until(lambda: named in world.hub.answers, "the answer is forwarded")
        await world.shows(connected=True)
    assert len(world.hub.requests) == 1  # the certificate was kept: no second enrolment


async def test_an_instruction_sent_again_after_its_answer_is_answered_from_the_store(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        async with world.trainer.following(world.hub.plan) as work:
            named = world.hub.give_training()
            await world.trainer.answer(await asyncio.wait_for(work.get(), 20), world.update)
            await world.until(lambda: named in world.hub.answers, "the first answer")
        digest = world.hub.answers.pop(named).digest  # the hub lost it, as after a crash
        world.hub.blobs.delete(digest)
        assert world.hub.give_training() == named
        await world.until(lambda: named in world.hub.answers, "the second answer")
        assert world.hub.answers[named].digest == digest
    assert [entry.what for entry in entries(world.ledger)].count("answer") == 1


async def test_an_instruction_sent_twice_is_given_to_the_trainer_once(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        first = world.hub.give_training()
        world.hub.give_training()
        await world.hub.stop()
        await world.hub.start()
        assert (await asyncio.wait_for(work.get(), 20)).id == first
        await world.trainer.answer(first, world.update)
        await world.until(lambda: first in world.hub.answers, "the answer")
        second = world.hub.give_training(round=2)
        assert (await asyncio.wait_for(work.get(), 20)).id == second


async def test_a_known_id_with_other_content_is_refused(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        named = world.hub.give("STATISTICS")
        await world.shows(work=named)
        world.hub.give("STATISTICS", minimum=1)
        await world.shows(reason="PlanRefused", work=named)


async def test_a_trainer_that_comes_back_gets_what_is_not_yet_answered(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        named = world.hub.give_training()
        for _ in range(2):
            async with world.trainer.following(world.hub.plan) as work:
                assert (await asyncio.wait_for(work.get(), 20)).id == named


async def test_a_cancelled_instruction_is_taken_from_the_trainer(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        await asyncio.wait_for(work.get(), 20)
        world.hub.cancel(named)
        cancel = await asyncio.wait_for(work.get(), 20)
        assert cancel.kind == pb.CANCEL
        assert named.encode() in cancel.parameters
        await world.shows(work="")


async def test_an_answer_that_the_hub_no_longer_wants_is_let_go(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        instruction = await asyncio.wait_for(work.get(), 20)
        del world.hub.open_instructions[named]  # closed, and its CANCEL was lost
        await world.trainer.answer(instruction, world.update)
        await world.until(lambda: world.hub.submissions == [named], "the hub refuses it")
        following = world.hub.give_training(round=2)
        assert (await asyncio.wait_for(work.get(), 20)).id == following
        await world.trainer.answer(following, world.update)
        await world.until(lambda: following in world.hub.answers)
        assert world.state.failure == ""
    assert world.hub.submissions == [named, following]


async def test_an_instruction_whose_stage_closed_before_its_inputs_came_is_let_go(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        await world.shows(connected=True)
        old = world.hub.blobs.add_bytes(b"an old model")
        world.hub.withheld.add(old.digest)
        world.hub.give("EVALUATE", 1, {"model": old})
        following = world.hub.give_training(round=2)
        assert (await asyncio.wait_for(work.get(), 20)).id == following
        assert len(world.hub.follows) == 1


async def test_finish_reaches_the_trainer_and_the_final_model_stays(world: World) -> None:
    async with world.agent():
        await world.operator.configure()
        async with world.trainer.following(world.hub.plan) as work:
            model = world.hub.blobs.add_tensors(world.model | world.update)
            named = world.hub.give("FINISH", 3, {"model": model})
            finish = await asyncio.wait_for(work.get(), 20)
            assert (finish.id, finish.kind) == (named, pb.FINISH)
            await world.shows(finished=True, work="")
        async with world.trainer.following(world.hub.plan) as work:  # one that comes late ends, too
            assert (await asyncio.wait_for(work.get(), 20)).kind == pb.FINISH
    async with world.agent():
        await world.shows(finished=True)
    assert path_of(world.settings.state / "blobs", model.digest).exists()


async def test_progress_goes_on_and_a_failures_text_stays(world: World) -> None:
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        await asyncio.wait_for(work.get(), 20)
        for done in range(5):
            progress = pb.Progress(instruction_id=named, samples_done=done, samples_total=9, loss=0.5)
            await world.trainer.stub.Report(pb.ReportRequest(progress=progress))
        failure = pb.Failure(instruction_id=named, code="DataError", message="Row 17: Jane Doe.", final=True)
        await world.trainer.stub.Report(pb.ReportRequest(failure=failure))
        await world.until(lambda: any(r.WhichOneof("report") == "failure" for r in world.hub.reports))
        await world.until(lambda: any(r.WhichOneof("report") == "progress" for r in world.hub.reports))
        await world.shows(failure="DataError: Row 17: Jane Doe.")
        await world.until(lambda: world.state.progress.samples_done == 4)
    sent = [r.failure for r in world.hub.reports if r.WhichOneof("report") == "failure"]
    assert [(f.code, f.final, f.instruction_id) for f in sent] == [("DataError", True, named)]
    assert "Jane" not in str(world.hub.reports)
    assert sum(r.WhichOneof("report") == "progress" for r in world.hub.reports) < 5
    assert {entry.what for entry in entries(world.ledger)} >= {"progress", "failure"}


@asynccontextmanager
async def process(world: World) -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent as a process of its own; killed at the end if it still runs."""
    with Path(world.folder / "agent.log").open("ab") as log:  # noqa: ASYNC230 - a file of the test's own
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fedstudy.agent", env=os.environ | world.environment(), stderr=log
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_an_agent_killed_at_any_moment_loses_nothing(world: World) -> None:
    async with process(world) as first, world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        named = world.hub.give_training()
        instruction = await asyncio.wait_for(work.get(), 30)
        await world.hub.stop()
        await world.trainer.answer(instruction, world.update)
        first.kill()
        await first.wait()
    await world.hub.start()
    async with process(world) as second:
        await world.until(lambda: named in world.hub.answers, "the answer is forwarded", 30)
        second.terminate()
        assert await asyncio.wait_for(second.wait(), 20) == 130
    assert len(world.hub.requests) == 1
    assert verify(world.ledger).entries == 3


async def test_a_hospital_sees_the_metrics_of_its_own_evaluation(world: World) -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    statistics = classification_statistics(probabilities, np.array([0, 1, 1]))
    async with world.agent(), world.trainer.following(world.hub.plan) as work:
        await world.operator.configure()
        model = world.hub.blobs.add_tensors(world.model)
        named = world.hub.give("EVALUATE", 1, {"model": model}, split="validation")
        await world.trainer.answer(await asyncio.wait_for(work.get(), 20), statistics)
        await world.until(lambda: named in world.hub.answers)
        await world.until(lambda: world.state.metrics.get("accuracy") == 1.0)
    async with world.agent():
        await world.until(lambda: world.state.metrics.get("accuracy") == 1.0)


@pytest.mark.slow
async def test_an_agent_killed_again_and_again_gives_each_answer_once(world: World) -> None:
    """Kills at seeded random moments while rounds go on; each answer reaches the hub, and the ledger stays whole."""
    moments, kills, names = random.Random(7), 0, [world.hub.give_training(1)]

    async def train(work: asyncio.Queue[pb.Instruction]) -> None:
        while True:
            instruction = await work.get()
            try:
                await world.trainer.answer(instruction, world.update)
            except FedstudyError:
                continue  # the agent was killed under it: the instruction comes again

    async def kill_now_and_then() -> None:
        nonlocal kills
        while True:
            async with process(world) as one:
                if kills < 8:
                    goal = len(world.hub.answers) + 2
                    await world.until(lambda goal=goal: len(world.hub.answers) >= goal, "a living agent", 30)
                    await asyncio.sleep(moments.uniform(0, 0.05))
                    one.kill()
                    kills += 1
                await one.wait()

    async with world.trainer.following(world.hub.plan) as work, asyncio.TaskGroup() as group:
        tasks = [group.create_task(train(work)), group.create_task(kill_now_and_then())]
        await world.operator.configure()
        while kills < 8:
            await world.until(lambda: names[-1] in world.hub.answers, "an answer", 30)
            names.append(world.hub.give_training(len(names) + 1))
        await world.until(lambda: names[-1] in world.hub.answers, "the last answer", 30)
        for task in tasks:
            task.cancel()
    assert {blob.digest for blob in world.hub.answers.values()} == {encoded(world.update)}
    assert list(world.hub.answers) == names
    answers = [entry.instruction for entry in entries(world.ledger) if entry.what == "answer"]
    assert answers == names
    verify(world.ledger)
    held = list((world.settings.state / "blobs" / HASH).iterdir())
    assert len(held) <= 2  # one model and one answer, the same in all rounds


def encoded(tensors: dict[str, Any]) -> str:
    return Blob.of(encode(tensors)).digest
