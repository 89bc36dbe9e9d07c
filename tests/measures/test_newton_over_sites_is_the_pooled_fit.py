"""Cox and logistic regression fitted over sites equal lifelines and scikit-learn on the pooled rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.datasets import load_lung
from sklearn.linear_model import LogisticRegression
from tests.required import lacking

from fedstudy.measures import Fit, cox_terms, fit, logistic_terms, newton_step, total


def _glioma() -> pd.DataFrame:
    for folder in Path(__file__).resolve().parents:
        table = folder / "shared" / "realdata" / "tcga-glioma" / "tcga_glioma_clinical.csv"
        if table.is_file():
            return pd.read_csv(table)
    lacking("the TCGA glioma table (shared/realdata/tcga-glioma) is not beside this checkout")


def _fit_by_site(table: pd.DataFrame, covariates: list[str], time: str, event: str, site: str) -> Fit:
    scale = table[covariates].std()
    x = ((table[covariates] - table[covariates].mean()) / scale).to_numpy(float)
    t, e = table[time].to_numpy(float), table[event].to_numpy()
    homes = [np.flatnonzero(table[site] == name) for name in table[site].unique()]
    found = fit([partial(cox_terms, x[r], t[r], e[r]) for r in homes], np.zeros(len(covariates)))
    s = scale.to_numpy()
    return Fit(
        found.beta / s, found.covariance / np.outer(s, s), found.loglik, found.iterations, found.converged
    )


def _lifelines(table: pd.DataFrame, covariates: list[str], time: str, event: str, site: str) -> CoxPHFitter:
    columns = table[[*covariates, time, event, site]]
    return CoxPHFitter().fit(columns, time, event, strata=[site], fit_options={"precision": 1e-9})


def test_stratified_cox_on_the_lung_cancer_trial_is_that_of_lifelines() -> None:
    covariates = ["age", "sex", "ph.ecog", "wt.loss"]
    lung = load_lung().dropna(subset=["inst", *covariates])
    got = _fit_by_site(lung, covariates, "time", "status", "inst")
    expected = _lifelines(lung, covariates, "time", "status", "inst")
    assert got.converged and got.iterations <= 10
    np.testing.assert_allclose(got.beta, expected.params_.to_numpy(), atol=1e-4)
    np.testing.assert_allclose(
        np.sqrt(np.diag(got.covariance)), expected.standard_errors_.to_numpy(), rtol=1e-4
    )
    assert got.loglik == pytest.approx(expected.log_likelihood_, abs=1e-4)


def test_stratified_cox_on_real_glioma_hospitals_is_that_of_lifelines() -> None:
    table = _glioma().dropna(subset=["age", "sex", "grade", "idh", "os_months", "dead"]).copy()
    table["male"] = (table["sex"] == "male").astype(float)
    table["g3"], table["g4"] = (table["grade"] == "G3") * 1.0, (table["grade"] == "G4") * 1.0
    table["mutant"] = (table["idh"] == "Mutant") * 1.0
    table["os_months"] = np.round(table["os_months"].clip(lower=0.03), 0) + 0.5  # whole months: many ties
    covariates = ["age", "male", "g3", "g4", "mutant"]
    got = _fit_by_site(table, covariates, "os_months", "dead", "site_name")
    expected = _lifelines(table, covariates, "os_months", "dead", "site_name")
    np.testing.assert_allclose(got.beta, expected.params_.to_numpy(), atol=1e-4)
    np.testing.assert_allclose(
        np.sqrt(np.diag(got.covariance)), expected.standard_errors_.to_numpy(), rtol=1e-3
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), n=st.integers(1, 40), tied=st.booleans())
def test_gradient_and_information_are_the_derivatives_of_the_likelihood(
    seed: int, n: int, tied: bool
) -> None:
    rng = np.random.default_rng(seed)
    x, t, e = rng.normal(0, 1, (n, 3)), rng.exponential(5, n), rng.random(n) < 0.7
    t = np.ceil(t) if tied else t
    beta, step = rng.normal(0, 0.5, 3), 1e-5
    here = cox_terms(x, t, e, beta)
    for i in range(3):
        ahead, behind = (cox_terms(x, t, e, beta + sign * step * np.eye(3)[i]) for sign in (1, -1))
        slope = (ahead["newton.loglik"] - behind["newton.loglik"])[0] / (2 * step)
        assert here["newton.gradient"][i] == pytest.approx(slope, abs=1e-5)
        bend = (ahead["newton.gradient"] - behind["newton.gradient"]) / (2 * step)
        np.testing.assert_allclose(here["newton.information"][i], -bend, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100_000), sites=st.integers(1, 6))
def test_logistic_regression_over_sites_is_that_of_pooled_rows(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (300, 3))
    y = (rng.random(300) < 1 / (1 + np.exp(-x @ [1.0, -0.5, 0.0]))).astype(float)
    home = rng.integers(0, sites, 300)
    parts = [partial(_logistic, x[home == k], y[home == k]) for k in range(sites)]
    got = fit(parts, np.zeros(3), ridge=0.7)
    expected = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-9, max_iter=1000).fit(x, y)
    assert got.converged
    np.testing.assert_allclose(got.beta, expected.coef_[0], atol=1e-5)


def _logistic(x: np.ndarray, y: np.ndarray, beta: np.ndarray) -> dict[str, np.ndarray]:
    return logistic_terms(x, y, beta)


def test_sites_without_events_or_patients_contribute_zeros() -> None:
    rng = np.random.default_rng(2)
    x, beta = rng.normal(0, 1, (5, 2)), np.array([0.3, -0.2])
    silent = [
        cox_terms(x, np.arange(5.0), np.zeros(5), beta),
        cox_terms(x[:0], np.zeros(0), np.zeros(0), beta),
        cox_terms(x, np.full(5, np.nan), np.ones(5), beta),
    ]
    for terms in silent:
        assert all(np.all(value == 0) for value in terms.values())
    alone = cox_terms(x[:1], np.ones(1), np.ones(1), beta)
    assert alone["newton.events"][0] == 1 and np.allclose(alone["newton.gradient"], 0)
    assert np.all(newton_step(total([*silent, alone]), beta) == beta)


def test_a_constant_covariate_keeps_its_coefficient_and_disturbs_no_other() -> None:
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.normal(0, 1, 80), np.full(80, 7.0)])
    t, e = rng.exponential(np.exp(-x[:, 0])), rng.random(80) < 0.8
    both = fit([lambda beta: cox_terms(x, t, e, beta)], np.zeros(2))
    one = fit([lambda beta: cox_terms(x[:, :1], t, e, beta)], np.zeros(1))
    assert both.converged and np.all(np.isfinite(both.covariance))
    np.testing.assert_allclose(both.beta, [one.beta[0], 0.0], atol=1e-7)


def test_an_overshooting_step_is_halved_and_large_scores_stay_finite() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, (60, 1))
    t, e = rng.exponential(np.exp(-0.5 * x[:, 0])), np.ones(60)
    far = fit([lambda beta: cox_terms(x, t, e, beta)], np.array([6.0]))
    near = fit([lambda beta: cox_terms(x, t, e, beta)], np.array([0.0]))
    np.testing.assert_allclose(far.beta, near.beta, atol=1e-6)
    assert all(np.isfinite(value).all() for value in cox_terms(x, t, e, np.array([400.0])).values())
    separated = fit(
        [lambda beta: logistic_terms(x, (x[:, 0] > 0).astype(np.float64), beta)], np.zeros(1), iterations=15
    )
    assert not separated.converged and np.isfinite(separated.beta).all()
