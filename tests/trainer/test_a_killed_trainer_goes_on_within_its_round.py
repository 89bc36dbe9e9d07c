"""A round that was interrupted goes on from its checkpoint, with the bits of a round that nobody disturbed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_for_trainer import agent_at, environment
from helpers_for_trainer import CPU, dataset, first_model, network, parameters, plan, rows, same_bits, site

from fedstudy.plan import StudyPlan
from fedstudy_trainer.checkpoints import Checkpoints, Place, key
from fedstudy_trainer.contribution import Progress, Trained
from fedstudy_trainer.data.dataset import SiteData
from fedstudy_trainer.learner import train
from fedstudy_trainer.networks.state import State
from fedstudy_trainer.settings import Settings

FOUR_EPOCHS = 24  # steps of 22 cases in batches of four
TABLE = {"network": "MLP", "arguments": {"dropout": 0.5}}
IMAGES = {"network": "SmallCNN", "arguments": {"width": 4, "depth": 1}, "images": ["flair"], "covariates": []}
STUDIES: dict[str, StudyPlan] = {
    "adamw, dropout": plan(**TABLE, training={"batchSize": 4}),
    "adam": plan(**TABLE, training={"batchSize": 4, "optimizer": {"name": "Adam", "learningRate": 0.01}}),
    "sgd, momentum": plan(
        training={"batchSize": 4, "optimizer": {"name": "SGD", "momentum": 0.9, "learningRate": 0.05}}
    ),
    "fedprox": plan(
        **TABLE,
        training={"batchSize": 4},
        federation={"algorithm": {"name": "FedProx", "parameters": {"mu": 0.5}}},
    ),
}


class Killed(Exception):
    """The process ends here."""


class Round:
    """Tries at one round, on a clock that goes a second with each step."""

    def __init__(self, study: StudyPlan, data: SiteData, start: State, path: Path, every: float) -> None:
        self.study, self.data, self.start, self.path, self.every = study, data, start, path, every
        self.now, self.seen = 0.0, list[int]()

    def go(self, *, kill_at: int = 0, name: str = "round") -> Trained:
        self.seen = []
        kept = Checkpoints(self.path, self.every, clock=lambda: self.now)
        kept.begin(name)

        def progress(said: Progress) -> None:
            self.now += 1
            self.seen.append(said.samples_done)
            if len(self.seen) == kill_at:
                raise Killed

        told = parameters(self.study, epochs=4)
        model = network(self.study, self.start)
        return train(model, self.data, self.study, told, progress=progress, checkpoints=kept)


def the_round(tmp_path: Path, study: StudyPlan, every: float) -> Round:
    data = site(tmp_path / "site", study, rows(22))
    return Round(study, data, first_model(study, data), tmp_path / "state" / "round", every)


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
@pytest.mark.parametrize("every", [0.0, 3.0])
def test_the_bits_are_those_of_an_undisturbed_round(tmp_path: Path, study: StudyPlan, every: float) -> None:
    round_ = the_round(tmp_path, study, every)
    whole = train(network(study, round_.start), round_.data, study, parameters(study, epochs=4))
    steps = 0
    for kill_at in (5, 7, 6):
        with pytest.raises(Killed):
            round_.go(kill_at=kill_at)
        steps += len(round_.seen)
    answer = round_.go()
    steps += len(round_.seen)
    assert same_bits(dict(answer.tensors), dict(whole.tensors))
    assert answer.contribution.loss == whole.contribution.loss
    assert answer.contribution.steps == whole.contribution.steps == FOUR_EPOCHS
    assert FOUR_EPOCHS <= steps <= FOUR_EPOCHS + 3 * (every + 1)  # each kill costs what was not saved yet


def test_augmented_images_go_on_with_the_same_bits(tmp_path: Path) -> None:
    study = plan(**IMAGES, training={"batchSize": 4})
    study = study.model_copy(
        update={"augmentation": study.augmentation.model_copy(update={"noise": 0.3, "flip_probability": 0.5})}
    )
    round_ = the_round(tmp_path, study, 0.0)
    round_.data.cases("training")
    whole = train(network(study, round_.start), round_.data, study, parameters(study, epochs=4))
    with pytest.raises(Killed):
        round_.go(kill_at=9)
    assert same_bits(dict(round_.go().tensors), dict(whole.tensors))
    assert len(round_.seen) == FOUR_EPOCHS - 9


def test_another_round_a_broken_file_and_none_begin_anew(tmp_path: Path) -> None:
    round_ = the_round(tmp_path, STUDIES["adam"], 0.0)
    whole = round_.go(name="another")
    assert round_.path.exists()
    for spoil in (lambda: None, lambda: round_.path.write_bytes(b"PK half a file"), round_.path.unlink):
        spoil()
        assert same_bits(dict(round_.go().tensors), dict(whole.tensors))
        assert len(round_.seen) == FOUR_EPOCHS


def test_training_goes_on_where_nothing_can_be_saved(tmp_path: Path) -> None:
    round_ = the_round(tmp_path, STUDIES["adam"], 0.0)
    (tmp_path / "state").write_text("a file where the folder should be")
    assert round_.go().contribution.steps == FOUR_EPOCHS


def test_a_slow_disk_is_written_to_less_often(tmp_path: Path) -> None:
    study = STUDIES["adam"]
    model = network(study, first_model(study, site(tmp_path / "site", study, rows(22))))
    optimizer = torch.optim.Adam(model.parameters())
    now, saved = [0.0], list[float]()

    class Slow(Checkpoints):
        def _save(self, *_: Any) -> None:
            saved.append(now[0])
            now[0] += 2.0

    kept = Slow(tmp_path / "round", 10.0, clock=lambda: now[0])
    kept.begin("round")
    while now[0] < 300:
        kept.offer(model, optimizer, Place)
        now[0] += 1.0
    assert saved == [10.0, 112.0, 214.0]


def test_all_that_decides_the_bits_is_in_the_key(tmp_path: Path) -> None:
    study = STUDIES["adam"]
    cases = site(tmp_path / "site", study, rows(22)).cases("training")
    others = replace(cases, labels=1 - cases.labels)
    told = {"epochs": 4, "seed": 1}
    keys = [
        key(study, "0001-000-train-a", "m", told, cases, CPU),
        key(plan(**TABLE), "0001-000-train-a", "m", told, cases, CPU),
        key(study, "0002-000-train-a", "m", told, cases, CPU),
        key(study, "0001-000-train-a", "n", told, cases, CPU),
        key(study, "0001-000-train-a", "m", told | {"seed": 2}, cases, CPU),
        key(study, "0001-000-train-a", "m", told, others, CPU),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key(study, "0001-000-train-a", "m", dict(reversed(told.items())), cases, CPU)


async def spawn(settings: Settings) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fedstudy_trainer", "run",
        env=os.environ | environment(settings), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def hospital(tmp_path: Path, *, epochs: int) -> tuple[StudyPlan, Path, State, Trained]:
    """A study, a hospital's folder, the first model, and the answer of an undisturbed trainer."""
    study = plan(**TABLE, training={"batchSize": 2})
    folder = tmp_path / "hospital"
    config = dataset(folder, study, rows(40))
    (folder / "dataset.json").write_text(config.model_dump_json(by_alias=True))
    data = site(tmp_path / "same", study, rows(40))
    start = first_model(study, data)
    return study, folder, start, train(network(study, start), data, study, parameters(study, epochs=epochs))


