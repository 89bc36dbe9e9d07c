"""36 real hospitals, some with one patient or one class: federated figures equal the pooled ones.

The data are those of TCGA (see shared/realdata/README.md); they are not part of this repository.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score
from tests.required import lacking

from fedstudy.measures import (
    classification_metrics,
    classification_statistics,
    cohort_statistics,
    event_time_cuts,
    standardisation,
    survival_metrics,
    survival_statistics,
    total,
)


@pytest.fixture(scope="module")
def glioma() -> pd.DataFrame:
    for folder in Path(__file__).resolve().parents:
        file = folder / "shared" / "realdata" / "tcga-glioma" / "tcga_glioma_clinical.csv"
        if file.is_file():
            return pd.read_csv(file)
    lacking("the TCGA glioma table (shared/realdata/tcga-glioma) is not beside this checkout")


def _hospitals(table: pd.DataFrame) -> list[np.ndarray]:
    return [
        np.flatnonzero(table["site_name"] == name) for name in sorted(table["site_name"].dropna().unique())
    ]


def test_the_prologue_equals_the_pooled_prologue(glioma: pd.DataFrame) -> None:
    table = glioma.dropna(subset=["site_name"])
    x = table[["age", "kps"]].to_numpy(float)
    y = table["idh"].map({"WT": 0, "Mutant": 1}).fillna(-1).to_numpy(np.int64)
    t = table["os_months"].clip(lower=0).to_numpy(float)
    e = table["dead"].to_numpy(float)
    homes = _hospitals(table)
    assert any(np.isnan(x[r, 1]).all() for r in homes)  # a hospital without any performance status
    summed = total(cohort_statistics(x[r], y[r], 2, t[r], e[r]) for r in homes)
    got = standardisation(summed, ["age", "kps"])
    np.testing.assert_allclose(got.mean, np.nanmean(x, axis=0), rtol=1e-12)
    np.testing.assert_allclose(got.scale, np.nanstd(x, axis=0), rtol=1e-12)
    assert summed["count.class"].tolist() == [np.sum(y == 0), np.sum(y == 1)]
    known = (e == 1) & ~np.isnan(t)
    cuts = event_time_cuts(summed["time.events"], 12)
    np.testing.assert_allclose(cuts, np.quantile(t[known], np.arange(1, 12) / 12), rtol=0.03)


def test_idh_from_age_has_the_pooled_auc(glioma: pd.DataFrame) -> None:
    table = glioma.dropna(subset=["site_name", "age", "idh"])
    y = (table["idh"] == "Mutant").to_numpy(np.int64)
    p = 1 / (1 + np.exp((table["age"].to_numpy() - 47) / 10))
    homes = _hospitals(table)
    got = classification_metrics(
        total(classification_statistics(np.column_stack([1 - p, p])[r], y[r]) for r in homes)
    )
    assert got["auc"] == pytest.approx(roc_auc_score(y, p), abs=0.005)
    both = [r for r in homes if 0 < y[r].sum() < r.size]
    assert len(both) < len(homes)  # some hospitals have one class only
    pairs = [y[r].sum() * (1 - y[r]).sum() for r in both]
    within = np.average([roc_auc_score(y[r], p[r]) for r in both], weights=pairs)
    assert got["auc_within"] == pytest.approx(within, abs=1e-12)
    assert got["auc_within"] < got["auc"]  # the hospital itself tells much of the label


def test_survival_from_age_has_the_pooled_c_index_and_median(glioma: pd.DataFrame) -> None:
    table = glioma.dropna(subset=["site_name", "age", "os_months", "dead"])
    t = table["os_months"].clip(lower=0.03).to_numpy(float)
    e = table["dead"].to_numpy(int)
    risk = (table["age"].to_numpy(float) - 50) / 10
    got = survival_metrics(total(survival_statistics(risk[r], t[r], e[r]) for r in _hospitals(table)))
    assert got["c_index"] == pytest.approx(concordance_index(t, -risk, e), abs=0.005)
    assert got["median_survival"] == pytest.approx(
        KaplanMeierFitter().fit(t, e).median_survival_time_, rel=0.03
    )
    assert got["log_rank_p"] < 1e-20
    assert got["c_index_low"] < got["c_index"] < got["c_index_high"]
