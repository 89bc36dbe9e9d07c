"""Coordinate-wise median (Yin et al., ICML 2018, option I): bears up to half of the sites being wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from fedstudy.aggregator.algorithms.base import Algorithm, Update
from fedstudy.aggregator.algorithms.robust import fold_sorted
from fedstudy.tensors import Array, Blob, TensorFile


class CoordinateMedian(Algorithm):
    """w_j ← median of w_k,j over the sites k, for each number j. Unweighted: `federation.weights` has no effect."""

    name: ClassVar[str] = "CoordinateMedian"

    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """The middle of the sites' numbers, or the mean of the middle two."""
        return fold_sorted(model, updates, out, _middle)


def _middle(values: Array) -> Array:
    sites = len(values)
    middle: Array = (values[(sites - 1) // 2] + values[sites // 2]) / 2
    return middle
