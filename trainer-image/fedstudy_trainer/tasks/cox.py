"""The site-stratified Cox partial likelihood of a batch, as a loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstudy.measures.sums import Statistics
from fedstudy.measures.survival import survival_statistics
from fedstudy.plan import Weights
from fedstudy_trainer.data.batches import Batch
from fedstudy_trainer.data.dataset import SplitData
from fedstudy_trainer.tasks.base import Task


def log_likelihood(risk: Tensor, times: NDArray[np.float64], events: NDArray[np.int64]) -> Tensor:
    """The log partial likelihood with Efron's ties (Efron, JASA 1977); 0, with a zero gradient, without an event.

    For d deaths at one time, risk set R and death set D: Σ_D η - Σ_{l<d} log(Σ_R e^η - (l/d) Σ_D e^η).

    Args:
        risk: [n] float64 log-risks η.
        times: [n] follow-up.
        events: [n] 1 seen, else censored.
    """
    order = np.argsort(-times, kind="stable")  # falling: the risk set of row i is rows 0..last of its tie
    t, deaths = times[order], np.flatnonzero(events[order] == 1)
    eta = risk[torch.from_numpy(order)]
    if deaths.size == 0:
        return eta.sum() * 0.0
    _, first, tie, size = np.unique(-t[deaths], return_index=True, return_inverse=True, return_counts=True)
    last = np.searchsorted(-t, -t[deaths[first]], side="right") - 1
    share = torch.from_numpy((np.arange(deaths.size) - first[tie]) / size[tie])
    of_tie, dying = torch.from_numpy(tie), torch.from_numpy(deaths)

    shift = eta.detach().max()
    theta = torch.exp(eta - shift)
    dead = torch.zeros(first.size, dtype=theta.dtype).index_add(0, of_tie, theta[dying])
    s0 = torch.cumsum(theta, 0)[torch.from_numpy(last)][of_tie] - share * dead[of_tie]
    tiny = torch.finfo(theta.dtype).tiny
    return eta[dying].sum() - (torch.log(s0.clamp_min(tiny)) + shift).sum()


class StratifiedCox(Task):
    """Minus the log partial likelihood of a batch, each site a stratum of its own; best with the full batch.

    It is divided by the batch's cases, or by its events where the plan weights sites by events: so the average over
    sites is the pooled stratified likelihood. A batch's risk sets are its own cases.

    Args:
        weights: what a site counts for in the plan.
        strata: [training cases] the stratum of each; None: the data are of one site.
    """

    def __init__(self, weights: Weights, strata: NDArray[np.int64] | None) -> None:
        self.per_event = weights is Weights.EVENTS
        self.strata = strata

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `Task.loss`. In float64 on the CPU: n numbers, and CUDA's cumulative sums are not deterministic."""
        assert batch.times is not None and batch.events is not None
        risk = outputs[:, 0].to("cpu", torch.float64)
        times = batch.times.cpu().numpy().astype(np.float64)
        events = batch.events.cpu().numpy()
        strata = np.zeros(times.size) if self.strata is None else self.strata[batch.indices.cpu().numpy()]
        total = risk.sum() * 0.0
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            total = total + log_likelihood(risk[torch.from_numpy(rows)], times[rows], events[rows])
        divisor = int((events == 1).sum()) if self.per_event else times.size
        return (-total / max(1, divisor)).to(outputs.device, torch.float32)

    def statistics(self, outputs: NDArray[np.float64], cases: SplitData) -> Statistics:
        """See `Task.statistics` and `fedstudy.measures.survival`."""
        return survival_statistics(outputs[:, 0], cases.times, cases.events)
