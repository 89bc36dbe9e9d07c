"""The folds of the algorithms against numpy, and what a site weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstudy import tensors
from fedstudy.aggregator import blocks
from fedstudy.aggregator.algorithms import Share, Update, algorithm, names
from fedstudy.aggregator.weights import capped, site_weights
from fedstudy.errors import PlanError
from fedstudy.measures import cox_terms, fit
from fedstudy.plan import StudyPlan, Weights
from fedstudy.tensors import TensorFile

MODEL = {
    "constant.covariate.mean": np.arange(2, dtype=np.float32),
    "weight": np.linspace(-1, 1, 3000, dtype=np.float32).reshape(30, 100),
    "bias": np.ones(30, dtype=np.float32),
}


def updates_in(folder: Path, count: int, weights: Sequence[float]) -> list[Update]:
    random = np.random.default_rng(1)
    updates = []
    for k in range(count):
        path = folder / f"{k}.safetensors"
        changed = {n: random.normal(size=MODEL[n].shape).astype(np.float32) for n in ("weight", "bias")}
        tensors.write(path, changed)
        updates.append(Update(f"s{k}", TensorFile(path), weights[k], Share(f"s{k}", 10, 0)))
    return updates


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_fedavg_is_the_weighted_mean(
    tmp_path: Path, fedstudy_fakes: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    tensors.write(tmp_path / "model", MODEL, {"a": "b"})
    weights = [0.5, 0.3, 0.2]
    updates = updates_in(tmp_path, 3, weights)
    with TensorFile(tmp_path / "model") as model:
        blob = algorithm(fedstudy_fakes.plan_of()).fold(model, updates, tmp_path / "out")
    folded = tensors.read(tmp_path / "out")
    for name in ("weight", "bias"):
        mean = sum(
            w * u.tensors.array(name).astype(np.float64) for w, u in zip(weights, updates, strict=True)
        )
        assert (np.abs(folded[name] - mean) <= 1e-7 * np.maximum(1, np.abs(mean))).all()
    assert (folded["constant.covariate.mean"] == MODEL["constant.covariate.mean"]).all()
    assert (tmp_path / "out").read_bytes() == tensors.encode(folded, {"a": "b"})
    assert blob == tensors.digest_file(tmp_path / "out")


SMALL = {
    **MODEL,
    **{f"{at}.{part}": np.zeros(n, dtype=np.float32) for at in "acx" for part, n in (("b", 3), ("w", 50))},
    "b.count": np.zeros(4, dtype=np.int64),
    "empty": np.zeros(0, dtype=np.float32),
}
"""A network of small tensors: some lie side by side, others are kept apart by a constant or by another dtype."""

TRAINED = sorted(name for name in SMALL if not name.startswith("constant."))


def test_neighbours_are_read_as_one_where_they_lie_side_by_side_in_all_files(tmp_path: Path) -> None:
    tensors.write(tmp_path / "model", SMALL)
    tensors.write(tmp_path / "sent", {name: SMALL[name] for name in TRAINED})
    with TensorFile(tmp_path / "model") as model, TensorFile(tmp_path / "sent") as sent:
        apart = ["constant.covariate.mean"]
        assert blocks.runs([model, sent], TRAINED, apart) == {
            "a.b": 53, "b.count": 4, "bias": 83, "empty": 3053
        }  # fmt: skip
        assert blocks.runs([sent], TRAINED) == {"a.b": 53, "b.count": 4, "bias": 3136}


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_tensors_that_are_folded_as_one_give_the_bits_of_each_alone(
    tmp_path: Path, fedstudy_fakes: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    random, weights, updates = np.random.default_rng(3), (0.7, 0.3), list[Update]()
    for k, weight in enumerate(weights):
        changed = {n: (9 * random.normal(size=SMALL[n].shape)).astype(SMALL[n].dtype) for n in TRAINED}
        tensors.write(tmp_path / str(k), changed)
        updates.append(Update(f"s{k}", TensorFile(tmp_path / str(k)), weight, Share(f"s{k}", 10, 0)))
    tensors.write(tmp_path / "model", SMALL)
    with TensorFile(tmp_path / "model") as model:
        algorithm(fedstudy_fakes.plan_of()).fold(model, updates, tmp_path / "out")
    folded = tensors.read(tmp_path / "out")
    for name in TRAINED:
        mean = np.zeros(SMALL[name].shape)
        for update in updates:
            mean += update.weight * update.tensors.array(name).astype(np.float64)
        assert (folded[name] == mean.astype(SMALL[name].dtype)).all(), name
    assert (tmp_path / "out").read_bytes() == tensors.encode(folded)


def test_a_server_learning_rate_goes_part_of_the_way(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of(algorithm={"name": "FedAvg", "parameters": {"server_learning_rate": 0.5}})
    tensors.write(tmp_path / "model", MODEL)
    updates = updates_in(tmp_path, 1, [1.0])
    with TensorFile(tmp_path / "model") as model:
        algorithm(plan).fold(model, updates, tmp_path / "out")
    expected = (MODEL["bias"] + updates[0].tensors.array("bias")) / 2
    assert np.abs(tensors.read(tmp_path / "out")["bias"] - expected).max() <= 1e-7


def test_the_ring_takes_the_visited_sites_model(tmp_path: Path, fedstudy_fakes: Any) -> None:
    plan = fedstudy_fakes.plan_of(algorithm={"name": "CyclicalWeightTransfer"})
    tensors.write(tmp_path / "model", MODEL)
    updates = updates_in(tmp_path, 1, [1.0])
    with TensorFile(tmp_path / "model") as model:
        algorithm(plan).fold(model, updates, tmp_path / "out")
    folded = tensors.read(tmp_path / "out")
    assert (folded["weight"] == updates[0].tensors.array("weight")).all()
    assert set(folded) == set(MODEL)


def test_the_ring_gives_steps_in_proportion_and_shuffles_anew_in_each_cycle(fedstudy_fakes: Any) -> None:
    shares = [Share("a", 40, 0), Share("b", 20, 0), Share("c", 1, 0)]

    def stages(round: int, **parameters: str) -> Any:
        plan = fedstudy_fakes.plan_of(algorithm={"name": "CyclicalWeightTransfer", "parameters": parameters})
        return algorithm(plan).stages(round, shares)

    assert [s.sites for s in stages(1)] == [("a",), ("b",), ("c",)]
    assert stages(1)[0].parameters["a"]["epochs"] == 2
    proportional = [s.parameters[s.sites[0]] for s in stages(1, iterations="Proportional")]
    total = 2 * (5 + 3 + 1)
    assert [p["steps"] for p in proportional] == [round(total * 40 / 61), round(total * 20 / 61), 1]
    assert all("epochs" not in p for p in proportional)
    assert {p["steps"] for s in stages(1, iterations="Equal") for p in s.parameters.values()} == {6}
    orders = {tuple(s.sites[0] for s in stages(t, order="Shuffled")) for t in range(1, 12)}
    assert len(orders) > 1
    assert stages(3, order="Shuffled") == stages(3, order="Shuffled")


def test_the_learning_rate_decays_and_each_site_has_its_own_seed(fedstudy_fakes: Any) -> None:
    first, third = (
        algorithm(fedstudy_fakes.plan_of()).stages(t, [Share("a", 1, 0), Share("b", 1, 0)])[0] for t in (1, 3)
    )
    assert first.parameters["a"]["learning_rate"] == 0.1
    assert third.parameters["a"]["learning_rate"] == pytest.approx(0.1 * 0.25)
    seeds = {s.parameters[site]["seed"] for s in (first, third) for site in ("a", "b")}
    assert len(seeds) == 4


def cox_plan(fedstudy_fakes: Any, **parameters: float) -> StudyPlan:
    document = fedstudy_fakes.plan_of(
        algorithm={"name": "NewtonRaphson", "parameters": parameters}
    ).model_dump(mode="json", by_alias=True, exclude_none=True)
    document["task"] |= {"type": "Survival", "loss": "StratifiedCox", "target": {"time": "t", "event": "e"}}
    return StudyPlan.model_validate(document)


def test_newton_over_sites_finds_the_stratified_cox_fit(tmp_path: Path, fedstudy_fakes: Any) -> None:
    random = np.random.default_rng(3)
    cohorts = []
    for _ in range(3):
        x = np.hstack([random.normal(size=(60, 2)), np.zeros((60, 2))])
        cohorts.append((x, random.exponential(np.exp(-x[:, 0])), (random.random(60) < 0.7).astype(int)))
    newton = algorithm(cox_plan(fedstudy_fakes))
    tensors.write(tmp_path / "0", {"weight": np.zeros((1, 4), np.float32)})
    for round in range(6):
        with TensorFile(tmp_path / str(round)) as model:
            expected = newton.expected(model)
            beta = model.array("weight").ravel().astype(np.float64)
            updates = []
            for k, (x, t, e) in enumerate(cohorts):
                terms = cox_terms(x, t, e, beta)
                path = tmp_path / f"u{k}"
                named = {n: terms[f"newton.{n}"] for n in ("gradient", "information")}
                tensors.write(path, named | {"loglik": terms["newton.loglik"].reshape(())})
                updates.append(Update(f"s{k}", TensorFile(path), 1 / 3, Share(f"s{k}", 60, 1)))
                assert blocks.layout(updates[-1].tensors) == expected
            newton.fold(model, updates, tmp_path / str(round + 1))
    found = tensors.read(tmp_path / "6")["weight"].ravel()
    pooled = fit([lambda b, c=c: cox_terms(c[0], c[1], c[2], b) for c in cohorts], np.zeros(4)).beta
    assert np.abs(found - pooled).max() < 1e-6
    assert (found[2:] == 0).all()


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("FedSomething", {}, "federation.algorithm.name"),
        ("FedAvg", {"mu": 1}, "federation.algorithm.parameters.mu"),
        ("FedProx", {"mu": -1}, "federation.algorithm.parameters.mu"),
        ("CyclicalWeightTransfer", {"order": "Random"}, "federation.algorithm.parameters.order"),
    ],
)
def test_a_wrong_algorithm_or_parameter_is_named(
    fedstudy_fakes: Any, name: str, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        algorithm(fedstudy_fakes.plan_of(algorithm={"name": name, "parameters": parameters}))


def test_newton_refuses_a_loss_that_it_cannot_solve(fedstudy_fakes: Any) -> None:
    document = cox_plan(fedstudy_fakes).model_dump(mode="json", by_alias=True, exclude_none=True)
    document["task"]["loss"] = "DiscreteHazard"
    with pytest.raises(PlanError, match="StratifiedCox"):
        algorithm(StudyPlan.model_validate(document))
    assert {"FedAvg", "FedProx", "CyclicalWeightTransfer", "NewtonRaphson"} <= set(names())


@given(
    st.lists(st.integers(0, 100_000), min_size=1, max_size=20).filter(any),
    st.floats(0.01, 1.0),
)
def test_capped_weights_add_up_keep_order_and_obey_the_cap(raw: list[int], cap: float) -> None:
    before = [value / sum(raw) for value in raw]
    after = capped(before, cap)
    assert math.isclose(sum(after), 1.0, rel_tol=1e-9)
    assert max(after) <= max(cap, 1 / len(raw)) * (1 + 1e-9)
    ranked = sorted(zip(before, after, strict=True))
    assert all(x[1] <= y[1] * (1 + 1e-9) for x, y in pairwise(ranked) if x[0] < y[0])


def test_weights_count_samples_events_or_nothing_and_fall_back_when_all_are_zero() -> None:
    shares = [Share("a", 30, 2), Share("b", 10, 6)]
    assert site_weights(shares, Weights.SAMPLES, 1.0) == [0.75, 0.25]
    assert site_weights(shares, Weights.EVENTS, 1.0) == [0.25, 0.75]
    assert site_weights(shares, Weights.UNIFORM, 1.0) == [0.5, 0.5]
    assert site_weights(shares, Weights.SAMPLES, 0.6) == pytest.approx([0.6, 0.4])
    assert site_weights([Share("a", 30, 0), Share("b", 10, 0)], Weights.EVENTS, 1.0) == [0.75, 0.25]
    assert site_weights([Share("a", 0, 0), Share("b", 0, 0)], Weights.EVENTS, 1.0) == [0.5, 0.5]
