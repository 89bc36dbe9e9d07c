"""What a task is to the trainer: a loss to descend, and a site's share of the evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedstudy.measures.sums import Statistics
from fedstudy_trainer.data.batches import Batch
from fedstudy_trainer.data.dataset import SplitData


class Task(ABC):
    """The question of a study, as the trainer sees it."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """A finite scalar for finite outputs [n, O], whatever the batch holds; 0 for a batch that says nothing.

        Args:
            outputs: [n, O] float32, of the network.
            batch: on any device.
        """

    @abstractmethod
    def statistics(self, outputs: NDArray[np.float64], cases: SplitData) -> Statistics:
        """A site's share of the evaluation of outputs [n, O] on the n cases of a split, in their order."""


def empty_outputs(width: int) -> NDArray[Any]:
    """Outputs [0, O] of a split without cases."""
    return np.zeros((0, width), dtype=np.float64)
