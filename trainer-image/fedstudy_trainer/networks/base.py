"""What every network has: constants that travel with the weights, and inputs made from raw covariates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedstudy.plan import Covariate, LossName, StudyPlan, TaskType


@dataclass(frozen=True)
class Shape:
    """What a network takes and gives.

    Attributes:
        channels: images per case; 0 for a study of covariates only.
        size: voxels of a volume along its three axes; empty without images.
        covariates: P, the expanded covariate columns.
        outputs: numbers per case: one logit for two classes, C logits for more, J hazards, or one log-risk.
        classes: C, 0 for survival.
        cuts: J-1 cut points of the discrete-time hazard, else 0.
        bias: whether the last layer has one; a log-risk has none, as the Cox likelihood does not see it.
    """

    channels: int
    size: tuple[int, ...]
    covariates: int
    outputs: int
    classes: int
    cuts: int
    bias: bool


def shape_of(plan: StudyPlan) -> Shape:
    """The shape that a plan's task asks for."""
    classes = plan.task.outputs if plan.task.type is TaskType.CLASSIFICATION else 0
    hazard = plan.task.effective_loss is LossName.DISCRETE_HAZARD
    return Shape(
        channels=len(plan.task.images),
        size=tuple(plan.preprocessing.size or ()) if plan.task.images else (),
        covariates=sum(_columns(covariate) for covariate in plan.task.covariates),
        outputs=1 if classes == 2 else plan.task.outputs,
        classes=classes,
        cuts=plan.task.intervals - 1 if hazard else 0,
        bias=plan.task.effective_loss is not LossName.STRATIFIED_COX,
    )


def _columns(covariate: Covariate) -> int:
    return 1 if covariate.categories is None else len(covariate.categories) - 1


class StudyNetwork(nn.Module, ABC):
    """A network with its constants under the state names `constant.…`.

    It takes raw covariates (NaN where missing), so that an exported model needs nothing else.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.constant = _constants(shape)

    @property
    def covariate_inputs(self) -> int:
        """Numbers per case that `standardised` gives: 2P."""
        return 2 * self.shape.covariates

    def standardised(self, covariates: Tensor) -> Tensor:
        """[n, 2P]: standardised columns with 0 where missing, then one missingness indicator per column."""
        mean = self.get_buffer("constant.covariate.mean")
        scale = self.get_buffer("constant.covariate.scale")
        missing = torch.isnan(covariates)
        values = torch.where(missing, torch.zeros_like(covariates), (covariates - mean) / scale)
        return torch.cat([values, missing.to(values.dtype)], dim=1)

    @abstractmethod
    def forward(self, images: Tensor | None, presence: Tensor | None, covariates: Tensor | None) -> Tensor:
        """Outputs [n, O] of a batch.

        Args:
            images: [n, C, D, H, W], zero where an image is missing; None without images.
            presence: [n, C] 1 where the image is there; None without images.
            covariates: [n, P] raw, NaN where missing; None without covariates.
        """


def _constants(shape: Shape) -> nn.Module:
    """Buffers in nested modules, whose state names are those of `docs/architecture.md`."""
    constant = nn.Module()
    if shape.covariates:
        covariate = nn.Module()
        covariate.register_buffer("mean", torch.zeros(shape.covariates))
        covariate.register_buffer("scale", torch.ones(shape.covariates))
        constant.add_module("covariate", covariate)
    if shape.classes:
        weight = nn.Module()
        weight.register_buffer("weight", torch.ones(shape.classes))
        constant.add_module("class", weight)
    if shape.cuts:
        time = nn.Module()
        time.register_buffer("cuts", torch.arange(1.0, shape.cuts + 1))
        constant.add_module("time", time)
    return constant
