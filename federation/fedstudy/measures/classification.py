"""Evaluation of a classifier over all sites together, without pooling a score.

Binary tasks (C = 2) are evaluated for class 1; with C > 2 every class is held against the rest, and the plain
metric names are means over the classes that can be judged. G is the number of classes so judged: 1 or C.
Conventions: log-loss clips probabilities at 1e-7; Brier is (p1 - y)² for C = 2, Σ_c (p_c - [y=c])² for C > 2;
    the predicted class is the argmax (the lower class wins a tie); a metric that is undefined is absent,
    never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import UpdateError
from fedstudy.measures.grids import PROBABILITY_BINS, PROBABILITY_EDGES, probability_bin, probability_logits
from fedstudy.measures.intervals import pair_interval, pair_moments
from fedstudy.measures.newton import fit
from fedstudy.measures.regression import logistic_terms
from fedstudy.measures.sums import Floats, Ints, Statistics

CLIP = 1e-7
CALIBRATION_BINS = 10


def classification_statistics(probabilities: Floats, labels: Ints) -> Statistics:
    """A site's share of the evaluation.

    Args:
        probabilities: [n, C], C ≥ 2, rows of predicted class probabilities; n may be 0.
        labels: [n] classes 0..C-1; rows with -1 (missing) are left out.

    Returns:
        classification.cases [1]; confusion [C, C] (row truth, column prediction); loss.log [1]; loss.brier
        [1]; auc.positive [G, 4000], auc.negative [G, 4000] histograms on the probability grid;
        auc.within.wins [G] (Mann-Whitney U, ties ½), auc.within.pairs [G], auc.within.moments [G, 3];
        calibration.count [G, 10], calibration.predicted [G, 10], calibration.observed [G, 10] on equal bins
        of p.

    Raises:
        UpdateError: a probability is not finite or not in 0..1, or a label is no class.
    """
    p, y = _labelled(probabilities, labels)
    n_classes = p.shape[1]
    rows = np.arange(y.size)
    truth = np.zeros_like(p)
    truth[rows, y] = 1.0
    squares = (p - truth) ** 2
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(confusion, (y, np.argmax(p, axis=1)), 1)
    judged = [_one_against_rest(p[:, c], y == c) for c in judged_classes(n_classes)]
    return {
        "classification.cases": np.array([y.size], dtype=np.int64),
        "confusion": confusion,
        "loss.log": np.array([-np.sum(np.log(np.clip(p[rows, y], CLIP, 1.0)))], dtype=np.float64),
        "loss.brier": np.array([squares[:, 1].sum() if n_classes == 2 else squares.sum()], dtype=np.float64),
        **{name: np.stack([part[name] for part in judged]) for name in judged[0]},
    }


def judged_classes(n_classes: int) -> tuple[int, ...]:
    """The classes held against the rest: only class 1 of two, else all."""
    return (1,) if n_classes == 2 else tuple(range(n_classes))


def classification_metrics(total: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Metrics from summed (or one site's) `classification_statistics`; an undefined metric is absent.

    cases, log_loss, brier, accuracy, balanced_accuracy; for two classes sensitivity, specificity; and (for
    two classes, or as mean over judged classes, with `<name>_class_<c>` for each) auc, auc_low, auc_high,
    auc_resolution, auc_within, auc_within_low, auc_within_high, average_precision,
    sensitivity_at_specificity_90, calibration_slope, calibration_intercept, calibration_gap, ece.
    `*_low`/`*_high` bound a 95 % interval and exist per class only.
    """
    cases = int(total["classification.cases"][0])
    metrics: dict[str, float] = {"cases": float(cases)}
    if cases == 0:
        return metrics
    metrics["log_loss"] = float(total["loss.log"][0]) / cases
    metrics["brier"] = float(total["loss.brier"][0]) / cases
    metrics |= _confusion_metrics(total["confusion"])
    classes = judged_classes(total["confusion"].shape[0])
    each = [_class_metrics(total, g) for g in range(len(classes))]
    if len(each) == 1:
        return metrics | each[0]
    for c, judged in zip(classes, each, strict=True):
        metrics |= {f"{name}_class_{c}": value for name, value in judged.items()}
    return metrics | _macro(each)


@dataclass(frozen=True)
class Curve:
    """Points of a curve to draw: x and y, of equal length."""

    x: Floats
    y: Floats


