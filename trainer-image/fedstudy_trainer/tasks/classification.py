"""Classification: cross-entropy, weighted by class where the plan says so."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstudy.measures.classification import classification_statistics
from fedstudy.measures.cohort import class_weights
from fedstudy.measures.sums import Statistics
from fedstudy_trainer.data.batches import Batch
from fedstudy_trainer.data.dataset import SplitData
from fedstudy_trainer.tasks.base import Task


def class_logits(outputs: Tensor) -> Tensor:
    """Logits [n, C] of outputs [n, O]: a single output z stands for the two classes' logits (0, z)."""
    if outputs.shape[1] > 1:
        return outputs
    return torch.cat([torch.zeros_like(outputs), outputs], dim=1)


def site_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """[C] class weights n / (C·n_c) of one site's own training labels; 0 for a class that it does not have.

    With them every class that a site has pulls equally in each of its steps: the cyclically weighted loss of
    Balachandar et al., JAMIA 2020, made for a ring in which the class balance jumps from site to site.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    return torch.from_numpy(class_weights(counts)).to(torch.float32)


class Classification(Task):
    """Cross-entropy: mean over the n cases of w_y · (-log p_y).

    The divisor is n and not the sum of the weights, so that the average over sites weighted by their cases is the
    pooled loss.

    Args:
        weights: [C].
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        assert batch.labels is not None
        logs = torch.log_softmax(class_logits(outputs.float()), dim=1)
        chosen = logs.gather(1, batch.labels[:, None]).squeeze(1)
        return -(self.weights.to(outputs.device)[batch.labels] * chosen).sum() / max(1, len(batch))

    def statistics(self, outputs: NDArray[np.float64], cases: SplitData) -> Statistics:
        """See `Task.statistics` and `fedstudy.measures.classification`."""
        return classification_statistics(probabilities(outputs), cases.labels)


def probabilities(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, C] class probabilities of outputs [n, O]."""
    p = torch.softmax(class_logits(torch.from_numpy(outputs)), dim=1).numpy()
    return np.asarray(p, dtype=np.float64)
