"""The classifiers of monai.networks.nets that work in three dimensions, with GroupNorm instead of BatchNorm.

MONAI is imported only when one of them is built: a trainer of covariates starts without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from fedstudy_trainer.networks.arguments import Argument
from fedstudy_trainer.networks.base import Shape
from fedstudy_trainer.networks.small_cnn import groups

Arguments = Mapping[str, Any]
Maker = Callable[[Shape, Arguments], nn.Module]

COMMON = {"features": Argument(128, low=1)}
"""Arguments of every body: the number of features that it hands to the head."""


class MonaiBody(nn.Module):
    """A MONAI classifier whose outputs are taken as features, after a ReLU."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = with_group_norm(net)

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, F] of images [n, C, D, H, W]."""
        return nn.functional.relu(self.net(images))


def with_group_norm(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm replaced by a GroupNorm, in place.

    BatchNorm's running statistics are those of a site's patients and scanners: averaging them is neither exact nor
    private, and with batches of one to four volumes they are noise.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.GroupNorm(groups(child.num_features), child.num_features))
        else:
            with_group_norm(child)
    return module


def _densenet(name: str, shape: Shape, arguments: Arguments) -> nn.Module:
    from monai.networks import nets

    return getattr(nets, name)(  # type: ignore[no-any-return]
        spatial_dims=3,
        in_channels=shape.channels,
        out_channels=arguments["features"],
        init_features=arguments["init_features"],
        growth_rate=arguments["growth_rate"],
        dropout_prob=arguments["dropout_prob"],
    )


def _resnet(name: str, shape: Shape, arguments: Arguments) -> nn.Module:
    from monai.networks import nets

    return getattr(nets, name.lower())(  # type: ignore[no-any-return]
        spatial_dims=3,
        n_input_channels=shape.channels,
        num_classes=arguments["features"],
        conv1_t_size=arguments["conv1_t_size"],
        conv1_t_stride=arguments["conv1_t_stride"],
        no_max_pool=arguments["no_max_pool"],
        widen_factor=arguments["widen_factor"],
    )


def _senet(name: str, shape: Shape, arguments: Arguments) -> nn.Module:
    from monai.networks import nets

    return getattr(nets, name)(  # type: ignore[no-any-return]
        spatial_dims=3,
        in_channels=shape.channels,
        num_classes=arguments["features"],
        dropout_prob=arguments["dropout_prob"] or None,
    )


def _efficientnet(_: str, shape: Shape, arguments: Arguments) -> nn.Module:
    from monai.networks import nets

    net: nn.Module = nets.EfficientNetBN(
        arguments["model_name"],
        pretrained=False,
        spatial_dims=3,
        in_channels=shape.channels,
        num_classes=arguments["features"],
    )
    return net


_DENSENET = {
    "init_features": Argument(64, low=1),
    "growth_rate": Argument(32, low=1),
    "dropout_prob": Argument(0.0, high=0.95),
}
_RESNET = {
    "conv1_t_size": Argument(7, low=1, high=15),
    "conv1_t_stride": Argument(1, low=1, high=4),
    "no_max_pool": Argument(False),
    "widen_factor": Argument(1.0, low=0.0625, high=8),
}
_SENET = {"dropout_prob": Argument(0.2, high=0.95)}
_EFFICIENTNET = {
    "model_name": Argument("efficientnet-b0", choices=tuple(f"efficientnet-b{n}" for n in range(8)))
}
SMALLEST = {"DenseNet": 32}
"""Least voxels along an axis, for the families that shrink a smaller volume to nothing."""


def bodies() -> dict[str, tuple[Maker, dict[str, Argument], int]]:
    """Name → (maker, arguments, least voxels along an axis)."""
    table: dict[str, tuple[Maker, dict[str, Argument], int]] = {}
    families: list[
        tuple[Callable[[str, Shape, Arguments], nn.Module], dict[str, Argument], int, list[str]]
    ] = [
        (_densenet, _DENSENET, SMALLEST["DenseNet"], [f"DenseNet{n}" for n in (121, 169, 201, 264)]),
        (_resnet, _RESNET, 4, [f"ResNet{n}" for n in (10, 18, 34, 50, 101, 152)]),
        (_senet, _SENET, 4, [f"SEResNet{n}" for n in (50, 101, 152)] + ["SEResNext50", "SEResNext101"]),
        (_efficientnet, _EFFICIENTNET, 4, ["EfficientNetBN"]),
    ]
    for make, arguments, smallest, names in families:
        for name in names:
            table[name] = (partial(make, name), COMMON | arguments, smallest)
    return table
