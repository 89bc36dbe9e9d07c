"""Real patients, real hospitals: a federated study finds what scikit-learn and lifelines find on the pooled rows.

The glioma table is that of TCGA (shared/realdata, not part of this repository); the lung table comes with lifelines.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks import glioma_cohort
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from studies_helpers import Run, Start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEDAVG: dict[str, Any] = {
    "training": {"localEpochs": 5, "batchSize": 16, "optimizer": {"learningRate": 0.2}, "seed": 1},
    "federation": {"rounds": 8, "evaluateEvery": 8},
}
CYCLICAL: dict[str, Any] = {
    "training": {
        "localEpochs": 3,
        "batchSize": 16,
        "optimizer": {"learningRate": 0.2, "decay": 0.75},
        "seed": 1,
    },
    "federation": {"rounds": 6, "evaluateEvery": 6, "algorithm": {"name": "CyclicalWeightTransfer"}},
}
NEWTON: dict[str, Any] = {
    "training": {"localSteps": 1, "batchSize": 0, "optimizer": {"learningRate": 1.0}},
    "federation": {"rounds": 6, "evaluateEvery": 6, "algorithm": {"name": "NewtonRaphson"}},
}


def design(table: pd.DataFrame, covariates: list[dict[str, Any]]) -> pd.DataFrame:
    """Columns as a study expands them: numbers as they are, k-1 columns of 0 and 1 for k categories."""
    columns = {}
    for covariate in covariates:
        values, categories = table[covariate["name"]], covariate.get("categories")
        if categories is None:
            columns[covariate["name"]] = values.astype(float)
        for category in (categories or [])[1:]:
            columns[f"{covariate['name']}={category}"] = (values == category).astype(float)
    return pd.DataFrame(columns)


def within(score: Any, sites: pd.Series, pairs_and_value: Any) -> float:
    """Mean of a metric within each site, each weighted with its number of comparable pairs."""
    parts = [pairs_and_value((sites == site).to_numpy(), score) for site in sites.unique()]
    weights, values = np.array([p for p in parts if p[0]]).T
    return float(np.average(values, weights=weights))


# IDH from age, sex, performance status and grade


@pytest.mark.parametrize("words", [FEDAVG, CYCLICAL], ids=["FedAvg", "CyclicalWeightTransfer"])
def test_idh_over_eighteen_hospitals_is_told_as_well_as_by_pooled_logistic_regression(
    words: dict[str, Any], realdata: Path, start: Start, tmp_path: Path
) -> None:
    task = glioma_cohort.IDH_TASK
    table = glioma_cohort.patients(realdata, task)
    sites = glioma_cohort.write(tmp_path / "cohort", table, task, **words)
    assert len(sites) == 18 and len(table) == 926
    run = start(tmp_path / "cohort", tmp_path / "results").done()
    got = run.results.metrics
    label = (table["idh"] == "Mutant").to_numpy(int)
    train, test = (table["split"] == "train").to_numpy(), (table["split"] == "test").to_numpy()
    score = pooled_logistic(design(table, task["covariates"]), label, train)

    def auc(rows: Any, score: Any) -> tuple[int, float]:
        rows = rows & test
        pairs = int(label[rows].sum() * (1 - label[rows]).sum())
        return pairs, roc_auc_score(label[rows], score[rows]) if pairs else 0.0

    pooled, pooled_within = roc_auc_score(label[test], score[test]), within(score, table["site"], auc)
    print(
        f"\nAUC {got['auc']:.3f} (pooled {pooled:.3f}), within {got['auc_within']:.3f} ({pooled_within:.3f})"
    )
    assert got["auc"] == pytest.approx(pooled, abs=0.01)
    assert got["auc"] > 0.92
    assert got["auc_within"] >= 0.82
    assert int(got["cases"]) == test.sum()


def pooled_logistic(x: pd.DataFrame, label: Any, train: Any) -> Any:
    """Probabilities by logistic regression on the pooled training rows, standardised, with mean and indicator for gaps."""
    z = (x - x[train].mean()) / x[train].std(ddof=0)
    inputs = np.column_stack([z.fillna(0.0), x.isna()])
    return (
        LogisticRegression(C=1e6, max_iter=2000).fit(inputs[train], label[train]).predict_proba(inputs)[:, 1]
    )


# Survival


def compare_with_lifelines(
    run: Run, table: pd.DataFrame, covariates: list[dict[str, Any]], time: str, event: str
) -> None:
    """The study's coefficients and C-indices are those of the stratified Cox model on the pooled rows."""
    x = design(table, covariates)
    rows = x.assign(time=table[time].to_numpy(float), event=table[event].to_numpy(int), site=table["site"])
    train, test = (table["split"] == "train").to_numpy(), (table["split"] == "test").to_numpy()
    fitted = CoxPHFitter().fit(rows[train], "time", "event", strata="site", fit_options={"precision": 1e-10})
    weight = run.model["weight"][0].astype(np.float64)[: x.shape[1]]
    coefficients = weight / run.model["constant.covariate.scale"].astype(np.float64)
    wanted = fitted.params_[list(x.columns)].to_numpy()
    np.testing.assert_allclose(coefficients, wanted, rtol=1e-3, atol=1e-4)
    risk = x.to_numpy() @ wanted
    t, died = rows["time"].to_numpy(), rows["event"].to_numpy()

    def c_index(inside: Any, risk: Any) -> tuple[int, float]:
        inside = inside & test
        pairs = comparable(t[inside], died[inside])
        return pairs, concordance_index(t[inside], -risk[inside], died[inside]) if pairs else 0.0

    got = run.results.metrics
    pooled, pooled_within = c_index(test, risk)[1], within(risk, table["site"], c_index)
    print(
        f"\nC {got['c_index']:.4f} ({pooled:.4f}), within {got['c_index_within']:.4f} ({pooled_within:.4f})"
    )
    assert got["c_index"] == pytest.approx(pooled, abs=0.01)
    assert got["c_index_within"] == pytest.approx(pooled_within, abs=1e-3)


