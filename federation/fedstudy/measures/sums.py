"""The fold over sites: elementwise addition of named arrays, and nothing else.

Every quantity of this room is written so that the hub needs only the *sum* of what the sites send. Addition
is what secure aggregation can mask, so an exact statistic stays exact when no one may see a single site's
share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import UpdateError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistics = dict[str, NDArray[Any]]
"""Names to float64 or int64 arrays of at least one dimension; names and shapes follow from the task alone."""

_ALLOWED = (np.dtype(np.float64), np.dtype(np.int64))


def add(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> Statistics:
    """The elementwise sum of two statistics.

    Raises:
        UpdateError: names, shapes or dtypes differ, or a dtype is neither float64 nor int64.
    """
    if a.keys() != b.keys():
        differing = ", ".join(sorted(a.keys() ^ b.keys()))
        raise UpdateError(
            f"Statistics of two sites have different names: {differing}.",
            "Let both sites run the same plan and the same version of fedstudy.",
        )
    for name in a:
        _refuse_mismatch(name, a[name], b[name])
    return {name: a[name] + b[name] for name in a}


def total(parts: Iterable[Mapping[str, NDArray[Any]]]) -> Statistics:
    """The sum over sites, added in the order given.

    Raises:
        UpdateError: there is no part at all, or two parts do not fit together (see `add`).
    """
    iterator = iter(parts)
    first = next(iterator, None)
    if first is None:
        raise UpdateError("No site has sent statistics.", "Wait until at least one site has reported.")
    result: Statistics = {name: first[name].copy() for name in first}
    for part in iterator:
        result = add(result, part)
    return result


def _refuse_mismatch(name: str, a: NDArray[Any], b: NDArray[Any]) -> None:
    remedy = "Let both sites run the same plan and the same version of fedstudy."
    if a.shape != b.shape:
        raise UpdateError(f"Statistic {name!r} has shapes {a.shape} and {b.shape} at two sites.", remedy)
    if a.dtype != b.dtype or a.dtype not in _ALLOWED:
        raise UpdateError(
            f"Statistic {name!r} has dtypes {a.dtype} and {b.dtype}; both must be float64 or both int64.",
            remedy,
        )
