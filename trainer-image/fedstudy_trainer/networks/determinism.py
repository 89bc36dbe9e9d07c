"""Pooling layers whose gradient is the same bits on every run of a GPU; CUDA's own add up in an order of chance.

torch.use_deterministic_algorithms refuses CUDA's MaxPool3d, AvgPool3d and AdaptiveAvgPool3d in training. The ones here
are made of slices and additions. On a CPU torch's own are deterministic, and faster, so they are left.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn


def make_deterministic(module: nn.Module) -> None:
    """Replace the pooling layers of a network in place; its state keeps names and values.

    Raises:
        NotImplementedError: a pooling layer of a form that no allowed network has.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool3d):
            if child.output_size not in (1, (1, 1, 1)):
                raise NotImplementedError("Only global average pooling has a deterministic form.")
            setattr(module, name, GlobalMean())
        elif isinstance(child, (nn.MaxPool3d, nn.AvgPool3d)):
            setattr(module, name, SlicePool(child))
        else:
            make_deterministic(child)


class GlobalMean(nn.Module):
    """AdaptiveAvgPool3d(1)."""

    def forward(self, maps: Tensor) -> Tensor:
        """[n, C, 1, 1, 1] of [n, C, D, H, W]."""
        return maps.mean(dim=(2, 3, 4), keepdim=True)


class SlicePool(nn.Module):
    """MaxPool3d or AvgPool3d as strided slices, one for each offset within the kernel."""

    def __init__(self, pool: nn.MaxPool3d | nn.AvgPool3d) -> None:
        super().__init__()
        self.kernel, self.stride = _three(pool.kernel_size), _three(pool.stride)
        self.padding, self.ceil = _three(pool.padding), pool.ceil_mode
        self.largest = isinstance(pool, nn.MaxPool3d)
        if isinstance(pool, nn.MaxPool3d):
            plain = _three(pool.dilation) == (1, 1, 1) and not pool.return_indices
        else:
            plain = not any(self.padding) and not self.ceil and pool.divisor_override is None
        if not plain:
            raise NotImplementedError(f"{pool} has no deterministic form.")

    def forward(self, maps: Tensor) -> Tensor:
        """[n, C, D', H', W'] of [n, C, D, H, W]."""
        sizes = [self._size(maps.shape[2 + axis], axis) for axis in range(3)]
        edges: list[int] = []
        for axis in (2, 1, 0):
            reach = (sizes[axis] - 1) * self.stride[axis] + self.kernel[axis]
            after = max(0, reach - maps.shape[2 + axis] - self.padding[axis])
            edges += [self.padding[axis], after]
        if any(edges):
            maps = nn.functional.pad(maps, edges, value=float("-inf"))
        join: Callable[[Tensor, Tensor], Tensor] = torch.maximum if self.largest else torch.add
        result: Tensor | None = None
        for offset in product(*(range(k) for k in self.kernel)):
            window = maps
            for axis in range(3):
                stop = offset[axis] + (sizes[axis] - 1) * self.stride[axis] + 1
                cut = [slice(None)] * (2 + axis) + [slice(offset[axis], stop, self.stride[axis])]
                window = window[tuple(cut)]
            result = window if result is None else join(result, window)
        assert result is not None
        return result if self.largest else result / (self.kernel[0] * self.kernel[1] * self.kernel[2])

    def _size(self, length: int, axis: int) -> int:
        room = length + 2 * self.padding[axis] - self.kernel[axis]
        if not self.ceil:
            return room // self.stride[axis] + 1
        size = -(-room // self.stride[axis]) + 1
        begins_outside = (size - 1) * self.stride[axis] >= length + self.padding[axis]
        return size - 1 if begins_outside else size


def _three(value: int | tuple[int, ...]) -> tuple[int, int, int]:
    if isinstance(value, int):
        return (value, value, value)
    return (value[0], value[1], value[2])
