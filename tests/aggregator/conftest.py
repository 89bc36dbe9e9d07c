"""A small study over covariates, and fake sites that answer as trainers would, without a network or torch."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstudy import encodings, tensors
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.rounds import open_stage
from fedstudy.aggregator.state import Connected, Kind, Stage
from fedstudy.measures import classification_statistics, cohort_statistics
from fedstudy.plan import StudyPlan
from fedstudy.wire.federation_pb2 import Contribution, SubmitHeader

sys.path.insert(0, str(Path(__file__).parent))  # helpers by name

SITES = ("hospital-a", "hospital-b", "hospital-c")
SAMPLES = {"hospital-a": 40, "hospital-b": 20, "hospital-c": 10}


def plan_of(**federation: Any) -> StudyPlan:
    """A plan with two covariates and two classes; keywords go into `federation`."""
    training = {"localEpochs": 2, "batchSize": 8, "optimizer": {"learningRate": 0.1, "decay": 0.5}, "seed": 7}
    training |= federation.pop("training", {})
    return StudyPlan.model_validate(
        {
            "study": "idh",
            "uid": "study-1",
            "purpose": "DUO:0000007",
            "task": {
                "type": "Classification",
                "covariates": [{"name": "age"}, {"name": "kps"}],
                "target": {"label": "idh", "classes": ["wildtype", "mutant"]},
            },
            "model": {"network": {"name": "Linear"}},
            "preprocessing": {},
            "augmentation": {},
            "training": training,
            "federation": {"rounds": 2, "minSites": 2, "roundTimeoutSeconds": 60, **federation},
            "cohort": {},
        }
    )


def seed_of(*parts: object) -> int:
    """A seed out of words."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


def answer_tensors(stage: Stage, site: str, model: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a site answers to a stage: the same for the same site, stage and model."""
    random = np.random.default_rng(seed_of(site, stage.kind.value, stage.round, stage.split))
    n = SAMPLES.get(site, 15)
    labels = np.arange(n) % 2
    match stage.kind:
        case Kind.STATISTICS:
            return cohort_statistics(random.normal(size=(n, 2)), labels, 2)
        case Kind.INITIALISE:
            return {
                "constant.covariate.mean": np.zeros(2, np.float32),
                "constant.covariate.scale": np.ones(2, np.float32),
                "weight": random.normal(size=(1, 4)).astype(np.float32),
                "bias": np.zeros(1, np.float32),
            }
        case Kind.TRAIN:
            assert model is not None
            return {
                name: (model[name] + 0.1 * random.normal(size=model[name].shape)).astype(np.float32)
                for name in ("weight", "bias")
            }
        case _:
            p = np.clip(0.5 + 0.2 * (labels - 0.5) + 0.2 * random.normal(size=n), 0, 1)
            return classification_statistics(np.stack([1 - p, p], axis=1), labels)


class FakeSites:
    """Sites in the same process: they see an engine's open stages and answer them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.told: list[str] = []

    def connect(self, *sites: str) -> None:
        """Open the sites' streams."""
        for site in sites:
            self.engine.apply(Connected(self.engine.clock(), site))

    def stage_of(self, site: str) -> Stage | None:
        """The stage that waits for a site."""
        stage = open_stage(self.engine.state, site)
        return stage if stage is not None and stage.kind is not Kind.FINISH else None

    async def answer(
        self,
        site: str,
        change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        samples: int | None = None,
    ) -> None:
        """Answer the open stage for one site."""
        engine, stage = self.engine, self.stage_of(site)
        assert stage is not None, f"nothing is asked of {site}"
        path = engine.input_path(stage)
        model = tensors.read(path) if path is not None else None
        answer = answer_tensors(stage, site, model)
        if change is not None:
            answer = change(answer)
        if stage.kind is Kind.TRAIN and model is not None:
            answer = encodings.encode(answer, model, engine.plan.federation.transfer)
        instruction = stage.instruction(site)
        blob = engine.blobs.add_tensors(answer, {"instruction": instruction, "kind": stage.kind.value})
        counted = SAMPLES.get(site, 15) if samples is None else samples
        header = SubmitHeader(
            instruction_id=instruction,
            digest=blob.digest,
            size=blob.size,
            contribution=Contribution(samples=counted, steps=5, seconds=1.0, loss=0.5),
        )
        engine.expect(site, header)
        self.told.append(instruction)
        await engine.accept(site, header)

    async def settled(self) -> None:
        """Wait until the engine has folded what was closed."""
        async with asyncio.timeout(10):
            while self.engine.state.stage is not None and self.engine.state.stage.closing:
                ring = self.engine.bell.next()
                stage = self.engine.state.stage
                if stage is not None and stage.closing:
                    await ring.wait()

    async def finish(self, order: Callable[[list[str]], list[str]] = sorted) -> None:
        """Answer everything until the study is over."""
        while not self.engine.state.over:
            await self.settled()
            waiting = [site for site in self.engine.state.sites if self.stage_of(site)]
            if not waiting and not self.engine.state.over:
                raise AssertionError(f"nobody is asked: {self.engine.state}")
            for site in order(waiting):
                if self.stage_of(site):
                    await self.answer(site)


async def run_study(
    folder: Path, plan: StudyPlan, order: Callable[[list[str]], list[str]] = sorted
) -> Engine:
    """A whole study with three sites; the engine is closed, its state can be looked at."""
    engine = Engine(plan, folder, sites=SITES)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(engine.run())
        fakes = FakeSites(engine)
        fakes.connect(*SITES)
        await fakes.finish(order)
        work.cancel()
    engine.close()
    return engine


@pytest.fixture
def fedstudy_fakes() -> Any:
    """The names of this module, for test files (which cannot import each other)."""
    import types

    return types.SimpleNamespace(
        SITES=SITES,
        SAMPLES=SAMPLES,
        plan_of=plan_of,
        answer_tensors=answer_tensors,
        FakeSites=FakeSites,
        run_study=run_study,
    )
