"""Evaluation of a survival model over all sites together, without pooling a time or a score.

Harrell's C-index is exact for pairs within a site; all pairs, across sites too, come from two-dimensional
histograms (risk × time) of deaths and of censorings. Kaplan-Meier, log-rank, and the censoring weights of the
Brier score come from one-dimensional ones. Conventions: a higher risk score means an earlier event; a death
at a time precedes a censoring at it; times carry the unit of the study's time column; a metric that is
undefined is absent, never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import UpdateError
from fedstudy.measures.cohort import followed_up
from fedstudy.measures.grids import (
    COARSE,
    COARSE_TIME_BINS,
    RISK_BINS,
    TIME_BINS,
    TIME_EDGES,
    risk_bin,
    time_bin,
)
from fedstudy.measures.hazards import evaluation_times, hazard_nll, survival_at
from fedstudy.measures.intervals import pair_interval, pair_moments
from fedstudy.measures.kaplan_meier import kaplan_meier, log_rank, median_survival, survival_on_grid
from fedstudy.measures.sums import Floats, Statistics

HORIZONS = (12.0, 24.0, 36.0)
"""Default times at which survival probabilities are judged: 1, 2 and 3 years for a time column in months."""

_CHUNK = 256


def survival_statistics(
    risk: Floats,
    times: Floats,
    events: NDArray[Any],
    *,
    hazards: Floats | None = None,
    cuts: Floats | None = None,
    horizons: tuple[float, ...] = HORIZONS,
) -> Statistics:
    """A site's share of the evaluation.

    Args:
        risk: [n] risk scores; n may be 0.
        times: [n] time to event or censoring, NaN where missing (such rows are left out).
        events: [n] 1 event, 0 censored, anything else missing.
        hazards, cuts: [n, J] predicted hazards and [J-1] cut points of a discrete-time model; both or
            neither.
        horizons: times at which survival is judged, besides the cuts; those beyond the last cut are dropped.

    Returns:
        survival.cases [1]; survival.deaths [512], survival.censored [512] on the time grid;
        survival.risk.deaths [256, 128], survival.risk.censored [256, 128] on risk grid × coarse time grid;
        survival.spread [2, 2, 128] (for deaths and for everyone: sums of their place in the coarse bin and of its square);
        survival.within.wins [1] (ties ½), survival.within.tied [1], survival.within.pairs [1],
        survival.within.moments [3];
        and with hazards, for E evaluation times: survival.nll [1], survival.predicted [E] (ΣS),
            survival.brier.dead [E, 512] (Σ S(t)² of those dead by t, by time of death), survival.brier.alive
            [E] (Σ(1-S(t))²).

    Raises:
        DataError: a time is negative or infinite.
        UpdateError: a risk score or hazard is not finite, or only one of hazards and cuts is given.
    """
    usable, t, died = followed_up(times, events)
    score = np.asarray(risk, dtype=np.float64)
    _refuse_not_finite(score, "risk score")
    r, t, died = score[usable], t[usable], died[usable]
    result = {"survival.cases": np.array([r.size], dtype=np.int64)}
    result |= _histograms(r, t, died) | _within_pairs(r, t, died)
    if hazards is None and cuts is None:
        return result
    if hazards is None or cuts is None:
        raise UpdateError("Hazards and cut points must be given together.", "Give both, or neither.")
    _refuse_not_finite(np.asarray(hazards), "hazard")
    return result | _probability_sums(hazards[usable], t, died, cuts, horizons)


def survival_metrics(
    total: Mapping[str, NDArray[Any]], *, cuts: Floats | None = None, horizons: tuple[float, ...] = HORIZONS
) -> dict[str, float]:
    """Metrics from summed (or one site's) `survival_statistics` made with the same cuts and horizons.

    cases, events, c_index, c_index_low, c_index_high, c_index_resolution, c_index_within, c_index_within_low,
    c_index_within_high, median_survival, log_rank_chi2, log_rank_p (halves by predicted risk); and with
    hazards log_likelihood_loss (per case), brier_<h>, survival_gap_<h> (mean predicted minus Kaplan-Meier)
    and ibs (over the cuts).
    """
    cases, deaths = int(total["survival.cases"][0]), int(total["survival.deaths"].sum())
    metrics = {"cases": float(cases), "events": float(deaths)}
    if cases == 0:
        return metrics
    metrics |= _all_pairs(total) | _within(total, deaths, cases)
    curve = kaplan_meier(total["survival.deaths"], total["survival.censored"])
    if (median := median_survival(curve)) is not None:
        metrics["median_survival"] = median
    if (test := log_rank(risk_groups(total))) is not None:
        metrics["log_rank_chi2"], metrics["log_rank_p"] = test
    if cuts is not None and "survival.nll" in total:
        metrics |= _probability_metrics(total, cuts, horizons, cases)
    return metrics


def risk_groups(
    total: Mapping[str, NDArray[Any]], groups: int = 2
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Deaths [128] and censorings [128] on the coarse time grid for each group of equal size by risk, lowest first.

    Feed each to `kaplan_meier`, or all to `log_rank`. A risk bin is never divided, so groups may differ in
    size.
    """
    deaths, censored = total["survival.risk.deaths"], total["survival.risk.censored"]
    sizes = (deaths + censored).sum(axis=1)
    middle = np.cumsum(sizes) - sizes / 2
    group = np.minimum((middle * groups / max(1, int(sizes.sum()))).astype(np.int64), groups - 1)
    return [(deaths[group == g].sum(axis=0), censored[group == g].sum(axis=0)) for g in range(groups)]


def _histograms(r: Floats, t: Floats, died: NDArray[np.bool_]) -> Statistics:
    fine = time_bin(t)
    cell = risk_bin(r) * COARSE_TIME_BINS + fine // COARSE
    cells, shape = RISK_BINS * COARSE_TIME_BINS, (RISK_BINS, COARSE_TIME_BINS)
    coarse = fine // COARSE
    start, step = np.log(TIME_EDGES[0]), np.log(TIME_EDGES[COARSE] / TIME_EDGES[0])
    place = np.clip((np.log(np.maximum(t, TIME_EDGES[0])) - start) / step - coarse, 0.0, 1.0)
    spread = [
        [np.bincount(coarse[who], place[who] ** power, COARSE_TIME_BINS) for power in (1, 2)]
        for who in (died, np.ones_like(died))
    ]
    return {
        "survival.deaths": np.bincount(fine[died], minlength=TIME_BINS).astype(np.int64),
        "survival.censored": np.bincount(fine[~died], minlength=TIME_BINS).astype(np.int64),
        "survival.risk.deaths": np.bincount(cell[died], minlength=cells).astype(np.int64).reshape(shape),
        "survival.risk.censored": np.bincount(cell[~died], minlength=cells).astype(np.int64).reshape(shape),
        "survival.spread": np.asarray(spread, dtype=np.float64),
    }


def _within_pairs(r: Floats, t: Floats, died: NDArray[np.bool_]) -> Statistics:
    """Harrell's pairs: i died, and j outlived it (a censoring at the very time of a death counts as outliving)."""
    wins, pairs = np.zeros(r.size), np.zeros(r.size)
    tied = 0
    deaths = np.flatnonzero(died)
    for first in range(0, deaths.size, _CHUNK):  # a chunk at a time: memory is 256·n, not n²
        i = deaths[first : first + _CHUNK]
        outlived = (t[None, :] > t[i, None]) | ((t[None, :] == t[i, None]) & ~died[None, :])
        equal = outlived & (r[i, None] == r[None, :])
        won = (outlived & (r[i, None] > r[None, :])) + 0.5 * equal
        wins[i] += won.sum(axis=1)
        pairs[i] += outlived.sum(axis=1)
        wins += won.sum(axis=0)
        pairs += outlived.sum(axis=0)
        tied += int(np.count_nonzero(equal))
    return {  # each pair was given to both of its patients
        "survival.within.wins": np.array([wins.sum() / 2], dtype=np.float64),
        "survival.within.tied": np.array([tied], dtype=np.int64),
        "survival.within.pairs": np.array([round(pairs.sum() / 2)], dtype=np.int64),
        "survival.within.moments": pair_moments(wins, pairs),
    }


def _probability_sums(
    hazards: Floats, t: Floats, died: NDArray[np.bool_], cuts: Floats, horizons: tuple[float, ...]
) -> Statistics:
    at, _ = evaluation_times(cuts, horizons)
    alive_probability = survival_at(hazards, cuts, at)
    dead = np.zeros((at.size, TIME_BINS))
    alive = np.zeros(at.size)
    for e, horizon in enumerate(at):
        s = alive_probability[:, e]
        gone = died & (t <= horizon)
        dead[e] = np.bincount(time_bin(t[gone]), s[gone] ** 2, TIME_BINS)
        alive[e] = np.sum((1 - s[t > horizon]) ** 2)
    return {
        "survival.nll": np.array([hazard_nll(hazards, t, died, cuts)], dtype=np.float64),
        "survival.predicted": np.asarray(alive_probability.sum(axis=0), dtype=np.float64),
        "survival.brier.dead": dead,
        "survival.brier.alive": alive,
    }


def _all_pairs(total: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The C-index over all pairs, from the risk × time histograms.

    Within one coarse time bin the order of two patients is unknown. Let w be the chance that two times of the
    bin differ, taken as 12 × the variance of the patients' places in it: 1 for evenly spread times, 0 for one.
    Two deaths count as half won (the C-index of ever closer times tends to ½) with weight w, since Harrell leaves
    out two deaths at one time. A death and a censoring are comparable with weight 1 - w/2: always at one time, and
    in every second pair at different times.

    Measured: at most 0.0041 from the pooled value in 600 random cohorts of 80 to 700 patients (times exact, in days,
    whole months or whole years), mean difference below 0.0005; a search for bad cases found 0.0051 at 150 patients
    whose risks have a standard deviation of 0.2, where bins are coarse.
    """
    dead = total["survival.risk.deaths"].astype(np.float64)
    lost = total["survival.risk.censored"].astype(np.float64)
    spread = total["survival.spread"]
    distinct = _distinct_shares(dead.sum(axis=0), spread[0])
    half = 1 - _distinct_shares((dead + lost).sum(axis=0), spread[1]) / 2
    later = _after(dead + lost) + lost * half  # [risk, time] patients who outlive a death in that time bin
    earlier = _before(dead)  # [risk, time] deaths that a patient of that time bin outlives
    same = np.maximum(dead.sum(axis=0) - 1, 0.0) * distinct  # [time] other deaths of the bin
    won_dead = _below(later) + same / 2 + _above(earlier)
    in_dead = later.sum(axis=0) + same + earlier.sum(axis=0)
    won_lost = _above(earlier + dead * half)
    in_lost = (earlier + dead * half).sum(axis=0)
    pairs = float(np.sum(dead * in_dead) + np.sum(lost * in_lost)) / 2
    if pairs <= 0:
        return {}
    wins = float(np.sum(dead * won_dead) + np.sum(lost * won_lost)) / 2
    moments = pair_moments(won_dead, np.broadcast_to(in_dead, dead.shape), dead)
    moments += pair_moments(won_lost, np.broadcast_to(in_lost, lost.shape), lost)
    low, high = pair_interval(wins, pairs, moments, float(dead.sum()), float(dead.sum() + lost.sum()))
    unsure = float(np.sum(dead * later) + dead.sum(axis=0) @ same / 2) / (2 * pairs)
    return {"c_index": wins / pairs, "c_index_low": low, "c_index_high": high, "c_index_resolution": unsure}


def _distinct_shares(patients: Floats, spread: Floats) -> Floats:
    """[time] w of each bin, from its number of patients [time] and the sums of their places and squares [2, time]."""
    n = np.maximum(patients, 2.0)
    variance = (spread[1] - spread[0] ** 2 / n) / (n - 1)
    return np.where(patients >= 2, np.clip(12 * variance, 0.0, 1.0), 0.0)


def _after(cells: Floats) -> Floats:
    return np.asarray(np.cumsum(cells[:, ::-1], axis=1)[:, ::-1] - cells, dtype=np.float64)


def _before(cells: Floats) -> Floats:
    return np.asarray(np.cumsum(cells, axis=1) - cells, dtype=np.float64)


def _below(cells: Floats) -> Floats:
    """Patients of `cells` with lower risk (ties ½), for each risk and time."""
    return np.asarray(np.cumsum(cells, axis=0) - cells / 2, dtype=np.float64)


def _above(cells: Floats) -> Floats:
    return np.asarray(cells.sum(axis=0) - np.cumsum(cells, axis=0) + cells / 2, dtype=np.float64)


def _within(total: Mapping[str, NDArray[Any]], deaths: int, cases: int) -> dict[str, float]:
    pairs, wins = float(total["survival.within.pairs"][0]), float(total["survival.within.wins"][0])
    if pairs <= 0:
        return {}
    low, high = pair_interval(wins, pairs, total["survival.within.moments"], deaths, cases)
    return {"c_index_within": wins / pairs, "c_index_within_low": low, "c_index_within_high": high}


def _probability_metrics(
    total: Mapping[str, NDArray[Any]], cuts: Floats, horizons: tuple[float, ...], cases: int
) -> dict[str, float]:
    """The Brier score with inverse-probability-of-censoring weights (Graf et al., Stat Med 1999) and its integral."""
    at, kept = evaluation_times(cuts, horizons)
    deaths, censored = total["survival.deaths"], total["survival.censored"]
    at_risk = np.cumsum((deaths + censored)[::-1])[::-1]
    uncensored = survival_on_grid(
        censored, np.maximum(at_risk - deaths, 0)
    )  # G: deaths leave before censorings
    weights = 1 / np.maximum(uncensored[:-1], 1 / cases)  # G just before each bin
    reached = np.maximum(_on_log_line(uncensored, at), 1 / cases)
    brier = (total["survival.brier.dead"] @ weights + total["survival.brier.alive"] / reached) / cases
    observed = _on_log_line(survival_on_grid(deaths, at_risk), at)
    metrics = {"log_likelihood_loss": float(total["survival.nll"][0]) / cases}
    for e, horizon in enumerate(kept):
        metrics[f"brier_{horizon:g}"] = float(brier[e])
        metrics[f"survival_gap_{horizon:g}"] = float(total["survival.predicted"][e] / cases - observed[e])
    if cuts.size >= 2:
        scores = brier[len(kept) :]
        areas = (scores[1:] + scores[:-1]) / 2 * np.diff(cuts)
        metrics["ibs"] = float(areas.sum() / (cuts[-1] - cuts[0]))
    return metrics


def _on_log_line(steps: Floats, at: Floats) -> Floats:
    """A curve known at the 513 edges, at times between them (linear in the logarithm of time)."""
    return np.asarray(np.interp(np.log(at), np.log(TIME_EDGES), steps), dtype=np.float64)


def _refuse_not_finite(values: Floats, what: str) -> None:
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        raise UpdateError(
            f"The predicted {what} of row {int(wrong[0][0])} is not finite.",
            "The model may have diverged: lower the learning rate.",
        )
