"""A site's terms of logistic regression, for Newton's method over sites (see `newton`)."""

from __future__ import annotations

import numpy as np

from fedstudy.measures.sums import Floats, Statistics


def logistic_terms(design: Floats, y: Floats, beta: Floats, weights: Floats | None = None) -> Statistics:
    """Log-likelihood, gradient and information of P(y=1) = σ(Xβ) at β.

    Args:
        design: [n, P], with a column of ones if an intercept is wanted; n may be 0.
        y: [n] 0 or 1.
        beta: [P].
        weights: [n] case weights; all 1 when None.

    Returns:
        newton.loglik, newton.gradient, newton.information, newton.events (cases with y = 1).
    """
    w = np.ones(design.shape[0]) if weights is None else weights
    eta = design @ beta
    decay = np.exp(-np.abs(eta))
    p = np.where(eta >= 0, 1 / (1 + decay), decay / (1 + decay))
    loglik = np.sum(w * (y * eta - np.maximum(eta, 0) - np.log1p(decay)))
    return {
        "newton.loglik": np.array([loglik], dtype=np.float64),
        "newton.gradient": np.asarray(design.T @ (w * (y - p)), dtype=np.float64),
        "newton.information": np.asarray((design.T * (w * p * (1 - p))) @ design, dtype=np.float64),
        "newton.events": np.array([np.count_nonzero(y == 1)], dtype=np.int64),
    }
