"""Exactness: one full-batch step of weighted FedAvg is the pooled gradient step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_for_trainer import IDH, TIMES, first_model, network, parameters, plan, rows, site

from fedstudy.aggregator.algorithms import Share, Update, algorithm
from fedstudy.plan import StudyPlan
from fedstudy.tensors import TensorFile, read, write
from fedstudy_trainer.data.dataset import SiteData
from fedstudy_trainer.learner import train
from fedstudy_trainer.networks.state import State
from fedstudy_trainer.pooled import PooledData

STUDIES: dict[str, dict[str, Any]] = {
    "two classes": {"target": IDH},
    "classes balanced over all sites": {"target": IDH, "task": {"classWeighting": "GlobalBalance"}},
    "three classes": {
        "target": {"label": "grade", "classes": ["II", "III", "IV"]},
        "covariates": [{"name": "age"}],
    },
    "multilayer perceptron": {"target": IDH, "network": "MLP"},
    "discrete hazard": {"target": TIMES},
    "Cox weighted by cases": {"target": TIMES, "task": {"loss": "StratifiedCox"}},
    "Cox weighted by events": {
        "target": TIMES,
        "task": {"loss": "StratifiedCox"},
        "federation": {"weights": "Events"},
    },
}


def federated_step(
    folder: Path, study: StudyPlan, sites: list[SiteData], start: State
) -> dict[str, np.ndarray[Any, Any]]:
    """One round of the hub's own fold over the sites' answers."""
    write(folder / "model", start)
    updates, weights = [], []
    for k, data in enumerate(sites):
        trained = train(network(study, start), data, study, parameters(study, seed=k))
        write(folder / f"update-{k}", trained.tensors)
        mine = trained.contribution
        weights.append(mine.events if study.federation.weights == "Events" else mine.samples)
        updates.append((TensorFile(folder / f"update-{k}"), Share(f"s{k}", mine.samples, mine.events)))
    shares = [
        Update(share.site, file, weight / sum(weights), share)
        for (file, share), weight in zip(updates, weights, strict=True)
    ]
    algorithm(study).fold(TensorFile(folder / "model"), shares, folder / "next")
    return read(folder / "next")


@pytest.mark.parametrize("name", STUDIES)
def test_one_full_batch_step_of_fedavg_is_the_pooled_step(tmp_path: Path, name: str) -> None:
    study = plan(**STUDIES[name])
    sites = [site(tmp_path / f"{k}", study, rows(n, seed=k)) for k, n in enumerate((41, 7, 19))]
    start = first_model(study, *sites)
    federated = federated_step(tmp_path, study, sites, start)
    pooled = PooledData(study, sites)
    descended = train(network(study, start), pooled, study, parameters(study), strata=pooled.strata()).tensors
    assert any(np.abs(descended[tensor] - start[tensor]).max() > 1e-3 for tensor in descended)
    for tensor, values in descended.items():
        np.testing.assert_allclose(federated[tensor], values, atol=1e-6, rtol=0)
