"""The fixed grids on which sites count, so that histograms of different sites can be added.

A grid must be known from the task alone: it can depend on no patient. All edges are compared with
    `searchsorted`, so a value falls into the same bin wherever it is computed, and binning is monotone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedstudy.measures.sums import Floats, Ints

TIME_BINS = 512
"""Bins of the time grid; one bin spans 2.7 %."""

TIME_EDGES: Floats = np.geomspace(0.01, 10_000.0, TIME_BINS + 1)
"""[513] edges in the unit of the study's time column (months, days or years: all fit). Outliers go to the end bins."""

TIME_CENTRES: Floats = np.sqrt(TIME_EDGES[:-1] * TIME_EDGES[1:])
"""[512] geometric centres of the time bins, in the unit of the time column."""

COARSE = 4
"""Fine time bins per coarse time bin."""

COARSE_TIME_BINS = TIME_BINS // COARSE
"""Time bins of the two-dimensional histograms (128); one spans 11 %."""

PROBABILITY_BINS = 4000
"""Bins of a probability. 1000 would misplace the AUC of a hardly trained model (logits within ±0.1) by 0.005."""

RISK_BINS = 256
"""Bins of a risk score."""


def _probability_edges() -> Floats:
    u = np.arange(PROBABILITY_BINS + 1) / PROBABILITY_BINS
    return np.asarray(u**4 / (u**4 + (1 - u) ** 4), dtype=np.float64)


PROBABILITY_EDGES: Floats = _probability_edges()
"""[4001] edges, uniform in u = σ(logit(p)/4): 0.004 of a logit wide at p = ½, and still apart at p = 1 - 1e-14."""


def _risk_edges() -> Floats:
    return np.asarray(np.sinh(np.linspace(-1.0, 1.0, RISK_BINS + 1) * np.arcsinh(50.0)), dtype=np.float64)


RISK_EDGES: Floats = _risk_edges()
"""[257] edges, uniform in asinh(risk) over ±50: 0.036 wide at 0 and 0.036·|risk| far from it (log-hazards are
about ±3; minus the sum of J survival probabilities lies in -J..0). Outliers go to the end bins."""


def time_bin(times: ArrayLike) -> Ints:
    """The bin 0..511 of each time."""
    return _bin(TIME_EDGES, times)


def probability_bin(probabilities: ArrayLike) -> Ints:
    """The bin 0..3999 of each probability."""
    return _bin(PROBABILITY_EDGES, probabilities)


def probability_logits() -> Floats:
    """[4000] logit(p) at the middle (in u) of each probability bin."""
    u = (np.arange(PROBABILITY_BINS) + 0.5) / PROBABILITY_BINS
    return np.asarray(4 * (np.log(u) - np.log1p(-u)), dtype=np.float64)


def risk_bin(risk: ArrayLike) -> Ints:
    """The bin 0..255 of each risk score."""
    return _bin(RISK_EDGES, risk)


def _bin(edges: Floats, values: ArrayLike) -> Ints:
    found = np.searchsorted(edges, np.asarray(values, dtype=np.float64), side="right") - 1
    return np.clip(found, 0, edges.size - 2).astype(np.int64)