def roc_curve(total: Mapping[str, NDArray[Any]], judged: int = 0) -> Curve | None:
    """False-positive rate against sensitivity, from the strictest threshold on; None with one class only."""
    positive, negative = total["auc.positive"][judged], total["auc.negative"][judged]
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    fpr, tpr = _rates(positive, negative)
    return Curve(np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr]))


def calibration_curve(total: Mapping[str, NDArray[Any]], judged: int = 0) -> Curve:
    """Mean predicted probability against observed share, for each filled calibration bin (at most 10)."""
    count = total["calibration.count"][judged]
    filled = count > 0
    return Curve(
        total["calibration.predicted"][judged][filled] / count[filled],
        total["calibration.observed"][judged][filled] / count[filled],
    )


def threshold_at_specificity(
    total: Mapping[str, NDArray[Any]], specificity: float, judged: int = 0
) -> float | None:
    """The lowest grid threshold t whose rule "positive when p ≥ t" keeps the specificity.

    None when there is only one class, or when even the highest grid threshold does not keep it.
    """
    positive, negative = total["auc.positive"][judged], total["auc.negative"][judged]
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    allowed = np.flatnonzero(_rates(positive, negative)[0] <= 1 - specificity + 1e-12)
    return float(PROBABILITY_EDGES[PROBABILITY_BINS - 1 - int(allowed[-1])]) if allowed.size else None


def _labelled(probabilities: Floats, labels: Ints) -> tuple[Floats, Ints]:
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(labels, dtype=np.int64)
    wrong = np.argwhere(~((p >= -1e-6) & (p <= 1 + 1e-6)))
    if wrong.size:
        row, column = (int(i) for i in wrong[0])
        raise UpdateError(
            f"The predicted probability of class {column} in row {row} is {p[row, column]}, not within 0 and 1.",
            "The model may have diverged: lower the learning rate.",
        )
    bad = np.flatnonzero((y < -1) | (y >= p.shape[1]))
    if bad.size:
        raise UpdateError(
            f"Label {int(y[bad[0]])} of row {int(bad[0])} is not a class 0..{p.shape[1] - 1} (-1 means missing).",
            "Check the dataset's label column against the plan's classes.",
        )
    return np.clip(p[y >= 0], 0.0, 1.0), y[y >= 0]


