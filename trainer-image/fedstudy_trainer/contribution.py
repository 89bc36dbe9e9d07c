"""What a round of training gives: tensors that leave the hospital, and the few numbers that say how much they weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Contribution:
    """What a site says of its answer; all of it is in its ledger.

    Attributes:
        samples: training cases used.
        events: deaths among them, 0 for classification.
        steps: optimiser steps.
        seconds: of training.
        loss: mean over the round's samples.
    """

    samples: int = 0
    events: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class Trained:
    """An answer to TRAIN: named arrays and the contribution."""

    tensors: Mapping[str, NDArray[Any]]
    contribution: Contribution


@dataclass(frozen=True)
class Progress:
    """How far an instruction is.

    Attributes:
        samples_done, samples_total: cases seen so far and in all.
        loss: mean over those seen.
        samples_per_second: since the start.
        seconds_left: at that rate.
    """

    samples_done: int
    samples_total: int
    loss: float
    samples_per_second: float
    seconds_left: float
