"""What each site counts for in the average (McMahan et al. 2017, the p_k), with a cap on a single site's share."""

from __future__ import annotations

from collections.abc import Sequence

from fedstudy.aggregator.algorithms.base import Share
from fedstudy.plan import Weights


def site_weights(shares: Sequence[Share], by: Weights, max_weight: float) -> list[float]:
    """[K] weights that add up to 1, in the order of the shares.

    Where all weights would be 0 (no site has an event), samples count instead, and then every site the same.

    Args:
        shares: what each site contributed.
        by: samples, events, or the same for all.
        max_weight: largest weight of one site; below 1/K every site gets 1/K.
    """
    raw = [float(_amount(share, by)) for share in shares]
    if sum(raw) == 0:
        raw = [float(share.samples) for share in shares]
    if sum(raw) == 0:
        raw = [1.0] * len(shares)
    total = sum(raw)
    return capped([value / total for value in raw], max_weight)


def capped(weights: Sequence[float], max_weight: float) -> list[float]:
    """Weights no greater than the cap, the excess given to the others in proportion; they still add up to 1.

    Sites with weight 0 keep 0 unless all others are at the cap; then they share what is left evenly.
    """
    cap = max(max_weight, 1.0 / len(weights)) if weights else 1.0
    fixed: set[int] = set()
    while True:
        free = [i for i in range(len(weights)) if i not in fixed]
        rest = 1.0 - cap * len(fixed)
        mass = sum(weights[i] for i in free)
        share = {i: rest * weights[i] / mass if mass > 0 else rest / len(free) for i in free}
        over = {i for i in free if share[i] > cap * (1 + 1e-12)}
        if not over:
            return [cap if i in fixed else share[i] for i in range(len(weights))]
        fixed |= over


def _amount(share: Share, by: Weights) -> int:
    match by:
        case Weights.SAMPLES:
            return share.samples
        case Weights.EVENTS:
            return share.events
        case Weights.UNIFORM:
            return 1
