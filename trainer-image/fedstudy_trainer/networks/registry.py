"""The allow-list of networks: a plan names one of these and gives numbers; it never brings code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan
from fedstudy_trainer.networks import monai_nets
from fedstudy_trainer.networks.arguments import Argument, check
from fedstudy_trainer.networks.base import Shape, StudyNetwork, shape_of
from fedstudy_trainer.networks.image import ImageNetwork
from fedstudy_trainer.networks.small_cnn import SmallCNN
from fedstudy_trainer.networks.tabular import LinearNetwork, MLPNetwork

_DROPOUT = Argument(0.0, high=0.95)
_HEAD = {"hidden": Argument(32, low=1), "dropout": _DROPOUT}
"""Arguments of the head of every image network; `hidden` counts only in a study that also has covariates."""


@dataclass(frozen=True)
class Architecture:
    """A network that a plan may name.

    Attributes:
        make: builds it for a shape from checked arguments.
        arguments: what it takes.
        smallest: least voxels along an axis of a volume; 0 for a network of covariates.
    """

    make: Callable[[Shape, Mapping[str, Any]], StudyNetwork]
    arguments: Mapping[str, Argument]
    smallest: int = 0


def _linear(shape: Shape, _: Mapping[str, Any]) -> StudyNetwork:
    return LinearNetwork(shape)


def _mlp(shape: Shape, arguments: Mapping[str, Any]) -> StudyNetwork:
    return MLPNetwork(shape, arguments["hidden"], arguments["dropout"])


def _small_cnn(shape: Shape, arguments: Mapping[str, Any]) -> StudyNetwork:
    body = SmallCNN(
        shape.channels, arguments["width"], arguments["depth"], arguments["stride"], arguments["dropout"]
    )
    return ImageNetwork(shape, body, body.features, arguments["hidden"], arguments["dropout"])


def _monai(maker: monai_nets.Maker, shape: Shape, arguments: Mapping[str, Any]) -> StudyNetwork:
    body: nn.Module = monai_nets.MonaiBody(maker(shape, arguments))
    return ImageNetwork(shape, body, arguments["features"], arguments["hidden"], arguments["dropout"])


ARCHITECTURES: Mapping[str, Architecture] = {
    "Linear": Architecture(_linear, {}),
    "MLP": Architecture(_mlp, {"hidden": Argument([32], low=1), "dropout": _DROPOUT}),
    "SmallCNN": Architecture(
        _small_cnn,
        {
            "width": Argument(16, low=1, high=256),
            "depth": Argument(4, low=1, high=7),
            "stride": Argument(2, low=1, high=4),
            **_HEAD,
        },
        smallest=4,
    ),
    **{
        name: Architecture(partial(_monai, maker), arguments | _HEAD, smallest)
        for name, (maker, arguments, smallest) in monai_nets.bodies().items()
    },
}


def network_names() -> tuple[str, ...]:
    """The names that a plan may use: ours first, then MONAI's in order."""
    return tuple(ARCHITECTURES)


def build(plan: StudyPlan) -> StudyNetwork:
    """The plan's network with weights that depend on torch's random state; see `initial_state` for seeded ones.

    Raises:
        PlanError: the network or one of its arguments is unknown or does not fit the task.
    """
    name = plan.model.network.name
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise PlanError(
            f"model.network.name: {name} is not on the list of networks.",
            f"It has: {', '.join(ARCHITECTURES)}.",
        )
    shape = shape_of(plan)
    if shape.size and min(shape.size) < architecture.smallest:
        raise PlanError(
            f"preprocessing.size: {list(shape.size)} is too small for {name}, which needs {architecture.smallest} voxels along each axis.",
            "Choose a larger size, or SmallCNN.",
        )
    return architecture.make(shape, check(name, architecture.arguments, plan.model.network.arguments))
