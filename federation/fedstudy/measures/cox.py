"""A site's terms of the stratified Cox model, for Newton's method over sites (see `newton`).

Every site is a stratum with its own baseline hazard; risk sets never cross a site, so the partial likelihood,
its gradient and its information are sums over sites and the federated fit equals the pooled stratified fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.measures.cohort import followed_up
from fedstudy.measures.sums import Floats, Statistics


def cox_terms(covariates: Floats, times: Floats, events: NDArray[Any], beta: Floats) -> Statistics:
    """Partial log-likelihood with Efron's ties, its gradient and its information at β.

    For d deaths at one time with risk set R and death set D, and θ = exp(xβ), the l-th of them (l = 0..d-1)
    has the denominator S0 = Σ_R θ - (l/d) Σ_D θ (Efron, JASA 1977). Writing v_i for the sum, over all
    denominators that patient i is in, of its weight / S0, the information is Σ_i v_i θ_i x_i x_iᵀ - Σ_l
    (S1/S0)(S1/S0)ᵀ: no n·P·P array.

    Args:
        covariates: [n, P] without missing values; n may be 0. Standardise first: |xβ| should stay below some
            hundreds.
        times: [n], NaN where missing (such rows are left out).
        events: [n] 1 event, 0 censored, anything else missing.
        beta: [P].

    Returns:
        newton.loglik [1], newton.gradient [P], newton.information [P, P], newton.events [1]; zeros without an
        event.

    Raises:
        DataError: a time is negative or infinite.
    """
    usable, t, died = followed_up(times, events)
    order = np.flatnonzero(usable)
    order = order[np.argsort(-t[order], kind="stable")]
    return _sorted_terms(covariates[order], t[order], died[order], beta)


def _sorted_terms(x: Floats, t: Floats, died: NDArray[np.bool_], beta: Floats) -> Statistics:
    """`cox_terms` for rows in order of falling time, none missing."""
    deaths = np.flatnonzero(died)
    if deaths.size == 0:
        return _terms(0.0, np.zeros(beta.size), np.zeros((beta.size, beta.size)), 0)
    eta = x @ beta
    shift = float(eta.max())
    theta = np.exp(eta - shift)
    moment = theta[:, None] * x

    # One "tie" per distinct time of death; deaths of a tie are neighbours, since the rows are sorted by time.
    _, first, tie, size = np.unique(-t[deaths], return_index=True, return_inverse=True, return_counts=True)
    last = (
        np.searchsorted(-t, -t[deaths[first]], side="right") - 1
    )  # the last row still at risk, for each tie
    share = (np.arange(deaths.size) - first[tie]) / size[tie]  # l/d

    s0 = np.cumsum(theta)[last][tie] - share * np.add.reduceat(theta[deaths], first)[tie]
    s0 = np.maximum(s0, np.finfo(np.float64).tiny)
    s1 = (
        np.cumsum(moment, axis=0)[last][tie]
        - share[:, None] * np.add.reduceat(moment[deaths], first, axis=0)[tie]
    )
    mean = s1 / s0[:, None]

    loglik = float(eta[deaths].sum() - np.sum(np.log(s0) + shift))
    gradient = x[deaths].sum(axis=0) - mean.sum(axis=0)
    information = (x.T * (theta * _visits(1 / s0, share, tie, last, deaths, t.size))) @ x - mean.T @ mean
    return _terms(loglik, gradient, information, int(deaths.size))


def _visits(
    inverse: Floats, share: Floats, tie: NDArray[Any], last: NDArray[Any], deaths: NDArray[Any], n: int
) -> Floats:
    """[n] v_i: the sum of weight/S0 over the denominators that row i is in; a dying row weighs 1 - l/d in its own tie."""
    starts = np.zeros(n)
    np.add.at(starts, last, np.bincount(tie, inverse))
    visits = np.cumsum(starts[::-1])[
        ::-1
    ].copy()  # a row is at risk for every tie whose `last` is not before it
    visits[deaths] -= np.bincount(tie, inverse * share)[tie]
    return visits


def _terms(loglik: float, gradient: Floats, information: Floats, events: int) -> Statistics:
    return {
        "newton.loglik": np.array([loglik], dtype=np.float64),
        "newton.gradient": np.asarray(gradient, dtype=np.float64),
        "newton.information": np.asarray((information + information.T) / 2, dtype=np.float64),
        "newton.events": np.array([events], dtype=np.int64),
    }
