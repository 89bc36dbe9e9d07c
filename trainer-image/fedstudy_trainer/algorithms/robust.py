"""CoordinateMedian and TrimmedMean (Yin et al., ICML 2018), the site's halves: the hub's folds alone differ."""

from __future__ import annotations

from typing import ClassVar

from fedstudy_trainer.algorithms.fedavg import FedAvg


class CoordinateMedian(FedAvg):
    """Plain local descent."""

    name: ClassVar[str] = "CoordinateMedian"


class TrimmedMean(FedAvg):
    """Plain local descent."""

    name: ClassVar[str] = "TrimmedMean"
