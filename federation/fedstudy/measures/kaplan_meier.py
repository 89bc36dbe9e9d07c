"""Survival curves and their comparison from counts of deaths and censorings on a shared time grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.measures.grids import TIME_BINS, TIME_EDGES
from fedstudy.measures.intervals import Z95, chi2_tail
from fedstudy.measures.sums import Floats


@dataclass(frozen=True)
class SurvivalCurve:
    """A step function: at times[i] survival falls to survival[i]; before the first step it is 1.

    Attributes:
        times: [S] geometric centres of the time bins with a death or a censoring, in the unit of the time
            column.
        survival: [S] Kaplan-Meier estimate.
        low, high: [S] Greenwood's 95 % interval on the log(-log) scale.
        at_risk: [S] patients under observation just before.
        deaths: [S] deaths at the step.
    """

    times: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: NDArray[np.int64]
    deaths: NDArray[np.int64]


def kaplan_meier(deaths: NDArray[Any], censored: NDArray[Any]) -> SurvivalCurve:
    """The Kaplan-Meier curve of counts on the fine (512) or coarse (128) time grid; empty without patients.

    It is what the exact curve would be with each time moved to the centre of its bin.
    """
    at_risk = np.cumsum((deaths + censored)[::-1])[::-1]
    filled = np.flatnonzero(deaths + censored)
    d, n = deaths[filled].astype(np.float64), at_risk[filled].astype(np.float64)
    survival = np.asarray(np.cumprod(1 - d / n), dtype=np.float64)
    left = np.maximum(n - d, 1.0)
    greenwood = np.sqrt(np.cumsum(np.where(n > d, d / (n * left), 0.0)))
    inside = (survival > 0) & (survival < 1)
    log_s = np.log(np.where(inside, survival, 0.5))
    width = np.exp(Z95 * greenwood / -log_s)
    low = np.where(inside, np.exp(log_s * width), survival)
    high = np.where(inside, np.exp(log_s / width), survival)
    return SurvivalCurve(_centres(deaths.size)[filled], survival, low, high, at_risk[filled], deaths[filled])


def survival_on_grid(deaths: NDArray[Any], at_risk: NDArray[Any]) -> Floats:
    """[B+1] the product-limit estimate at the edges of a grid of B bins (1 at the first)."""
    left = 1 - deaths / np.maximum(at_risk, 1)
    return np.concatenate([[1.0], np.cumprod(left)])


def median_survival(curve: SurvivalCurve) -> float | None:
    """The first time at which survival is ½ or less; None if it never is."""
    below = np.flatnonzero(curve.survival <= 0.5 + 1e-12)
    return float(curve.times[below[0]]) if below.size else None


def log_rank(groups: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[float, float] | None:
    """(χ², p) of the log-rank test between groups of (deaths [B], censorings [B]); None where it is undefined.

    Undefined: fewer than two groups with patients, or no time with a death and two groups at risk.
    """
    kept = [(d, c) for d, c in groups if (d + c).sum() > 0]
    if len(kept) < 2:
        return None
    d = np.stack([pair[0] for pair in kept]).astype(np.float64)
    n = np.cumsum(np.stack([pair[0] + pair[1] for pair in kept])[:, ::-1], axis=1)[:, ::-1].astype(np.float64)
    deaths, risk = d.sum(axis=0), n.sum(axis=0)
    share = n / np.maximum(risk, 1.0)
    excess = (d - share * deaths).sum(axis=1)
    factor = deaths * (risk - deaths) / np.maximum(risk - 1, 1.0)
    covariance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    rank = int(np.linalg.matrix_rank(covariance, hermitian=True))
    if rank == 0:
        return None
    statistic = float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess)
    return statistic, chi2_tail(statistic, rank)


def _centres(bins: int) -> Floats:
    edges = TIME_EDGES[:: TIME_BINS // bins]
    return np.asarray(np.sqrt(edges[:-1] * edges[1:]), dtype=np.float64)
