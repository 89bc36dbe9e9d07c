"""Newton–Raphson over sites: the pooled maximum-likelihood fit of a linear model, exactly, in 4 to 8 rounds.

β ← β + (Σ I_k + λ·1)⁻¹ (Σ U_k − λβ), where site k sends its gradient U_k and information I_k at the shared β (Cox 1972;
for the Cox model stratified by site the sums over sites are exact, since risk sets never cross a site).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedstudy.aggregator.algorithms.base import Algorithm, Update, trained
from fedstudy.aggregator.blocks import DTYPES, blocks, layout, write_blocks
from fedstudy.errors import PlanError
from fedstudy.measures import newton_step
from fedstudy.plan import LossName, Model, NonNegativeFloat, StudyPlan
from fedstudy.tensors import Array, Blob, TensorFile


class NewtonRaphson(Algorithm):
    """A star whose updates are derivatives: gradient [P'], information [P', P'], loglik [], all float64.

    β is the model's trained tensors, flattened one after the other, weights before biases.
    """

    name: ClassVar[str] = "NewtonRaphson"
    updates_are_models: ClassVar[bool] = False

    class Parameters(Model):
        """Parameters of Newton–Raphson."""

        ridge: NonNegativeFloat = Field(default=0.0, description="λ of the penalty λ/2·|β|².")

    parameters: Parameters

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        if plan.model.network.name != "Linear":
            raise PlanError(
                f"federation.algorithm.name: NewtonRaphson trains the network Linear, not {plan.model.network.name}.",
                "Set model.network.name: Linear, or choose another algorithm.",
            )
        loss = plan.task.effective_loss
        binary = loss is LossName.CROSS_ENTROPY and len(plan.task.target.classes or []) == 2
        if loss is not LossName.STRATIFIED_COX and not binary:
            raise PlanError(
                f"federation.algorithm.name: NewtonRaphson needs the loss StratifiedCox, or two classes; the task has {loss.value}.",
                "Change task.loss or task.target.classes, or choose another algorithm.",
            )

    def expected(self, model: TensorFile) -> dict[str, tuple[str, tuple[int, ...]]]:
        """gradient, information, loglik for the P' numbers of β."""
        p = sum(math.prod(shape) for _, shape in trained(model).values())
        return {"gradient": ("F64", (p,)), "information": ("F64", (p, p)), "loglik": ("F64", ())}

    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """One Newton step; a direction without information (a constant column) stays where it is."""
        names = _beta_order(model)
        beta = np.concatenate([model.array(name).ravel().astype(np.float64) for name in names])
        summed = {
            f"newton.{name}": np.asarray(
                np.sum([u.tensors.array(name) for u in updates], axis=0, dtype=np.float64)
            )
            for name in ("gradient", "information")
        }
        ahead = newton_step(summed, beta, self.parameters.ridge)
        sizes = [math.prod(model.tensors[name].shape) for name in names]
        parts = dict(zip(names, np.split(ahead, np.cumsum(sizes)[:-1]), strict=True))

        def fill(name: str) -> Iterator[Array]:
            if name in parts:
                yield parts[name].astype(DTYPES[model.tensors[name].dtype])
            else:
                yield from blocks(model, name)

        return write_blocks(out, layout(model), fill, model.metadata)


def _beta_order(model: TensorFile) -> list[str]:
    return sorted(trained(model), key=lambda name: (name.endswith("bias"), name))
