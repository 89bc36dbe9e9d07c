"""FedProx (Li et al., MLSys 2020): a penalty on the way from the shared model, for sites that differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan
from fedstudy_trainer.algorithms.base import LocalAlgorithm

DEFAULT_MU = 0.01


class FedProx(LocalAlgorithm):
    """Adds (μ/2)·‖w - w_t‖² to the local loss (equation 2 of the paper); with μ = 0 it is FedAvg to the bit."""

    name: ClassVar[str] = "FedProx"

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        mu = plan.federation.algorithm.parameters.get("mu", DEFAULT_MU)
        if isinstance(mu, (bool, str)) or not (math.isfinite(mu) and mu >= 0):
            raise PlanError(
                f"federation.algorithm.parameters.mu: {mu!r} is not a number of at least 0.",
                "Correct the plan.",
            )
        self.mu = float(mu)

    def penalty(self, now: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor | None:
        """(μ/2)·Σ(w - w_t)²; None for μ = 0."""
        if self.mu == 0:
            return None
        squares = [(w - w_t).square().sum() for w, w_t in zip(now, start, strict=True)]
        return self.mu / 2 * sum(squares[1:], squares[0])
