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

_CHUNK = 256


def cox_terms(covariates: Floats, times: Floats, events: NDArray[Any], beta: Floats) -> Statistics:
    """Partial log-likelihood with Efron's ties, its gradient and its information at β.

    For d deaths at one time with risk set R and death set D, and θ = exp(xβ), the l-th of them (l = 0..d-1) has
    the denominator S0 = Σ_R θ - (l/d) Σ_D θ (Efron, JASA 1977): everyone in R weighs 1, but those in D 1 - l/d.
    Each denominator is scaled by its own largest term, so that no xβ overflows or vanishes.

    Args:
        covariates: [n, P] without missing values; n may be 0.
        times: [n], NaN where missing (such rows are left out).
        events: [n] 1 event, 0 censored, anything else missing.
        beta: [P].

    Returns:
        newton.loglik [1], newton.gradient [P], newton.information [P, P], newton.events [1]; zeros without an event.

    Raises:
        DataError: a time is negative or infinite.
    """
    usable, t, died = followed_up(times, events)
    first = np.min(t[usable & died], initial=np.inf)
    kept = usable & (t >= first)  # who left before the first death is in no risk set
    return _terms_at(covariates[kept], t[kept], died[kept], beta)


def _terms_at(x: Floats, t: Floats, died: NDArray[np.bool_], beta: Floats) -> Statistics:
    loglik, gradient, information = 0.0, np.zeros(beta.size), np.zeros((beta.size, beta.size))
    deaths = np.flatnonzero(died)
    deaths = deaths[np.argsort(t[deaths], kind="stable")]
    if deaths.size:
        x = x - x[0]  # changes nothing but rounding: a covariate that is constant here becomes exactly 0
        eta = x @ beta
        share = _places(t[deaths])
        visits = np.zeros(t.size)
        for start in range(0, deaths.size, _CHUNK):  # a chunk at a time: memory is 256·n, not n²
            part = slice(start, start + _CHUNK)
            p, log_s0 = _risk_sets(eta, t, died, t[deaths[part]], share[part])
            mean = p @ x
            loglik += float(np.sum(eta[deaths[part]] - log_s0))
            gradient += np.sum(x[deaths[part]] - mean, axis=0)
            information -= mean.T @ mean
            visits += p.sum(axis=0)
        information += (x.T * visits) @ x
    return {
        "newton.loglik": np.array([loglik], dtype=np.float64),
        "newton.gradient": gradient,
        "newton.information": (information + information.T) / 2,
        "newton.events": np.array([deaths.size], dtype=np.int64),
    }


def _places(times: Floats) -> Floats:
    """[D] l/d of each death, for rising times of death."""
    _, first, tie, size = np.unique(times, return_index=True, return_inverse=True, return_counts=True)
    return np.asarray((np.arange(times.size) - first[tie]) / size[tie], dtype=np.float64)


def _risk_sets(
    eta: Floats, t: Floats, died: NDArray[np.bool_], at: Floats, share: Floats
) -> tuple[Floats, Floats]:
    """([D, n] each patient's share of the denominator, [D] log S0) for deaths at times `at` with l/d = `share`."""
    dying = died[None, :] & (t[None, :] == at[:, None])
    weight = (t[None, :] >= at[:, None]) - share[:, None] * dying
    shown = np.where(weight > 0, eta[None, :], -np.inf)
    top = shown.max(axis=1)
    terms = weight * np.exp(shown - top[:, None])
    s0 = terms.sum(axis=1)
    return np.asarray(terms / s0[:, None], dtype=np.float64), np.asarray(np.log(s0) + top, dtype=np.float64)
