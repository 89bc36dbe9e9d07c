"""Classification metrics from summed statistics equal those of scikit-learn on the pooled scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from fedstudy.errors import UpdateError
from fedstudy.measures import (
    calibration_curve,
    classification_metrics,
    classification_statistics,
    roc_curve,
    threshold_at_specificity,
    total,
)

Scores = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-z)))


DISTRIBUTIONS: dict[str, Scores] = {
    "ordinary": lambda rng, y: _sigmoid(rng.normal(1.5 * y - 0.7, 1.0)),
    "weak": lambda rng, y: _sigmoid(rng.normal(0.2 * y, 1.0)),
    "worse than chance": lambda rng, y: _sigmoid(rng.normal(-y, 1.0)),
    "saturated": lambda rng, y: _sigmoid(rng.normal(20.0 * y - 10, 9.0)),
    "near one": lambda rng, y: _sigmoid(rng.normal(9 + 1.5 * y, 1.0)),
    "near zero": lambda rng, y: _sigmoid(rng.normal(-12 + y, 1.0)),
    "hardly trained": lambda rng, y: _sigmoid(rng.normal(0.05 * y, 0.05)),
    "heavy ties": lambda rng, y: np.round(_sigmoid(rng.normal(1.5 * y, 1.0)), 1),
    "hard zero and one": lambda rng, y: np.where(rng.random(y.size) < 0.8, y, 1 - y).astype(float),
    "float32 softmax": lambda rng, y: (
        _sigmoid(rng.normal(14.0 * y - 2, 6.0)).astype(np.float32).astype(float)
    ),
    "constant": lambda rng, y: np.full(y.size, 0.3),
    "uniform": lambda rng, y: np.clip(rng.random(y.size) * 0.8 + 0.2 * y, 0, 1),
}


def _split(n: int, sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    home = rng.integers(0, sites, n)
    return [np.flatnonzero(home == k) for k in range(sites)]


def _summed(p: np.ndarray, y: np.ndarray, parts: list[np.ndarray]) -> dict[str, np.ndarray]:
    two = np.column_stack([1 - p, p]) if p.ndim == 1 else p
    return total(classification_statistics(two[rows], y[rows]) for rows in parts)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100_000),
    n=st.integers(60, 1500),
    share=st.floats(0.05, 0.95),
    sites=st.integers(1, 12),
)
def test_the_auc_is_that_of_pooled_scores(name: str, seed: int, n: int, share: float, sites: int) -> None:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    y[:2] = [0, 1]
    p = DISTRIBUTIONS[name](rng, y)
    summed = _summed(p, y, _split(n, sites, rng))
    got = classification_metrics(summed)
    expected = sk.roc_auc_score(y, p)
    assert abs(got["auc"] - expected) <= got["auc_resolution"] + 1e-12
    if min(y.sum(), n - y.sum()) >= 30:  # with fewer, a single shared bin may move the AUC more
        assert got["auc"] == pytest.approx(expected, abs=0.005)
    assert 0 <= got["auc_low"] <= got["auc"] <= got["auc_high"] <= 1
    assert all(np.isfinite(value) for value in got.values())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100_000), n=st.integers(2, 300), classes=st.integers(2, 5), sites=st.integers(1, 20)
)
def test_how_rows_fall_to_sites_does_not_matter(seed: int, n: int, classes: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.4), n)
    y = rng.integers(-1, classes, n)
    pooled, split = classification_statistics(p, y), _summed(p, y, _split(n, sites, rng))
    for name in pooled:
        if ".within." in name:
            continue  # pairs within a site do depend on the sites
        if pooled[name].dtype == np.int64:
            assert np.array_equal(pooled[name], split[name]), name
        else:
            np.testing.assert_allclose(split[name], pooled[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_sums_and_thresholds_are_those_of_pooled_scores() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 2000)
    p = DISTRIBUTIONS["ordinary"](rng, y)
    summed = _summed(p, y, _split(2000, 6, rng))
    got = classification_metrics(summed)
    hard = (p > 0.5).astype(int)
    fpr, tpr, _ = sk.roc_curve(y, p)
    assert got["log_loss"] == pytest.approx(sk.log_loss(y, p), abs=1e-12)
    assert got["brier"] == pytest.approx(sk.brier_score_loss(y, p), abs=1e-12)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, hard))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, hard))
    assert got["sensitivity"] == pytest.approx(sk.recall_score(y, hard))
    assert got["specificity"] == pytest.approx(sk.recall_score(1 - y, 1 - hard))
    assert got["average_precision"] == pytest.approx(sk.average_precision_score(y, p), abs=0.005)
    assert got["sensitivity_at_specificity_90"] == pytest.approx(tpr[fpr <= 0.1].max(), abs=0.005)
    threshold = threshold_at_specificity(summed, 0.9)
    assert threshold is not None
    assert np.mean(p[y == 0] < threshold) >= 0.9
    assert np.mean(p[y == 1] >= threshold) == pytest.approx(got["sensitivity_at_specificity_90"])
    curve = roc_curve(summed)
    assert curve is not None and np.trapezoid(curve.y, curve.x) == pytest.approx(got["auc"])


def test_calibration_is_that_of_a_logistic_fit_on_pooled_logits() -> None:
    rng = np.random.default_rng(5)
    z = rng.normal(0, 2, 4000)
    y = (rng.random(4000) < _sigmoid(0.6 * z - 0.4)).astype(np.int64)
    p = _sigmoid(z)
    summed = _summed(p, y, _split(4000, 5, rng))
    got = classification_metrics(summed)
    model = LogisticRegression(C=1e9).fit(z[:, None], y)
    assert got["calibration_slope"] == pytest.approx(model.coef_[0, 0], abs=0.002)
    assert got["calibration_intercept"] == pytest.approx(model.intercept_[0], abs=0.002)
    assert got["calibration_gap"] == pytest.approx(p.mean() - y.mean())
    curve = calibration_curve(summed)
    bins = np.minimum((p * 10).astype(int), 9)
    np.testing.assert_allclose(curve.x, [p[bins == b].mean() for b in range(10)])
    np.testing.assert_allclose(curve.y, [y[bins == b].mean() for b in range(10)])
    ece = sum(np.mean(bins == b) * abs(p[bins == b].mean() - y[bins == b].mean()) for b in range(10))
    assert got["ece"] == pytest.approx(ece)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), sites=st.integers(1, 10), tied=st.booleans())
def test_the_auc_within_sites_is_the_mean_of_the_sites_weighted_by_pairs(
    seed: int, sites: int, tied: bool
) -> None:
    rng = np.random.default_rng(seed)
    n = 150
    y = rng.integers(0, 2, n)
    p = DISTRIBUTIONS["heavy ties" if tied else "ordinary"](rng, y)
    parts = _split(n, sites, rng)
    judged = [rows for rows in parts if 0 < y[rows].sum() < rows.size]
    weights = [y[rows].sum() * (1 - y[rows]).sum() for rows in judged]
    expected = np.average([sk.roc_auc_score(y[rows], p[rows]) for rows in judged], weights=weights)
    assert classification_metrics(_summed(p, y, parts))["auc_within"] == pytest.approx(expected, abs=1e-12)


def test_more_than_two_classes_are_judged_one_against_the_rest() -> None:
    rng = np.random.default_rng(7)
    y = rng.integers(0, 4, 1500)
    scores = rng.normal(0, 1, (1500, 4)) + 1.5 * np.eye(4)[y]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    got = classification_metrics(_summed(p, y, _split(1500, 4, rng)))
    assert got["auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=0.005)
    assert got["auc_class_2"] == pytest.approx(sk.roc_auc_score(y == 2, p[:, 2]), abs=0.005)
    assert got["log_loss"] == pytest.approx(sk.log_loss(y, p))
    assert got["brier"] == pytest.approx(np.mean(((p - np.eye(4)[y]) ** 2).sum(axis=1)))
    assert got["accuracy"] == pytest.approx(np.mean(p.argmax(axis=1) == y))


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    truth = 0.8555778  # Φ(1.5/√2)
    hits = within = 0
    for _ in range(300):
        y = (np.arange(120) % 3 == 0).astype(np.int64)
        p = _sigmoid(rng.normal(1.5 * y, 1.0))
        got = classification_metrics(_summed(p, y, _split(120, 4, rng)))
        hits += got["auc_low"] <= truth <= got["auc_high"]
        within += got["auc_within_low"] <= truth <= got["auc_within_high"]
    assert 0.91 <= hits / 300 <= 0.99
    assert 0.90 <= within / 300 <= 0.99


def test_sites_of_one_class_one_patient_or_none_do_not_poison_the_sum() -> None:
    p = np.array([0.1, 0.4, 0.9, 0.7, 0.2])
    y = np.array([0, 0, 1, 1, -1])
    two = np.column_stack([1 - p, p])
    lonely = [classification_statistics(two[i : i + 1], y[i : i + 1]) for i in range(5)]
    empty = classification_statistics(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
    got = classification_metrics(total([empty, *lonely, empty]))
    assert got["auc"] == 1.0 and got["auc_high"] == 1.0 and 0 < got["auc_low"] < 1
    assert "auc_within" not in got
    assert "calibration_slope" not in got  # separated classes have no finite slope
    assert got["cases"] == 4
    assert all(np.isfinite(value) for value in got.values())
    assert classification_metrics(empty) == {"cases": 0.0}
    one_class = classification_metrics(total(lonely[:2]))
    assert not any(name.startswith("auc") for name in one_class)
    assert "sensitivity" not in one_class and one_class["specificity"] == 1.0
    assert roc_curve(lonely[0]) is None and threshold_at_specificity(lonely[0], 0.9) is None


def test_a_diverged_model_is_refused_with_the_row() -> None:
    with pytest.raises(UpdateError, match="class 1 in row 1 is nan"):
        classification_statistics(np.array([[0.5, 0.5], [0.5, np.nan]]), np.array([0, 1]))
    with pytest.raises(UpdateError, match="Label 2 of row 0"):
        classification_statistics(np.array([[0.5, 0.5]]), np.array([2]))
