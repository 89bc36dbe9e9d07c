"""The process may die after any step: the study goes on from its folder to the same model, bit for bit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fedstudy.aggregator.engine import Engine
from fedstudy.errors import PlanError
from fedstudy.wire.admin import Phase


class Killed(Exception):
    """The process is gone."""


async def run_with_kills(folder: Path, plan: Any, fakes: Any, every: int) -> tuple[Engine, int]:
    """Run a study, dying just after (odd) or just before (even) every so-manieth commit."""
    kills = 0
    while True:
        engine = Engine(plan, folder, sites=fakes.SITES)
        real, left = engine.store.commit, every

        def commit(*values: Any, real: Any = real, before: bool = kills % 2 == 0, **named: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0 and before:
                raise Killed
            real(*values, **named)
            if left == 0:
                raise Killed

        engine.store.commit = commit  # type: ignore[method-assign]
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(engine.run())
                sites = fakes.FakeSites(engine)
                sites.connect(*fakes.SITES)
                await sites.finish()
                work.cancel()
            return engine, kills
        except* Killed:
            kills += 1
        finally:
            engine.store.db.close()  # without writing anything down


@pytest.mark.parametrize("name", ["FedAvg", "CyclicalWeightTransfer"])
async def test_death_at_any_step(tmp_path: Path, fedstudy_fakes: Any, name: str) -> None:
    plan = fedstudy_fakes.plan_of(algorithm={"name": name})
    undisturbed = await fedstudy_fakes.run_study(tmp_path / "whole", plan)
    total = 0
    for every in (5, 6, 7, 9, 13):
        engine, kills = await run_with_kills(tmp_path / f"killed-{every}", plan, fedstudy_fakes, every)
        assert engine.state.phase is Phase.COMPLETE
        assert engine.state.model == undisturbed.state.model
        total += kills
    assert total > 10


async def test_a_folder_of_another_plan_is_refused(tmp_path: Path, fedstudy_fakes: Any) -> None:
    await fedstudy_fakes.run_study(tmp_path, fedstudy_fakes.plan_of(rounds=1))
    with pytest.raises(PlanError, match="holds a study with the plan"):
        Engine(fedstudy_fakes.plan_of(rounds=2), tmp_path, sites=fedstudy_fakes.SITES)


async def test_a_finished_study_stays_finished(tmp_path: Path, fedstudy_fakes: Any) -> None:
    done = await fedstudy_fakes.run_study(tmp_path, fedstudy_fakes.plan_of(rounds=1))
    again = Engine(fedstudy_fakes.plan_of(rounds=1), tmp_path, sites=fedstudy_fakes.SITES)
    assert again.state.phase is Phase.COMPLETE
    assert again.state.model == done.state.model
    assert again.may_fetch("hospital-a", done.state.model.digest)
    again.close()
