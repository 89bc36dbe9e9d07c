"""The control arms: pooled and local, judged as the federated study is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_for_trainer import IDH, TIMES, dataset, first_model, network, plan, rows, site
from lifelines import CoxPHFitter
from sklearn.metrics import roc_auc_score

from fedstudy.measures import newton_step
from fedstudy.plan import StudyPlan
from fedstudy.results import Arm
from fedstudy_trainer.controls import run_arm
from fedstudy_trainer.data.dataset import SiteData
from fedstudy_trainer.learner import predict, train
from fedstudy_trainer.pooled import PooledData

SIZES = {"c": 40, "a": 64, "b": 28}


def split_rows(n: int, seed: int) -> dict[str, list[Any]]:
    places = ("training", "training", "validation", "test")
    return rows(n, seed) | {"split": [places[i % 4] for i in range(n)]}


def cohort(tmp_path: Path, study: StudyPlan) -> dict[str, SiteData]:
    return {
        name: site(tmp_path / name, study, split_rows(n, seed=k)) for k, (name, n) in enumerate(SIZES.items())
    }


def test_the_pooled_arm_is_training_on_the_concatenated_rows(tmp_path: Path) -> None:
    study = plan(federation={"rounds": 4, "evaluateEvery": 3})
    sites = cohort(tmp_path, study)
    arm = run_arm("pooled", study, sites)
    assert [point.round for point in arm.curve] == [3, 4]
    assert arm.test is not None and [s.site for s in arm.test.sites] == ["a", "b", "c"]

    everyone = [sites[name] for name in sorted(sites)]
    state = first_model(study, *everyone)
    for _ in range(4):
        trained = train(
            network(study, state),
            PooledData(study, everyone),
            study,
            {"epochs": 1, "learning_rate": 0.1, "seed": 0},
        )
        state = {**state, **trained.tensors}
    scores = [predict(network(study, state), data, study, "test")[:, 0] for data in everyone]
    truth = np.concatenate([data.cases("test").labels for data in everyone])
    assert arm.test.metrics["auc"] == pytest.approx(roc_auc_score(truth, np.concatenate(scores)), abs=0.005)


def test_the_local_arm_judges_each_site_by_its_own_model(tmp_path: Path) -> None:
    study = plan(federation={"rounds": 3})
    sites = cohort(tmp_path, study)
    arm = run_arm("local", study, sites)
    assert arm.test is not None and set(arm.own_test) == set(SIZES)
    for record in arm.test.sites:
        assert arm.own_test[record.site] == record
        alone = run_arm("pooled", study, {record.site: sites[record.site]})
        assert alone.test is not None
        assert alone.test.sites[0].cases == record.cases == len(sites[record.site].cases("test"))
        assert alone.test.metrics["log_loss"] == pytest.approx(record.metrics["log_loss"], abs=1e-6)
    assert 0 <= arm.test.metrics["auc_elsewhere"] <= 1
    assert len(arm.curve) == 3


@pytest.mark.parametrize("loss", ["StratifiedCox", "DiscreteHazard"])
@pytest.mark.parametrize("name", ["local", "pooled"])
def test_survival_arms_have_a_c_index(tmp_path: Path, loss: str, name: str) -> None:
    study = plan(target=TIMES, task={"loss": loss, "intervals": 4}, federation={"rounds": 5})
    arm = run_arm(name, study, cohort(tmp_path, study))
    assert arm.test is not None and 0.3 < arm.test.metrics["c_index_within"] <= 1
    assert ("ibs" in arm.test.metrics) == (loss == "DiscreteHazard")


def test_pooled_newton_is_the_stratified_cox_fit_of_lifelines(tmp_path: Path) -> None:
    study = plan(
        target=TIMES,
        task={"loss": "StratifiedCox"},
        federation={"rounds": 8, "algorithm": {"name": "NewtonRaphson"}},
    )
    sites = {
        name: site(tmp_path / name, study, rows(60, seed=k) | {"age": [*np.linspace(30, 70, 60)]})
        for k, name in enumerate("abc")
    }
    start = first_model(study, *sites.values())
    beta = np.zeros(6)
    for _ in range(8):
        state = {**start, "weight": beta.astype(np.float32)[None]}
        answers = [train(network(study, state), data, study, {}).tensors for data in sites.values()]
        assert answers[0].keys() == {"gradient", "information", "loglik"}
        summed = {f"newton.{n}": np.sum([a[n] for a in answers], axis=0) for n in answers[0]}
        beta = newton_step(summed, beta)
    frames = []
    for name, data in sites.items():
        cases = data.cases("training")
        z = (cases.covariates - start["constant.covariate.mean"]) / start["constant.covariate.scale"]
        frame = pd.DataFrame(z, columns=["age", "III", "IV"])
        frames.append(frame.assign(t=cases.times, e=cases.events, site=name))
    fitted = CoxPHFitter().fit(pd.concat(frames), "t", "e", strata=["site"])
    np.testing.assert_allclose(beta[:3], fitted.params_.to_numpy(), atol=1e-4)
    assert not beta[3:].any()
    arm = run_arm(
        "pooled", study, {n: site(tmp_path / f"{n}2", study, split_rows(60, k)) for k, n in enumerate("abc")}
    )
    assert arm.test is not None and "c_index" in arm.test.metrics


def test_a_pooled_batch_of_volumes_is_that_of_its_sites(tmp_path: Path) -> None:
    study = plan(images=["t1"], network="SmallCNN")
    sites = [site(tmp_path / str(k), study, rows(n, seed=k)) for k, n in enumerate((3, 4))]
    pooled = PooledData(study, sites)
    [batch] = pooled.batches("training", 0, 0, shuffle=False)
    volumes = [data.cases("training").images for data in sites]
    assert batch.images is not None
    np.testing.assert_array_equal(batch.images.numpy(), np.concatenate(volumes))  # type: ignore[arg-type]
    assert pooled.strata().tolist() == [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.slow
def test_the_command_writes_arms_json(tmp_path: Path) -> None:
    study = plan(target=IDH, federation={"rounds": 2})
    (tmp_path / "plan.json").write_bytes(study.canonical())
    described = []
    for k, (name, n) in enumerate(SIZES.items()):
        config = dataset(tmp_path / name, study, split_rows(n, seed=k))
        (tmp_path / name / "dataset.json").write_text(config.model_dump_json(by_alias=True))
        described += ["--site", f"{name}={tmp_path / name / 'dataset.json'}={tmp_path / name}"]
    command = [sys.executable, "-m", "fedstudy_trainer", "control", "--arm", "local", *described]
    command += ["--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [arm] = [Arm.model_validate(entry) for entry in json.loads((tmp_path / "out" / "arms.json").read_text())]
    assert arm.name == "local" and len(arm.own_test) == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["round"] for line in lines if line["event"] == "progress"] == [1, 2] * 3
