"""CoordinateMedian and TrimmedMean against numpy and scipy, in any order of the sites, and with one that sends nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from fedstudy import tensors
from fedstudy.aggregator import blocks
from fedstudy.aggregator.algorithms import Algorithm, Share, Update, algorithm
from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan
from fedstudy.tensors import Array, TensorFile

MODEL = {
    "constant.covariate.mean": np.arange(2, dtype=np.float32),
    "weight": np.linspace(-1, 1, 3000, dtype=np.float32).reshape(30, 100),
    "bias": np.ones((), dtype=np.float32),
}


def robust(fakes: Any, name: str, min_sites: int = 1, **parameters: float) -> Algorithm:
    plan: StudyPlan = fakes.plan_of(algorithm={"name": name, "parameters": parameters}, minSites=min_sites)
    return algorithm(plan)


def fold(
    folder: Path, rule: Algorithm, answers: Mapping[str, Mapping[str, Array]], order: Any = sorted
) -> bytes:
    """The folded model's file; the answers come in an order of their sites, with unequal weights."""
    tensors.write(folder / "model", MODEL, {"a": "b"})
    for site, answer in answers.items():
        tensors.write(folder / site, answer)
    updates = [
        Update(site, TensorFile(folder / site), (k + 1) / 100, Share(site, 10 * k + 1, 0))
        for k, site in enumerate(order(answers))
    ]
    with TensorFile(folder / "model") as model:
        blob = rule.fold(model, updates, folder / "out")
    for update in updates:
        update.tensors.close()
    assert blob == tensors.digest_file(folder / "out")
    return (folder / "out").read_bytes()


def answers_of(sites: int, seed: int = 1) -> dict[str, dict[str, Array]]:
    random = np.random.default_rng(seed)
    return {
        f"s{k}": {
            name: np.asarray(random.normal(size=MODEL[name].shape), np.float32) for name in ("weight", "bias")
        }
        for k in range(sites)
    }


def stacked(answers: Mapping[str, Mapping[str, Array]], name: str) -> Array:
    return np.stack([answer[name] for answer in answers.values()]).astype(np.float64)


@pytest.mark.parametrize("sites", [1, 2, 3, 8])
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_the_median_is_numpys(
    tmp_path: Path, fedstudy_fakes: Any, monkeypatch: pytest.MonkeyPatch, sites: int, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    answers = answers_of(sites)
    fold(tmp_path, robust(fedstudy_fakes, "CoordinateMedian"), answers)
    folded = tensors.read(tmp_path / "out")
    for name in ("weight", "bias"):
        assert (folded[name] == np.median(stacked(answers, name), axis=0).astype(np.float32)).all()
    assert (folded["constant.covariate.mean"] == MODEL["constant.covariate.mean"]).all()
    assert (tmp_path / "out").read_bytes() == tensors.encode(folded, {"a": "b"})


@pytest.mark.parametrize(("sites", "trim"), [(3, 0.34), (8, 0.25), (8, 0.2), (7, 0.49), (4, 0.2), (1, 0.4)])
def test_the_trimmed_mean_is_scipys(tmp_path: Path, fedstudy_fakes: Any, sites: int, trim: float) -> None:
    answers = answers_of(sites)
    fold(tmp_path, robust(fedstudy_fakes, "TrimmedMean", trim=trim), answers)
    folded = tensors.read(tmp_path / "out")
    for name in ("weight", "bias"):
        expected = stats.trim_mean(stacked(answers, name), trim, axis=0)
        assert np.abs(folded[name] - expected).max() <= 2.0**-24 * max(1, np.abs(expected).max())


def test_a_count_trims_so_many_sites_at_each_end(tmp_path: Path, fedstudy_fakes: Any) -> None:
    answers = answers_of(5)
    fold(tmp_path, robust(fedstudy_fakes, "TrimmedMean", min_sites=5, trim=2), answers)
    expected = np.median(stacked(answers, "weight"), axis=0).astype(np.float32)
    assert (tensors.read(tmp_path / "out")["weight"] == expected).all()


@pytest.mark.parametrize("name", ["CoordinateMedian", "TrimmedMean"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), sites=st.integers(1, 7))
def test_the_order_of_the_sites_changes_no_bit(
    tmp_path: Path, fedstudy_fakes: Any, name: str, data: st.DataObject, sites: int
) -> None:
    values = st.sampled_from([-0.0, 0.0, 1.0, -1.0, 1e-45, 3e38, 0.1])
    arrays = hnp.arrays(np.float32, (30, 100), elements=values, fill=values)
    answers = {
        f"s{k}": {"weight": data.draw(arrays), "bias": np.asarray(data.draw(values), np.float32)}
        for k in range(sites)
    }
    order = data.draw(st.permutations(sorted(answers)))
    rule = robust(fedstudy_fakes, name)
    assert fold(tmp_path, rule, answers) == fold(tmp_path, rule, answers, lambda _: order)


@pytest.mark.parametrize(
    ("name", "parameters"), [("CoordinateMedian", {}), ("TrimmedMean", {"trim": 1}), ("TrimmedMean", {})]
)
def test_a_site_that_sends_a_hundred_times_too_much_does_not_move_the_model(
    tmp_path: Path, fedstudy_fakes: Any, name: str, parameters: dict[str, float]
) -> None:
    rule = robust(fedstudy_fakes, name, min_sites=5, **parameters)
    honest = answers_of(5)
    wrong = honest | {"s4": {n: np.asarray(100 * array) for n, array in honest["s4"].items()}}
    others = np.sort(stacked({site: honest[site] for site in ("s0", "s1", "s2", "s3")}, "weight"), axis=0)
    fold(tmp_path, rule, wrong)
    folded = tensors.read(tmp_path / "out")["weight"]
    assert (folded >= others[0].astype(np.float32)).all() and (folded <= others[-1].astype(np.float32)).all()
    fold(tmp_path, algorithm(fedstudy_fakes.plan_of()), wrong)
    mean = 100 / sum(range(1, 6)) * tensors.read(tmp_path / "out")["weight"]
    assert np.abs(mean).max() > 5 * np.abs(folded).max(), "FedAvg would have been moved"


@pytest.mark.parametrize("trim", [0.5, 1.5, -1, 128])
def test_a_trim_that_is_neither_fraction_nor_count_is_refused(fedstudy_fakes: Any, trim: float) -> None:
    with pytest.raises(PlanError, match=r"federation\.algorithm\.parameters\.trim"):
        robust(fedstudy_fakes, "TrimmedMean", trim=trim)


def test_a_count_that_a_quorum_would_not_outlive_is_refused(fedstudy_fakes: Any) -> None:
    with pytest.raises(PlanError, match="minSites"):
        robust(fedstudy_fakes, "TrimmedMean", min_sites=4, trim=2)


@pytest.mark.parametrize("name", ["CoordinateMedian", "TrimmedMean"])
async def test_a_study_folds_by_it_to_its_end(tmp_path: Path, fedstudy_fakes: Any, name: str) -> None:
    plan = fedstudy_fakes.plan_of(algorithm={"name": name}, transfer={"encoding": "Int8", "delta": True})
    engine = await fedstudy_fakes.run_study(tmp_path, plan)
    assert engine.state.round == 2 and engine.state.model is not None
