"""Uncertainty without a bootstrap: intervals and tail probabilities from quantities that add up over sites."""

from __future__ import annotations

import math

import numpy as np

from fedstudy.measures.sums import Floats

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


def wilson(share: float, cases: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion seen in `cases` (> 0, need not be whole) trials.

    It stays inside 0..1 and does not collapse at 0 or 1 (Wilson, JASA 1927).
    """
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * cases)) / (1 + z2 / cases)
    half = Z95 / (1 + z2 / cases) * math.sqrt(share * (1 - share) / cases + z2 / (4 * cases * cases))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def pair_moments(wins: Floats, pairs: Floats, weights: Floats | None = None) -> Floats:
    """[3] sums Σw·c², Σw·c·m, Σw·m² over patients, c the pairs won (½ for a tie) and m the pairs that a patient is in.

    For any share A they give Σ(c - A·m)², the jackknife variance of a ratio of pair counts (DeLong's for the
    AUC, up to n/(n-1)), although A is only known once all sites have been added.
    """
    w = np.ones_like(wins) if weights is None else weights
    return np.array(
        [np.sum(w * wins * wins), np.sum(w * wins * pairs), np.sum(w * pairs * pairs)], dtype=np.float64
    )


def pair_interval(
    wins: float, pairs: float, moments: Floats, fewest: float, cases: float
) -> tuple[float, float]:
    """The 95 % interval of wins/pairs (> 0 pairs), an AUC or a C-index.

    The jackknife variance becomes an effective number of cases for Wilson's interval, at most 4 × `cases`. With
    no variance at all (a perfect or a constant score) it is `fewest`: the smaller group, or the number of
    events.
    """
    share = min(1.0, max(0.0, wins / pairs))
    spread = float(moments[0] - 2 * share * moments[1] + share * share * moments[2])
    variance = spread / (pairs * pairs)
    if share * (1 - share) <= 0 or variance <= 1e-12:
        return wilson(share, max(1.0, fewest))
    return wilson(share, min(max(1.0, share * (1 - share) / variance), max(1.0, 4 * cases)))


def chi2_tail(statistic: float, degrees: int) -> float:
    """P(χ² with `degrees` ≥ 1 degrees of freedom > statistic), by the recursion of the incomplete gamma function."""
    x = statistic / 2
    if x <= 0:
        return 1.0
    a, tail = (0.5, math.erfc(math.sqrt(x))) if degrees % 2 else (1.0, math.exp(-x))
    while a < degrees / 2:
        tail += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return min(1.0, tail)
