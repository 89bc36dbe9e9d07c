"""A network of images, and of covariates where the study has both: features of the volume join them at the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedstudy_trainer.networks.base import Shape, StudyNetwork
from fedstudy_trainer.networks.tabular import perceptron


class ImageNetwork(StudyNetwork):
    """Body [n, C, D, H, W] → features [n, F]; head over features, presence flags [n, C] and covariates [n, 2P].

    With covariates the head has one hidden layer, so that the two can interact; without, it is linear.
    """

    def __init__(self, shape: Shape, body: nn.Module, features: int, hidden: int, dropout: float) -> None:
        super().__init__(shape)
        self.body = body
        inputs = features + shape.channels + self.covariate_inputs
        between = [hidden] if shape.covariates else []
        self.head = perceptron(inputs, between, shape.outputs, dropout, bias=shape.bias)

    def forward(self, images: Tensor | None, presence: Tensor | None, covariates: Tensor | None) -> Tensor:
        """[n, O]; see `StudyNetwork.forward`."""
        assert images is not None and presence is not None
        features = self.body(images)
        parts = [features, presence.to(features.dtype)]
        if self.shape.covariates:
            assert covariates is not None
            parts.append(self.standardised(covariates).to(features.dtype))
        outputs: Tensor = self.head(torch.cat(parts, dim=1))
        return outputs
