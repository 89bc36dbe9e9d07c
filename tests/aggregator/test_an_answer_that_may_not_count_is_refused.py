"""Refusals: NaN, wrong names, shapes, dtypes, and updates that go too far; each is recorded and costs only that site."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.state import Kind
from fedstudy.aggregator.verify import norm_bound
from fedstudy.errors import RefusedError, UpdateError
from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import Phase
from fedstudy.wire.federation_pb2 import SubmitHeader

Change = Callable[[dict[str, Any]], dict[str, Any]]


@asynccontextmanager
async def in_training(folder: Path, plan: StudyPlan, fakes: Any) -> AsyncIterator[tuple[Engine, Any]]:
    """A running study in the first round's train stage."""
    engine = Engine(plan, folder, sites=fakes.SITES)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(engine.run())
        sites = fakes.FakeSites(engine)
        sites.connect(*fakes.SITES)
        while engine.state.stage.kind is not Kind.TRAIN:
            await sites.settled()
            for site in fakes.SITES:
                stage = sites.stage_of(site)
                if stage and stage.kind is not Kind.TRAIN:
                    await sites.answer(site)
            await sites.settled()
        yield engine, sites
        work.cancel()
    engine.close()


CASES: list[tuple[Change, str]] = [
    (lambda t: t | {"bias": np.array([np.nan], np.float32)}, "NaN"),
    (lambda t: t | {"weight": np.full((1, 4), np.inf, np.float32)}, "infinity"),
    (lambda t: {"weight": t["weight"]}, "'bias' is missing"),
    (lambda t: t | {"extra": t["bias"]}, "'extra' is not wanted"),
    (lambda t: t | {"weight": t["weight"].T.copy()}, r"expected F32 \[1, 4\]"),
    (lambda t: t | {"bias": t["bias"].astype(np.float64)}, "expected F32"),
]


@pytest.mark.parametrize(("change", "words"), CASES)
async def test_a_bad_update_is_refused_and_the_round_goes_on_without_the_site(
    tmp_path: Path, fedstudy_fakes: Any, change: Change, words: str
) -> None:
    async with in_training(tmp_path, fedstudy_fakes.plan_of(), fedstudy_fakes) as (engine, sites):
        with pytest.raises(UpdateError, match=words):
            await sites.answer("hospital-a", change)
        assert engine.refusals == 1
        with pytest.raises(RefusedError):
            engine.require_open("hospital-a", "0001-000-train-hospital-a")
        await sites.finish()
        assert engine.state.phase is Phase.COMPLETE
    with sqlite3.connect(tmp_path / "study.db") as db:
        sites_in, missing = db.execute("SELECT sites, missing FROM rounds WHERE round = 1").fetchone()
        assert "hospital-a" not in sites_in
        assert "Failed: UpdateRefused" in missing
        assert db.execute("SELECT COUNT(*) FROM history WHERE type = 'Refused'").fetchone() == (1,)


async def test_an_update_beyond_the_plans_norm_bound_is_refused(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of(normBound=5.0)
    async with in_training(tmp_path, plan, fedstudy_fakes) as (engine, sites):
        with pytest.raises(UpdateError, match="at most 5 is accepted"):
            await sites.answer("hospital-b", lambda t: t | {"bias": t["bias"] + 100})
        await sites.finish()
        assert engine.state.phase is Phase.COMPLETE


def test_the_running_median_bounds_from_the_fourth_update_on(fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of()
    assert norm_bound(plan, [1.0, 2.0]) == float("inf")
    assert norm_bound(plan, [1.0, 2.0, 3.0]) == 10.0
    assert norm_bound(plan, [0.0, 0.0, 0.0]) == float("inf")


async def test_an_answer_that_nobody_asked_for_is_refused(tmp_path: Path, fedstudy_fakes: Any) -> None:
    async with in_training(tmp_path, fedstudy_fakes.plan_of(), fedstudy_fakes) as (engine, _):
        for instruction in ("0001-000-train-hospital-b", "0002-000-train-hospital-a", "nonsense"):
            with pytest.raises(RefusedError, match="not open for hospital-a"):
                engine.expect(
                    "hospital-a",
                    SubmitHeader(instruction_id=instruction, digest="blake3:" + "0" * 64, size=9),
                )
        with pytest.raises(UpdateError, match="is the most"):
            header = SubmitHeader(
                instruction_id="0001-000-train-hospital-a", digest="blake3:" + "0" * 64, size=1 << 40
            )
            engine.expect("hospital-a", header)


async def test_a_site_fetches_only_what_its_open_instruction_names(
    tmp_path: Path, fedstudy_fakes: Any
) -> None:
    async with in_training(tmp_path, fedstudy_fakes.plan_of(), fedstudy_fakes) as (engine, sites):
        model = engine.state.model.digest
        assert engine.may_fetch("hospital-a", model)
        assert not engine.may_fetch("hospital-z", model)
        await sites.answer("hospital-a")
        assert not engine.may_fetch("hospital-a", model)
        other = engine.store.answers("0001-000-train")[0].blob.digest
        assert not engine.may_fetch("hospital-b", other)


async def test_blobs_of_closed_rounds_do_not_pile_up(tmp_path: Path, fedstudy_fakes: Any) -> None:
    counts = {}
    for rounds in (1, 6):
        plan = fedstudy_fakes.plan_of(rounds=rounds, evaluateEvery=100)
        engine = await fedstudy_fakes.run_study(tmp_path / str(rounds), plan)
        counts[rounds] = len(engine.blobs.digests())
    assert counts[1] == counts[6]