def _one_against_rest(score: Floats, is_class: NDArray[np.bool_]) -> Statistics:
    positive, negative = score[is_class], score[~is_class]
    won_p, won_n = _wins(positive, negative), positive.size - _wins(negative, positive)
    bins = np.minimum((score * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    moments = pair_moments(won_p, np.full(positive.size, float(negative.size)))
    moments += pair_moments(won_n, np.full(negative.size, float(positive.size)))
    return {
        "auc.positive": np.bincount(probability_bin(positive), minlength=PROBABILITY_BINS).astype(np.int64),
        "auc.negative": np.bincount(probability_bin(negative), minlength=PROBABILITY_BINS).astype(np.int64),
        "auc.within.wins": np.asarray(won_p.sum(), dtype=np.float64),
        "auc.within.pairs": np.asarray(positive.size * negative.size, dtype=np.int64),
        "auc.within.moments": moments,
        "calibration.count": np.bincount(bins, minlength=CALIBRATION_BINS).astype(np.int64),
        "calibration.predicted": np.bincount(bins, score, CALIBRATION_BINS).astype(np.float64),
        "calibration.observed": np.bincount(bins[is_class], minlength=CALIBRATION_BINS).astype(np.int64),
    }


def _wins(scores: Floats, rivals: Floats) -> Floats:
    """[len(scores)] rivals that each score beats, ties counting ½."""
    ordered = np.sort(rivals)
    below, up_to = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    return np.asarray((below + up_to) / 2.0, dtype=np.float64)


def _confusion_metrics(confusion: Ints) -> dict[str, float]:
    right, truths = np.diag(confusion), confusion.sum(axis=1)
    known = truths > 0
    recall = right[known] / truths[known]
    metrics = {"accuracy": float(right.sum() / truths.sum()), "balanced_accuracy": float(recall.mean())}
    if confusion.shape[0] == 2:
        if known[1]:
            metrics["sensitivity"] = float(right[1] / truths[1])
        if known[0]:
            metrics["specificity"] = float(right[0] / truths[0])
    return metrics


def _class_metrics(total: Mapping[str, NDArray[Any]], g: int) -> dict[str, float]:
    positive = total["auc.positive"][g].astype(np.float64)
    negative = total["auc.negative"][g].astype(np.float64)
    metrics = _calibration_metrics(total, g)
    if positive.sum() == 0 or negative.sum() == 0:
        return metrics
    smaller, cases = min(positive.sum(), negative.sum()), positive.sum() + negative.sum()
    won_p, won_n = np.cumsum(negative) - negative / 2, positive.sum() - np.cumsum(positive) + positive / 2
    wins, pairs = float(positive @ won_p), float(positive.sum() * negative.sum())
    moments = pair_moments(won_p, np.full(positive.size, negative.sum()), positive)
    moments += pair_moments(won_n, np.full(negative.size, positive.sum()), negative)
    metrics["auc"] = wins / pairs
    metrics["auc_low"], metrics["auc_high"] = pair_interval(wins, pairs, moments, smaller, cases)
    metrics["auc_resolution"] = float(positive @ negative) / (2 * pairs)
    metrics |= _threshold_metrics(positive, negative)
    if (inside := float(total["auc.within.pairs"][g])) > 0:
        wins = float(total["auc.within.wins"][g])
        metrics["auc_within"] = wins / inside
        low, high = pair_interval(wins, inside, total["auc.within.moments"][g], smaller, cases)
        metrics["auc_within_low"], metrics["auc_within_high"] = low, high
    return metrics


def _rates(positive: NDArray[Any], negative: NDArray[Any]) -> tuple[Floats, Floats]:
    """([B] false-positive rate, [B] sensitivity) when the upper 1, 2, … B bins are called positive."""
    fpr = np.cumsum(negative[::-1]) / negative.sum()
    tpr = np.cumsum(positive[::-1]) / positive.sum()
    return np.asarray(fpr, dtype=np.float64), np.asarray(tpr, dtype=np.float64)


def _threshold_metrics(positive: Floats, negative: Floats) -> dict[str, float]:
    fpr, tpr = _rates(positive, negative)
    hits, alarms = tpr * positive.sum(), fpr * negative.sum()
    precision = hits / np.maximum(hits + alarms, 1.0)
    allowed = tpr[fpr <= 0.1 + 1e-12]
    return {
        "average_precision": float(np.sum(np.diff(tpr, prepend=0.0) * precision)),
        "sensitivity_at_specificity_90": float(allowed[-1]) if allowed.size else 0.0,
    }


def _calibration_metrics(total: Mapping[str, NDArray[Any]], g: int) -> dict[str, float]:
    count = total["calibration.count"][g].astype(np.float64)
    gap = total["calibration.predicted"][g] - total["calibration.observed"][g]
    metrics = {
        "ece": float(np.abs(gap).sum() / count.sum()),
        "calibration_gap": float(gap.sum() / count.sum()),
    }
    line = _calibration_line(total["auc.positive"][g], total["auc.negative"][g])
    if line is not None:
        metrics["calibration_intercept"], metrics["calibration_slope"] = line
    return metrics


def _calibration_line(positive: Ints, negative: Ints) -> tuple[float, float] | None:
    """Intercept and slope of logit P(y) on logit(p) over the bins (Cox 1958); None where no finite fit exists."""
    rows = np.flatnonzero((positive + negative) > 0)
    filled_p, filled_n = np.flatnonzero(positive), np.flatnonzero(negative)
    if not filled_p.size or not filled_n.size or rows.size < 2:
        return None
    if filled_n[-1] <= filled_p[0] or filled_p[-1] <= filled_n[0]:
        return None  # the classes do not overlap: the slope would be infinite
    bound = np.log((1 - CLIP) / CLIP)
    logit = np.clip(probability_logits()[rows], -bound, bound)
    design = np.stack([np.ones(rows.size), logit], axis=1)

    def terms(beta: Floats) -> Statistics:
        one = logistic_terms(design, np.ones(rows.size), beta, positive[rows].astype(np.float64))
        zero = logistic_terms(design, np.zeros(rows.size), beta, negative[rows].astype(np.float64))
        return {name: one[name] + zero[name] for name in one}

    found = fit([terms], np.array([0.0, 1.0]))
    return (float(found.beta[0]), float(found.beta[1])) if found.converged else None


def _macro(each: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for judged in each for name in judged if not name.endswith(("_low", "_high"))})
    return {name: float(np.mean([judged[name] for judged in each if name in judged])) for name in names}
