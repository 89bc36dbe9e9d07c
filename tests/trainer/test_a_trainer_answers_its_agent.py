"""A session from the first plan to FINISH, over real mutual TLS; a scripted agent stands for the hub."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_for_trainer import agent_at
from helpers_for_trainer import dataset, first_model, network, parameters, plan, rows, same_bits, site

from fedstudy.errors import ConnectionLostError, DataError, UpdateError
from fedstudy.measures import classification_metrics
from fedstudy.plan import StudyPlan
from fedstudy.tensors import TensorFile
from fedstudy.wire import federation_pb2 as pb
from fedstudy_trainer.check import preflight
from fedstudy_trainer.learner import train
from fedstudy_trainer.session import run
from fedstudy_trainer.settings import Release


def hospital(tmp_path: Path, study: StudyPlan, columns: dict[str, list[Any]]) -> Path:
    folder = tmp_path / "hospital"
    config = dataset(folder, study, columns)
    (folder / "dataset.json").write_text(config.model_dump_json(by_alias=True))
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return folder


def split_rows(n: int) -> dict[str, list[Any]]:
    return rows(n) | {"split": [("training", "training", "validation", "test")[i % 4] for i in range(n)]}


async def test_a_whole_study_from_statistics_to_finish(tmp_path: Path) -> None:
    study = plan(network="MLP", training={"batchSize": 4})
    folder = hospital(tmp_path, study, split_rows(40))
    async with agent_at(tmp_path, study, folder) as (agent, settings), asyncio.TaskGroup() as group:
        trainer = group.create_task(run(settings))
        statistics = await agent.answer(await agent.instruct("STATISTICS"))
        assert statistics.tensors["count.cases"] == [20]
        held = agent.store.blob(statistics.header.digest)
        assert held is not None
        model = await agent.answer(await agent.instruct("INITIALISE", inputs={"statistics": held}, seed=7))
        local = site(tmp_path / "same", study, split_rows(40))
        start = first_model(study, local)
        assert same_bits(model.tensors, start)
        inputs = {"model": agent.store.blob(model.header.digest), "statistics": held}
        id = await agent.instruct("TRAIN", inputs=inputs, epochs=2, learning_rate=0.1, seed=3)  # type: ignore[arg-type]
        update = await agent.answer(id)
        expected = train(network(study, start), local, study, parameters(study, epochs=2))
        assert same_bits(update.tensors, dict(expected.tensors))
        with TensorFile(update.path) as file:
            assert file.metadata == {"instruction": id, "kind": "TRAIN"}
        said = update.header.contribution
        assert (said.samples, said.events, said.steps) == (20, 0, 10)
        assert said.loss == pytest.approx(expected.contribution.loss)
        judged = await agent.answer(await agent.instruct("EVALUATE", inputs=inputs, split="test"))  # type: ignore[arg-type]
        assert classification_metrics(judged.tensors)["cases"] == 10
        await agent.instruct("FINISH")
        await trainer
    last = [report for report in agent.progress if report.instruction_id == id][-1]
    assert (last.samples_done, last.samples_total) == (40, 40)
    assert np.isfinite(last.loss) and last.seconds_left == 0
    assert not agent.failures


async def test_released_between_rounds_it_ends_with_its_answer(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12))
    async with agent_at(tmp_path, study, folder, release=Release.BETWEEN_ROUNDS) as (agent, settings):
        id = await agent.instruct("STATISTICS")
        await agent.instruct("STATISTICS")
        await run(settings)
        assert list(agent.answers) == [id]


async def test_a_lost_stream_is_opened_again_and_work_is_done_once(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12))
    async with agent_at(tmp_path, study, folder) as (agent, settings), asyncio.TaskGroup() as group:
        trainer = group.create_task(run(settings))
        await agent.until(lambda: agent.streams == 1)
        await agent.cut_stream()
        await agent.until(lambda: agent.streams == 2)
        await agent.answer(await agent.instruct("STATISTICS"))
        await agent.instruct("FINISH")
        await trainer


async def test_a_training_that_fails_is_reported_and_the_next_instruction_answered(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12))
    async with agent_at(tmp_path, study, folder) as (agent, settings), asyncio.TaskGroup() as group:
        trainer = group.create_task(run(settings))
        nonsense = agent.store.add_tensors({"weight": np.zeros(3, np.float32)})
        id = await agent.instruct("TRAIN", inputs={"model": nonsense}, epochs=1, learning_rate=0.1, seed=1)
        await agent.until(lambda: agent.failures)
        await agent.answer(await agent.instruct("STATISTICS"))
        await agent.instruct("FINISH")
        await trainer
    [failure] = agent.failures
    assert (failure.instruction_id, failure.code, failure.final) == (id, UpdateError.__name__, False)
    assert "constant.class.weight" in failure.message


async def test_a_cancelled_training_stops_and_sends_nothing(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12))
    start = first_model(study, site(tmp_path / "same", study, split_rows(12)))
    async with agent_at(tmp_path, study, folder) as (agent, settings), asyncio.TaskGroup() as group:
        trainer = group.create_task(run(settings))
        model = agent.store.add_tensors(start)
        id = await agent.instruct(
            "TRAIN", inputs={"model": model}, epochs=10_000_000, learning_rate=0.1, seed=1
        )
        await agent.until(lambda: any(report.samples_done for report in agent.progress))
        await agent.instruct("CANCEL", instruction=id)
        await agent.answer(await agent.instruct("STATISTICS"))
        await agent.instruct("FINISH")
        await trainer
    assert id not in agent.answers and not agent.failures


async def test_data_that_do_not_fit_are_reported_as_final(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12) | {"idh": ["unknown"] * 12})
    async with agent_at(tmp_path, study, folder) as (agent, settings):
        with pytest.raises(DataError, match="idh"):
            await run(settings)
    [failure] = agent.failures
    assert (failure.code, failure.final) == ("DataError", True)
    assert "unknown" in failure.message


async def test_an_agent_that_is_not_there_is_named(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12))
    async with agent_at(tmp_path, study, folder) as (_, settings):
        pass
    patience = {"connect_timeout": 1.5}
    with pytest.raises(ConnectionLostError, match=settings.upstream):
        await run(type(settings)(**{**vars(settings), **patience}))


async def test_an_agent_that_goes_away_for_good_is_given_up(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(12))
    async with agent_at(tmp_path, study, folder) as (agent, settings):
        patient = type(settings)(**{**vars(settings), "connect_timeout": 3.0})
        trainer = asyncio.create_task(run(patient))
        await agent.until(lambda: agent.streams == 1)
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionLostError, match=settings.upstream):
            await trainer


async def test_the_preflight_tells_the_agent_and_ends_by_what_it_found(tmp_path: Path) -> None:
    study = plan()
    folder = hospital(tmp_path, study, split_rows(40))
    async with agent_at(tmp_path, study, folder) as (agent, settings):
        await preflight(settings)
        dataset(folder, study, split_rows(40) | {"idh": ["unknown"] * 40})
        with pytest.raises(DataError, match="unknown"):
            await preflight(settings)
    good, bad = agent.profiles
    assert good["fits"] and good["training"] == 20 and good["planDigest"] == study.digest()
    assert not bad["fits"] and "unknown" in bad["faults"][0]


def test_kinds_are_those_that_the_worker_knows() -> None:
    assert set(pb.Kind.keys()) == {
        "KIND_UNSPECIFIED", "STATISTICS", "INITIALISE", "TRAIN", "EVALUATE", "FINISH", "CANCEL",
    }  # fmt: skip
