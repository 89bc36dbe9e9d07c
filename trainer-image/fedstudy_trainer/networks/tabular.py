"""Networks of covariates alone: a linear model and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedstudy_trainer.networks.base import Shape, StudyNetwork


class LinearNetwork(StudyNetwork):
    """Logistic, hazard or Cox regression: `weight` [O, 2P] and `bias` [O] (none for Cox), starting at zero.

    Its objective is convex, so the start does not matter, and zero needs no seed.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.weight = nn.Parameter(torch.zeros(shape.outputs, self.covariate_inputs))
        self.bias = nn.Parameter(torch.zeros(shape.outputs)) if shape.bias else None

    def forward(self, images: Tensor | None, presence: Tensor | None, covariates: Tensor | None) -> Tensor:
        """[n, O]; see `StudyNetwork.forward`."""
        assert covariates is not None
        return nn.functional.linear(self.standardised(covariates), self.weight, self.bias)


class MLPNetwork(StudyNetwork):
    """Fully connected layers with ReLU and dropout between them."""

    def __init__(self, shape: Shape, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(shape)
        self.layers = perceptron(self.covariate_inputs, hidden, shape.outputs, dropout, bias=shape.bias)

    def forward(self, images: Tensor | None, presence: Tensor | None, covariates: Tensor | None) -> Tensor:
        """[n, O]; see `StudyNetwork.forward`."""
        assert covariates is not None
        outputs: Tensor = self.layers(self.standardised(covariates))
        return outputs


def perceptron(
    inputs: int, hidden: Sequence[int], outputs: int, dropout: float, *, bias: bool
) -> nn.Sequential:
    """Linear layers with ReLU and dropout after each but the last; `bias` is that of the last."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs, bias=bias))
