"""Survival metrics from summed statistics equal those of lifelines on the pooled rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_lung
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index

from fedstudy.errors import DataError, UpdateError
from fedstudy.measures import (
    hazard_nll,
    interval_of,
    kaplan_meier,
    log_rank,
    median_survival,
    risk_groups,
    survival_at,
    survival_metrics,
    survival_statistics,
    total,
)
from fedstudy.measures.grids import COARSE, TIME_CENTRES, TIME_EDGES, risk_bin, time_bin

Cohort = tuple[np.ndarray, np.ndarray, np.ndarray]


def _cohort(seed: int, n: int, kind: str = "months", strength: float = 1.0) -> Cohort:
    """Risk, time and event of n patients; times as they are recorded: exact, in whole months, or in years."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(0, 1, n)
    t = 30 * rng.weibull(1.3, n) * np.exp(-strength * risk / 1.3)
    c = rng.uniform(2, 90, n)
    observed = np.minimum(t, c)
    if kind == "whole months":
        observed = np.ceil(observed)
    if kind == "whole years":
        observed = np.ceil(observed / 12)
    if kind == "days":
        observed = np.ceil(observed * 30.4)
    return risk, observed, t <= c


def _split(n: int, sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    home = rng.integers(0, sites, n)
    return [np.flatnonzero(home == k) for k in range(sites)]


def _summed(cohort: Cohort, sites: int, seed: int = 0) -> dict[str, np.ndarray]:
    risk, t, e = cohort
    return total(
        survival_statistics(risk[r], t[r], e[r]) for r in _split(t.size, sites, np.random.default_rng(seed))
    )


@pytest.mark.parametrize("kind", ["months", "whole months", "whole years", "days"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100_000), n=st.integers(300, 900), strength=st.floats(-1, 2), scale=st.floats(0.2, 4)
)
def test_the_c_index_over_all_pairs_is_harrells_of_pooled_rows(
    kind: str, seed: int, n: int, strength: float, scale: float
) -> None:
    risk, t, e = _cohort(seed, n, kind, strength)
    got = survival_metrics(_summed((risk * scale, t, e), 6))
    assert got["c_index"] == pytest.approx(concordance_index(t, -risk, e), abs=0.005)
    assert got["c_index_low"] <= got["c_index"] <= got["c_index_high"]
    assert all(np.isfinite(value) for value in got.values())


def test_a_restricted_mean_as_risk_is_resolved_too() -> None:
    risk, t, e = _cohort(4, 1500)
    restricted = -15 / (1 + np.exp(0.7 * risk))  # minus the sum of 15 survival probabilities
    assert survival_metrics(_summed((restricted, t, e), 5))["c_index"] == pytest.approx(
        concordance_index(t, -restricted, e), abs=0.005
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), sites=st.integers(1, 12), tied=st.booleans())
def test_the_c_index_within_sites_is_exact(seed: int, sites: int, tied: bool) -> None:
    risk, t, e = _cohort(seed, 160, "whole months" if tied else "months")
    risk = np.round(risk) if tied else risk
    parts = [
        survival_statistics(risk[r], t[r], e[r]) for r in _split(160, sites, np.random.default_rng(seed))
    ]
    for part, r in zip(parts, _split(160, sites, np.random.default_rng(seed)), strict=True):
        if part["survival.within.pairs"][0] > 0:
            expected = concordance_index(t[r], -risk[r], e[r])
            assert survival_metrics(part)["c_index_within"] == pytest.approx(expected, abs=1e-12)
    pairs = np.array([part["survival.within.pairs"][0] for part in parts])
    each = [survival_metrics(part).get("c_index_within", 0.0) for part in parts]
    assert survival_metrics(total(parts))["c_index_within"] == pytest.approx(
        pairs @ each / pairs.sum(), abs=1e-12
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), sites=st.integers(1, 30))
def test_how_patients_fall_to_sites_does_not_matter(seed: int, sites: int) -> None:
    cohort = _cohort(seed, 120)
    cuts = np.array([6.0, 12.0, 30.0])
    hazards = np.random.default_rng(seed).uniform(0, 0.6, (120, 4))
    parts = _split(120, sites, np.random.default_rng(seed))
    risk, t, e = cohort
    pooled = survival_statistics(risk, t, e, hazards=hazards, cuts=cuts)
    split = total(survival_statistics(risk[r], t[r], e[r], hazards=hazards[r], cuts=cuts) for r in parts)
    for name in pooled:
        if ".within." in name:
            continue
        if pooled[name].dtype == np.int64:
            assert np.array_equal(pooled[name], split[name]), name
        else:
            np.testing.assert_allclose(split[name], pooled[name], rtol=1e-9, atol=1e-9, err_msg=name)
    a, b = survival_metrics(pooled, cuts=cuts), survival_metrics(split, cuts=cuts)
    for name in a:
        if "within" not in name:
            assert a[name] == pytest.approx(b[name], abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100_000), n=st.integers(1, 300), sites=st.integers(1, 8))