def comparable(t: Any, died: Any) -> int:
    """Harrell's comparable pairs: one died, and the other outlived that death."""
    outlived = (t[None, :] > t[:, None]) | ((t[None, :] == t[:, None]) & (died[None, :] == 0))
    return int((outlived & (died[:, None] == 1)).sum())


def test_survival_with_glioma_is_the_stratified_cox_model_of_lifelines(
    realdata: Path, start: Start, tmp_path: Path
) -> None:
    task = glioma_cohort.SURVIVAL_TASK
    table = glioma_cohort.patients(realdata, task)
    glioma_cohort.write(tmp_path / "cohort", table, task, **NEWTON)
    run = start(tmp_path / "cohort", tmp_path / "results").done()
    compare_with_lifelines(run, table, task["covariates"], "os_months", "dead")


def test_survival_with_lung_cancer_is_the_stratified_cox_model_of_lifelines(
    repository: Path, start: Start, tmp_path: Path
) -> None:
    example = repository / "examples" / "lung-survival"
    cohort = tmp_path / "cohort"
    shutil.copytree(example / "manifests", cohort / "manifests")
    subprocess.run([sys.executable, str(example / "make_data.py"), str(cohort)], check=True)
    run = start(cohort, tmp_path / "results").done()
    hospitals = sorted((cohort / "data").iterdir())
    table = pd.concat(
        [pd.read_csv(folder / "participants.csv").assign(site=folder.name) for folder in hospitals],
        ignore_index=True,
    )
    covariates = [{"name": "age"}, {"name": "sex", "categories": ["female", "male"]}, {"name": "ph.ecog"}]
    compare_with_lifelines(run, table, covariates, "days", "dead")
