"""A study over three fake sites goes through all its stages, and its folder has everything that a report needs."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fedstudy import tensors
from fedstudy.aggregator import history
from fedstudy.aggregator.report import collect, export
from fedstudy.wire.admin import Phase


@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "CyclicalWeightTransfer"])
async def test_it_completes_and_can_be_reported(tmp_path: Path, fedstudy_fakes: Any, name: str) -> None:
    plan = fedstudy_fakes.plan_of(algorithm={"name": name})
    engine = await fedstudy_fakes.run_study(tmp_path / "state", plan)
    assert engine.state.phase is Phase.COMPLETE

    results = collect(tmp_path / "state")
    assert [r.round for r in results.rounds] == [1, 2]
    assert all(r.sites == list(fedstudy_fakes.SITES) and not r.missing for r in results.rounds)
    assert results.rounds[0].validation is not None and "auc" in results.rounds[0].validation.metrics
    assert results.rounds[0].loss == pytest.approx(0.5)
    assert results.test is not None and len(results.test.sites) == 3
    assert results.model_round == 2

    export(tmp_path / "state", tmp_path / "out")
    assert tensors.digest_file(tmp_path / "out" / "model.safetensors").digest == results.model_digest
    with sqlite3.connect(tmp_path / "out" / "history.db") as db:
        assert history.first_fault(db) is None
        kinds = {row[0] for row in db.execute("SELECT DISTINCT type FROM history")}
    assert {
        "StudyCreated",
        "StageOpened",
        "AnswerAccepted",
        "StageClosed",
        "RoundClosed",
        "Evaluated",
    } <= kinds


async def test_the_order_of_answers_does_not_change_a_bit(tmp_path: Path, fedstudy_fakes: Any) -> None:
    digests = set()
    for number in range(4):
        shuffle = random.Random(number)
        order = lambda sites, shuffle=shuffle: shuffle.sample(sites, len(sites))  # noqa: E731
        engine = await fedstudy_fakes.run_study(tmp_path / str(number), fedstudy_fakes.plan_of(), order)
        digests.add(engine.state.model.digest)
    assert len(digests) == 1


async def test_a_row_changed_in_the_history_is_found(tmp_path: Path, fedstudy_fakes: Any) -> None:
    await fedstudy_fakes.run_study(tmp_path, fedstudy_fakes.plan_of(rounds=1))
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("UPDATE history SET detail = '{}' WHERE seq = 5")
        assert history.first_fault(db) == 5


async def test_stop_when_ends_before_the_last_round(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of(rounds=9, stopWhen={"metric": "auc", "reaches": 0.1})
    engine = await fedstudy_fakes.run_study(tmp_path, plan)
    assert engine.state.phase is Phase.COMPLETE
    assert engine.state.round == 1
    assert collect(tmp_path).test is not None