@pytest.mark.slow
async def test_kill_9_within_a_round_and_another_process_answers_the_same(tmp_path: Path) -> None:
    study, folder, start, whole = hospital(tmp_path, epochs=50)
    async with agent_at(tmp_path, study, folder) as (agent, settings):
        settings = replace(settings, checkpoint=0.001, state=tmp_path / "claim")
        agent.accepts.clear()  # however fast it trains, it is killed before its answer is taken
        first = await spawn(settings)
        inputs = {"model": agent.store.add_tensors(start)}
        id = await agent.instruct("TRAIN", inputs=inputs, **parameters(study, epochs=50))
        await asyncio.to_thread(until_saved, settings.state / "round.checkpoint")
        first.send_signal(signal.SIGKILL)
        await first.communicate()
        agent.accepts.set()
        second = await spawn(settings)
        answer = await agent.answer(id)
        await agent.instruct("FINISH")
        _, said = await second.communicate()
    assert same_bits(answer.tensors, dict(whole.tensors))
    assert b"goes on from a checkpoint" in said
    assert answer.header.contribution.steps == whole.contribution.steps
    assert not list(settings.state.iterdir())  # no weights of a step in between are left behind


async def test_cancelled_and_asked_for_again_a_round_goes_on_where_it_was(tmp_path: Path) -> None:
    """As when a hospital suspends its part and resumes it: however fast the second word follows the first."""
    study, folder, start, whole = hospital(tmp_path, epochs=400)
    async with agent_at(tmp_path, study, folder) as (agent, settings):
        settings = replace(settings, checkpoint=0.001, state=tmp_path / "claim")
        agent.accepts.clear()  # the answer is not taken before it was cancelled
        trainer = await spawn(settings)
        inputs = {"model": agent.store.add_tensors(start)}
        words = parameters(study, epochs=400)
        id = await agent.instruct("TRAIN", inputs=inputs, **words)
        await asyncio.to_thread(until_saved, settings.state / "round.checkpoint")
        await agent.instruct("CANCEL", instruction=id)
        await agent.instruct("TRAIN", id=id, inputs=inputs, **words)
        agent.accepts.set()
        answer = await agent.answer(id)
        await agent.instruct("FINISH")
        _, said = await trainer.communicate()
    assert same_bits(answer.tensors, dict(whole.tensors))
    assert b"goes on from a checkpoint" in said
    assert not list(settings.state.iterdir())


def until_saved(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} does not come")
