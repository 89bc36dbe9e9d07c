"""FedAvg (McMahan et al., AISTATS 2017): the site descends its own loss and sends what it comes to."""

from __future__ import annotations

from typing import ClassVar

from fedstudy_trainer.algorithms.base import LocalAlgorithm


class FedAvg(LocalAlgorithm):
    """Nothing to add to plain descent."""

    name: ClassVar[str] = "FedAvg"
