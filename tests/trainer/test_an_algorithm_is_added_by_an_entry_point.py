"""The registry of local algorithms, and what an algorithm may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_for_trainer import IDH, first_model, network, parameters, plan, rows, same_bits, site
from sklearn.linear_model import LogisticRegression

from fedstudy.errors import PlanError
from fedstudy.measures import newton_step
from fedstudy_trainer.algorithms import local_algorithm
from fedstudy_trainer.learner import train

PACKAGE = """
from fedstudy_trainer.algorithms import LocalAlgorithm

class Ridge(LocalAlgorithm):
    name = "Ridge"

    def penalty(self, now, start):
        return 10 * sum(w.square().sum() for w in now)
"""


def test_an_installed_algorithm_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ridge_for_fedstudy.py").write_text(PACKAGE)
    info = tmp_path / "ridge_for_fedstudy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ridge-for-fedstudy\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[fedstudy_trainer.algorithms]\nRidge = ridge_for_fedstudy:Ridge\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    study = plan(network="MLP", federation={"algorithm": {"name": "Ridge"}})
    data = site(tmp_path / "data", study, rows(12))
    start = first_model(study, data)
    ridge = train(network(study, start), data, study, parameters(study))
    plain = train(network(study, start), data, plan(network="MLP"), parameters(study))
    name = "layers.0.weight"
    assert np.square(ridge.tensors[name]).sum() < np.square(plain.tensors[name]).sum()


def test_an_algorithm_that_is_not_installed_is_named() -> None:
    with pytest.raises(PlanError, match="Scaffold is not installed"):
        local_algorithm(plan(federation={"algorithm": {"name": "Scaffold"}}))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "MLP"},
        {"target": {"label": "grade", "classes": ["II", "III", "IV"]}},
        {"target": {"time": "months", "event": "dead"}},
    ],
)
def test_newton_refuses_what_has_no_convex_single_output(changes: dict[str, object]) -> None:
    study = plan(**changes, federation={"algorithm": {"name": "NewtonRaphson"}})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="NewtonRaphson"):
        local_algorithm(study)


def test_newton_for_two_classes_is_scikit_learns_fit(tmp_path: Path) -> None:
    study = plan(
        target=IDH,
        covariates=[{"name": "age"}],
        federation={"algorithm": {"name": "NewtonRaphson"}},
    )
    sites = [site(tmp_path / str(k), study, rows(70, seed=k)) for k in range(3)]
    start = first_model(study, *sites)
    beta = np.zeros(3)  # age, age missing, intercept
    for _ in range(8):
        state = {**start, "weight": beta[None, :2].astype(np.float32), "bias": beta[2:].astype(np.float32)}
        answers = [train(network(study, state), data, study, {}).tensors for data in sites]
        summed = {f"newton.{n}": np.sum([a[n] for a in answers], axis=0) for n in answers[0]}
        beta = newton_step(summed, beta)
    x = np.concatenate([data.cases("training").covariates for data in sites])
    z = np.nan_to_num((x - start["constant.covariate.mean"]) / start["constant.covariate.scale"])
    design = np.concatenate([z, np.isnan(x)], axis=1)
    y = np.concatenate([data.cases("training").labels for data in sites])
    fitted = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(design, y)
    np.testing.assert_allclose(beta, [*fitted.coef_[0], *fitted.intercept_], atol=1e-3)


def test_cyclical_weight_transfer_is_descent_for_the_steps_it_is_told(tmp_path: Path) -> None:
    ring = plan(federation={"algorithm": {"name": "CyclicalWeightTransfer"}}, training={"batchSize": 4})
    data = site(tmp_path, ring, rows(10))
    start = first_model(ring, data)
    told = {"steps": 5, "learning_rate": 0.1, "seed": 3}
    around = train(network(ring, start), data, ring, told)
    plain = train(network(ring, start), data, plan(training={"batchSize": 4}), told)
    assert around.contribution.steps == 5
    assert same_bits(dict(around.tensors), dict(plain.tensors))


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
def test_every_optimiser_and_precision_lowers_the_loss(
    tmp_path: Path, optimizer: str, precision: str
) -> None:
    study = plan(
        network="MLP",
        training={
            "optimizer": {"name": optimizer, "learningRate": 0.05, "weightDecay": 0.001},
            "precision": precision,
            "gradientClip": 1.0,
        },
    )
    data = site(tmp_path, study, rows(40))
    model = network(study, first_model(study, data))
    first = train(model, data, study, parameters(study)).contribution.loss
    train(model, data, study, parameters(study, epochs=30))
    assert train(model, data, study, parameters(study)).contribution.loss < first - 0.05
