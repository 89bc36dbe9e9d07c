"""Newton's method over sites: each sends gradient and information at the shared β, the hub adds and solves.

For a log-likelihood that is a sum over sites this is the pooled maximum-likelihood fit, exactly, in 4 to 8
exchanges. The statistics are newton.loglik [1], newton.gradient [P], newton.information [P, P] (float64) and
newton.events [1] (int64).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.measures.sums import Floats, Statistics, total


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        beta: [P] coefficients.
        covariance: [P, P] inverse of the (penalised) information at β; standard errors are the roots of its
            diagonal.
        loglik: the log-likelihood at β, without the penalty.
        iterations: exchanges used.
        converged: whether the last step was below the tolerance.
    """

    beta: Floats
    covariance: Floats
    loglik: float
    iterations: int
    converged: bool


def newton_step(summed: Mapping[str, NDArray[Any]], beta: Floats, ridge: float = 0.0) -> Floats:
    """[P] the next β: β + (I + ridge·1)⁻¹ (U - ridge·β), for statistics summed over sites at β.

    A direction without information (a covariate that is constant in every stratum) is left where it is.
    """
    gradient = summed["newton.gradient"] - ridge * beta
    return np.asarray(beta + _inverse(summed["newton.information"], ridge) @ gradient, dtype=np.float64)


def fit(
    sites: Sequence[Callable[[Floats], Statistics]],
    start: Floats,
    *,
    ridge: float = 0.0,
    tolerance: float = 1e-9,
    iterations: int = 50,
) -> Fit:
    """Newton's method to the maximum of the summed log-likelihood minus ridge/2·|β|², halving a step that overshoots.

    Args:
        sites: one function per site from β [P] to its statistics at β.
        start: [P] the first β.
        ridge: the L2 penalty, ≥ 0.
        tolerance: the largest change of a coefficient at which to stop.
        iterations: the most exchanges; beyond them `converged` is False.
    """
    beta = np.asarray(start, dtype=np.float64)
    here = total(site(beta) for site in sites)
    converged, used = False, 1
    while not converged and used < iterations:
        ahead = newton_step(here, beta, ridge)
        there = total(site(ahead) for site in sites)
        used += 1
        while not _no_worse(there, ahead, here, beta, ridge) and used < iterations:
            ahead = (ahead + beta) / 2
            there = total(site(ahead) for site in sites)
            used += 1
        converged = bool(np.max(np.abs(ahead - beta), initial=0.0) <= tolerance)
        beta, here = ahead, there
    covariance = _inverse(here["newton.information"], ridge)
    return Fit(beta, covariance, float(here["newton.loglik"][0]), used, converged)


def _inverse(information: NDArray[Any], ridge: float) -> Floats:
    """The pseudo-inverse, scaled by the diagonal first so that a covariate's unit does not decide its rank."""
    penalised = information + ridge * np.eye(information.shape[0])
    diagonal = np.sqrt(np.clip(np.diag(penalised), 0.0, None))
    unit = np.where(diagonal > 0, 1 / np.where(diagonal > 0, diagonal, 1.0), 0.0)
    scaled = penalised * unit[:, None] * unit[None, :]
    inverse = np.linalg.pinv(scaled, rcond=1e-12, hermitian=True)
    return np.asarray(inverse * unit[:, None] * unit[None, :], dtype=np.float64)


def _no_worse(there: Statistics, ahead: Floats, here: Statistics, beta: Floats, ridge: float) -> bool:
    value = float(there["newton.loglik"][0]) - ridge / 2 * float(ahead @ ahead)
    before = float(here["newton.loglik"][0]) - ridge / 2 * float(beta @ beta)
    return value >= before - 1e-9 * (1 + abs(before))
