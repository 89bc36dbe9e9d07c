"""FedAvgM, the trainer's half: a site does what it does in FedAvg; the momentum lives at the aggregator."""

from __future__ import annotations

from typing import ClassVar

from fedstudy_trainer.algorithms.fedavg import FedAvg


class FedAvgM(FedAvg):
    """Plain local descent under another name."""

    name: ClassVar[str] = "FedAvgM"
