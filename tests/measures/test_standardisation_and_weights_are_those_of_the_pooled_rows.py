"""The prologue over sites equals the prologue over pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from fedstudy.errors import DataError
from fedstudy.measures import class_weights, cohort_statistics, event_time_cuts, standardisation, total


def _sites(n: int, sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    home = rng.integers(0, sites, n)
    return [np.flatnonzero(home == k) for k in range(sites)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 200), sites=st.integers(1, 9), missing=st.floats(0, 0.6))
def test_means_and_scales_are_the_pooled_ones(seed: int, n: int, sites: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal([50, 0, 1e4], [15, 1, 3e3], (n, 3))
    x[rng.random(x.shape) < missing] = np.nan
    x[:2] = [[40, -1, 1e3], [60, 1, 2e4]]
    summed = total(cohort_statistics(x[rows], None, 0) for rows in _sites(n, sites, rng))
    got = standardisation(summed, ["age", "z", "volume"])
    np.testing.assert_allclose(got.mean, np.nanmean(x, axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.scale, np.nanstd(x, axis=0), rtol=1e-12)
    np.testing.assert_allclose(got.apply(x), StandardScaler().fit_transform(x), atol=1e-10)
    assert got.constant == () and got.absent == ()


@settings(max_examples=40, deadline=None)
@given(value=st.floats(-1e6, 1e6), n=st.integers(1, 300), sites=st.integers(1, 5))
def test_a_constant_and_an_absent_covariate_are_named_and_left_unscaled(
    value: float, n: int, sites: int
) -> None:
    x = np.column_stack([np.full(n, value), np.full(n, np.nan)])
    summed = total(cohort_statistics(x[rows], None, 0) for rows in _sites(n, sites, np.random.default_rng(n)))
    got = standardisation(summed, ["kps", "mgmt"])
    assert got.constant == ("kps",) and got.absent == ("mgmt",)
    assert got.scale.tolist() == [1.0, 1.0] and got.mean[1] == 0.0
    assert np.allclose(got.apply(x)[:, 0], 0.0, atol=1e-8)


def test_class_weights_are_balanced_and_ignore_missing_labels() -> None:
    y = np.array([0, 0, 0, 1, -1, -1, 2, 2])
    parts = [cohort_statistics(np.zeros((rows.size, 0)), rows, 4) for rows in (y[:3], y[3:5], y[5:])]
    summed = total(parts)
    assert summed["count.cases"].tolist() == [8] and summed["count.labelled"].tolist() == [6]
    weights = class_weights(summed["count.class"])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=y[y >= 0]) * 3 / 4
    np.testing.assert_allclose(weights, [*expected, 0.0])


def test_an_empty_site_and_a_site_of_one_patient_add_nothing_strange() -> None:
    empty = cohort_statistics(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), 2, np.zeros(0), np.zeros(0))
    one = cohort_statistics(np.array([[1.0, np.nan]]), np.array([1]), 2, np.array([5.0]), np.array([1]))
    summed = total([empty, one, empty])
    assert all(np.isfinite(value).all() for value in summed.values())
    assert summed["count.events"].tolist() == [1] and summed["time.all"].sum() == 1
    assert all(value.dtype in (np.float64, np.int64) for value in empty.values())
    assert np.all(class_weights(np.zeros(3, dtype=np.int64)) == 0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 400), intervals=st.integers(1, 20), whole=st.booleans())
def test_cuts_increase_strictly_however_few_or_tied_the_events(
    seed: int, n: int, intervals: int, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    t = rng.exponential(20, n)
    t = np.ceil(t / 12) * 12 if whole else t
    events = rng.random(n) < 0.6
    events[0] = True
    cuts = event_time_cuts(cohort_statistics(np.zeros((n, 0)), None, 0, t, events)["time.events"], intervals)
    assert cuts.shape == (intervals - 1,)
    assert np.all(np.diff(cuts) > 0) and np.all(np.isfinite(cuts)) and np.all(cuts > 0)


def test_cuts_are_the_quantiles_of_the_pooled_event_times_within_one_bin() -> None:
    rng = np.random.default_rng(1)
    t, events = rng.lognormal(3, 1, 5000), rng.random(5000) < 0.7
    summed = total(
        cohort_statistics(np.zeros((r.size, 0)), None, 0, t[r], events[r]) for r in _sites(5000, 7, rng)
    )
    expected = np.quantile(t[events], np.arange(1, 15) / 15)
    np.testing.assert_allclose(event_time_cuts(summed["time.events"], 15), expected, rtol=0.028)


def test_a_study_without_any_event_is_told_what_to_check() -> None:
    none = cohort_statistics(np.zeros((3, 0)), None, 0, np.array([1.0, 2.0, 3.0]), np.zeros(3))
    with pytest.raises(DataError, match="No site has an event"):
        event_time_cuts(none["time.events"], 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.array([0, 2])}, "Label 2 of row 1"),
        ({"times": np.array([1.0, -2.0])}, "row 1 is negative"),
        ({"covariates": np.array([[0.0], [np.inf]])}, "row 1 is infinite"),
    ],
)
def test_a_wrong_value_is_refused_with_its_row(change: dict[str, np.ndarray], words: str) -> None:
    given_ = {
        "covariates": np.zeros((2, 1)),
        "labels": np.array([0, 1]),
        "times": np.ones(2),
        "events": np.ones(2),
    }
    with pytest.raises(DataError, match=words):
        cohort_statistics(n_classes=2, **(given_ | change))
