"""The discrete-time logistic hazard: the chance of the event in each interval, for those who reached it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from fedstudy.measures.sums import Statistics
from fedstudy.measures.survival import survival_statistics
from fedstudy_trainer.data.batches import Batch
from fedstudy_trainer.data.dataset import SplitData
from fedstudy_trainer.tasks.base import Task


class DiscreteHazard(Task):
    """Mean over the cases of -[Σ_{j<κ} log(1-h_j) + δ log h_κ + (1-δ) log(1-h_κ)], h = σ(output).

    κ is the interval of the time and δ the event (Gensheimer & Narasimhan, PeerJ 2019). A case's loss needs no other
    case, so batches of any size and averages over sites are exact.

    Args:
        cuts: [J-1] the inner ends of the J intervals; a time equal to a cut is in the interval that it ends.
    """

    def __init__(self, cuts: Tensor) -> None:
        self.cuts = cuts

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        assert batch.times is not None and batch.events is not None
        logits = outputs.float()
        kappa = torch.searchsorted(self.cuts.to(logits.device), batch.times, right=False)[:, None]
        interval = torch.arange(logits.shape[1], device=logits.device)[None, :]
        died = (interval == kappa) & (batch.events == 1)[:, None]
        survived = (interval <= kappa) & ~died
        zero = torch.zeros_like(logits)
        nll = torch.where(died, softplus(-logits), zero) + torch.where(survived, softplus(logits), zero)
        return nll.sum() / max(1, len(batch))

    def statistics(self, outputs: NDArray[np.float64], cases: SplitData) -> Statistics:
        """See `Task.statistics`. The risk is minus the sum of the survival probabilities at the ends of the intervals."""
        hazards = np.asarray(torch.sigmoid(torch.from_numpy(outputs)).numpy(), dtype=np.float64)
        risk = -np.cumprod(1 - hazards, axis=1).sum(axis=1)
        cuts = self.cuts.cpu().numpy().astype(np.float64)
        return survival_statistics(risk, cases.times, cases.events, hazards=hazards, cuts=cuts)