def test_kaplan_meier_is_that_of_lifelines_at_the_resolution_of_the_grid(
    seed: int, n: int, sites: int
) -> None:
    cohort = _cohort(seed, n)
    summed = _summed(cohort, sites)
    curve = kaplan_meier(summed["survival.deaths"], summed["survival.censored"])
    rounded = TIME_CENTRES[time_bin(cohort[1])]
    fitter = KaplanMeierFitter().fit(rounded, cohort[2])
    expected = fitter.survival_function_at_times(curve.times).to_numpy()
    np.testing.assert_allclose(curve.survival, expected, atol=1e-9)
    bounds = fitter.confidence_interval_.loc[curve.times].to_numpy()
    inside = (expected > 1e-9) & (expected < 1)
    np.testing.assert_allclose(curve.low[inside], bounds[inside, 0], atol=1e-6)
    np.testing.assert_allclose(curve.high[inside], bounds[inside, 1], atol=1e-6)
    median = median_survival(curve)
    if np.min(np.abs(curve.survival - 0.5)) > 1e-9:  # at ½ itself lifelines depends on rounding
        assert (np.inf if median is None else median) == pytest.approx(fitter.median_survival_time_)


def test_the_median_is_within_a_bin_of_the_exact_one() -> None:
    cohort = _cohort(8, 3000)
    exact = KaplanMeierFitter().fit(cohort[1], cohort[2]).median_survival_time_
    assert survival_metrics(_summed(cohort, 9))["median_survival"] == pytest.approx(exact, rel=0.03)


