"""The discrete-time logistic hazard model: intervals, likelihood, and survival from predicted hazards.

J intervals (0, c_1], (c_1, c_2], … (c_{J-1}, ∞) share their J-1 cut points over all sites
(`event_time_cuts`); the model predicts h_j, the probability of an event in interval j given survival to its
start (Gensheimer & Narasimhan, PeerJ 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.measures.sums import Floats, Ints

_CLIP = 1e-7


def interval_of(times: Floats, cuts: Floats) -> Ints:
    """[n] the interval 0..J-1 of each time; a time equal to a cut belongs to the interval that ends there."""
    return np.searchsorted(cuts, times, side="left").astype(np.int64)


def hazard_nll(hazards: Floats, times: Floats, events: NDArray[Any], cuts: Floats) -> float:
    """The summed negative log-likelihood -Σ_i[Σ_{j<κ} log(1-h_ij) + δ log h_iκ + (1-δ) log(1-h_iκ)].

    Args:
        hazards: [n, J] within 0..1 (clipped at 1e-7).
        times: [n], none missing.
        events: [n] true or 1 for an event.
        cuts: [J-1].
    """
    h = np.clip(hazards, _CLIP, 1 - _CLIP)
    kappa = interval_of(times, cuts)[:, None]
    interval = np.arange(h.shape[1])[None, :]
    died = (np.asarray(events) == 1)[:, None] & (interval == kappa)
    return -float(np.sum(np.where(died, np.log(h), np.where(interval <= kappa, np.log1p(-h), 0.0))))


def survival_at(hazards: Floats, cuts: Floats, at: Floats) -> Floats:
    """[n, E] S(t) at times `at` (0 < t ≤ the last cut), the hazard being constant in time within an interval.

    The last interval has no end, so nothing can be said beyond the last cut.
    """
    log_survival = np.cumsum(np.log1p(-np.clip(hazards[:, : cuts.size], _CLIP, 1 - _CLIP)), axis=1)
    ends = np.concatenate([[0.0], cuts])
    known = np.concatenate([np.zeros((hazards.shape[0], 1)), log_survival], axis=1)
    upper = np.clip(np.searchsorted(ends, at, side="left"), 1, cuts.size)
    part = (at - ends[upper - 1]) / (ends[upper] - ends[upper - 1])
    return np.asarray(np.exp(known[:, upper - 1] * (1 - part) + known[:, upper] * part), dtype=np.float64)


def evaluation_times(cuts: Floats, horizons: tuple[float, ...]) -> tuple[Floats, tuple[float, ...]]:
    """([E] the times at which survival is judged, the horizons among them): horizons up to the last cut, then all cuts.

    It follows from the task alone, so that every site judges the same times.
    """
    kept = tuple(h for h in horizons if cuts.size and 0 < h <= cuts[-1])
    return np.concatenate([np.asarray(kept, dtype=np.float64), cuts]), kept