def test_risk_groups_and_their_log_rank_test_are_those_of_lifelines() -> None:
    cohort = _cohort(9, 900, strength=0.2)
    summed = _summed(cohort, 5)
    groups = risk_groups(summed, 3)
    assert [int((d + c).sum()) for d, c in groups] == pytest.approx([300] * 3, abs=15)
    sizes = np.cumsum(np.bincount(risk_bin(cohort[0]), minlength=256))
    label = np.minimum((sizes - np.bincount(risk_bin(cohort[0]), minlength=256) / 2) * 3 // 900, 2)[
        risk_bin(cohort[0])
    ]
    edges = TIME_EDGES[::COARSE]
    coarse = edges[time_bin(cohort[1]) // COARSE]
    expected = multivariate_logrank_test(coarse, label, cohort[2])
    got = log_rank(groups)
    assert got is not None
    assert got[0] == pytest.approx(expected.test_statistic, rel=1e-6)
    assert got[1] == pytest.approx(expected.p_value, rel=1e-6)
    assert log_rank(groups[:1]) is None


def _graf(s: np.ndarray, t: np.ndarray, e: np.ndarray, at: float) -> float:
    g = KaplanMeierFitter().fit(t, ~e)
    before = g.survival_function_at_times(t - 1e-9).to_numpy()
    dead, alive = e & (t <= at), t > at
    return float((np.sum(s[dead] ** 2 / before[dead]) + np.sum((1 - s[alive]) ** 2) / g.predict(at)) / t.size)


def test_brier_scores_are_grafs_and_hazards_are_judged_by_their_likelihood() -> None:
    risk, t, e = _cohort(10, 2500)
    cuts = np.array([5.0, 10.0, 16.0, 24.0, 40.0])
    hazards = 1 / (1 + np.exp(-(0.9 * risk[:, None] + np.array([-1.7, -1.4, -1.2, -1.0, -0.7, -0.5]))))
    parts = _split(t.size, 6, np.random.default_rng(1))
    summed = total(survival_statistics(risk[r], t[r], e[r], hazards=hazards[r], cuts=cuts) for r in parts)
    got = survival_metrics(summed, cuts=cuts)
    predicted = survival_at(hazards, cuts, np.array([12.0, 24.0, 36.0]))
    for column, horizon in enumerate((12.0, 24.0, 36.0)):
        assert got[f"brier_{horizon:g}"] == pytest.approx(
            _graf(predicted[:, column], t, e, horizon), abs=0.001
        )
        observed = KaplanMeierFitter().fit(t, e).predict(horizon)
        assert got[f"survival_gap_{horizon:g}"] == pytest.approx(
            predicted[:, column].mean() - observed, abs=0.005
        )
    at_cuts = survival_at(hazards, cuts, cuts)
    np.testing.assert_allclose(at_cuts, np.cumprod(1 - hazards[:, :5], axis=1))
    scores = [_graf(at_cuts[:, j], t, e, cuts[j]) for j in range(5)]
    assert got["ibs"] == pytest.approx(np.trapezoid(scores, cuts) / 35, abs=0.001)
    assert got["log_likelihood_loss"] == pytest.approx(hazard_nll(hazards, t, e, cuts) / t.size)


def test_the_hazard_likelihood_follows_its_formula() -> None:
    cuts, h = np.array([1.0, 2.0]), np.array([[0.1, 0.2, 0.3]] * 4)
    t, e = np.array([0.5, 1.0, 1.5, 9.0]), np.array([1, 0, 1, 0])
    assert interval_of(t, cuts).tolist() == [0, 0, 1, 2]
    likelihood = 0.1 * 0.9 * (0.9 * 0.2) * (0.9 * 0.8 * 0.7)
    assert hazard_nll(h, t, e, cuts) == pytest.approx(-np.log(likelihood))


def test_the_lung_cancer_trial_gives_the_known_figures() -> None:
    lung: pd.DataFrame = load_lung().dropna(subset=["inst", "age", "ph.ecog"])
    risk = (0.5 * lung["ph.ecog"] + 0.01 * lung["age"]).to_numpy()
    t, e = lung["time"].to_numpy(float), lung["status"].to_numpy() == 1
    parts = [np.flatnonzero(lung["inst"] == k) for k in lung["inst"].unique()]
    got = survival_metrics(total(survival_statistics(risk[r], t[r], e[r]) for r in parts))
    assert got["c_index"] == pytest.approx(concordance_index(t, -risk, e), abs=0.005)
    assert got["median_survival"] == pytest.approx(310, rel=0.03)


def test_the_interval_covers_the_true_c_index_about_as_often_as_it_says() -> None:
    truth = survival_metrics(_summed(_cohort(0, 20_000), 40))["c_index"]
    hits = within = 0
    for seed in range(200):
        got = survival_metrics(_summed(_cohort(seed + 1, 100), 3, seed))
        hits += got["c_index_low"] <= truth <= got["c_index_high"]
        within += got["c_index_within_low"] <= truth <= got["c_index_within_high"]
    assert 0.90 <= hits / 200 <= 0.99
    assert 0.89 <= within / 200 <= 0.995


def test_sites_without_events_patients_or_follow_up_do_not_poison_the_sum() -> None:
    empty = survival_statistics(np.zeros(0), np.zeros(0), np.zeros(0))
    no_event = survival_statistics(np.array([1.0, 2.0]), np.array([5.0, 6.0]), np.zeros(2))
    one = survival_statistics(np.array([0.3]), np.array([4.0]), np.array([1]))
    unknown = survival_statistics(np.array([1.0, 1.0]), np.array([np.nan, 3.0]), np.array([1, -1]))
    assert survival_metrics(empty) == {"cases": 0.0, "events": 0.0}
    assert survival_metrics(unknown) == survival_metrics(empty)
    for part in (no_event, one):
        got = survival_metrics(part)
        assert "c_index" not in got and "c_index_within" not in got
        assert all(np.isfinite(value) for value in got.values())
    got = survival_metrics(total([empty, no_event, one, unknown]))
    assert got["cases"] == 3 and got["events"] == 1
    assert got["c_index"] == 0.0 and "c_index_within" not in got
    assert all(np.isfinite(value) for value in got.values())


def test_times_at_zero_and_beyond_the_grid_and_constant_risks_stay_finite() -> None:
    t, e = np.array([0.0, 0.0, 20_000.0, 3.0]), np.array([1, 0, 1, 1])
    got = survival_metrics(survival_statistics(np.zeros(4), t, e))
    assert got["c_index"] == pytest.approx(0.5) and got["c_index_within"] == pytest.approx(0.5)
    assert all(np.isfinite(value) for value in got.values())


def test_wrong_input_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match="row 1"):
        survival_statistics(np.zeros(2), np.array([1.0, -1.0]), np.ones(2))
    with pytest.raises(UpdateError, match="risk score of row 0"):
        survival_statistics(np.array([np.nan]), np.ones(1), np.ones(1))
    with pytest.raises(UpdateError, match="together"):
        survival_statistics(np.zeros(1), np.ones(1), np.ones(1), cuts=np.array([1.0]))
