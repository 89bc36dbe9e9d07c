"""Random changes of a batch of training images: small movements, grey values, noise, missing sequences. Seeded."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fedstudy.plan import Augmentation, Preprocessing

_STREAM = 1
"""Keeps these random numbers apart from those of shuffling, which are drawn from (seed, epoch)."""


def augmented(
    images: Tensor,
    presence: Tensor,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    seed: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Changed copies of a batch's images and presence; the same bits for the same seed.

    Args:
        images: [b, C, X, Y, Z] float32.
        presence: [b, C] float32.
        augmentation: what is allowed to change, and how far.
        preprocessing: says which axis is left to right, and how long a voxel is along each axis.
        seed: the study's seed and the step's number.
    """
    rng = np.random.default_rng([*seed, _STREAM])
    images = _flipped(images, augmentation.flip_probability, _left_right(preprocessing), rng)
    if augmentation.rotation_degrees or augmentation.scale:
        images = _moved(images, augmentation, preprocessing, rng)
    images = _changed_greys(images, augmentation, rng)
    return _dropped(images, presence, augmentation.drop_image_probability, rng)


def _left_right(preprocessing: Preprocessing) -> int:
    """Dimension of [b, C, X, Y, Z] that runs between left and right."""
    return 2 + next(i for i, letter in enumerate(preprocessing.orientation) if letter in "LR")


def _flipped(images: Tensor, probability: float, dimension: int, rng: np.random.Generator) -> Tensor:
    if not probability:
        return images
    result = images.clone()
    for case in np.flatnonzero(rng.random(images.shape[0]) < probability):
        result[case] = images[case].flip(dimension - 1)
    return result


def _moved(
    images: Tensor, augmentation: Augmentation, preprocessing: Preprocessing, rng: np.random.Generator
) -> Tensor:
    """Rotated about the three axes and zoomed, about the centre; what comes from outside is 0."""
    cases = images.shape[0]
    extent = np.array(images.shape[2:], dtype=np.float64) * np.array(preprocessing.spacing or [1.0] * 3)
    angles = np.radians(rng.uniform(-1, 1, size=(cases, 3)) * augmentation.rotation_degrees)
    zooms = (1 + augmentation.scale) ** rng.uniform(-1, 1, size=cases)
    # From a place in the result to a place in the source, in units of half the extent; torch counts axes from the last.
    matrices = [
        (_rotation(angle) / zoom * extent[None, :] / extent[:, None])[::-1, ::-1]
        for angle, zoom in zip(angles, zooms, strict=True)
    ]
    theta = torch.zeros((cases, 3, 4), dtype=torch.float32)
    theta[:, :, :3] = torch.from_numpy(np.stack(matrices).astype(np.float32))
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 3]: rotation about the first, then the second, then the third axis; angles in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def _changed_greys(images: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Another factor and offset for each image, and noise; the background stays 0."""
    scale, shift, noise = augmentation.intensity_scale, augmentation.intensity_shift, augmentation.noise
    if not (scale or shift or noise):
        return images
    per_image = (*images.shape[:2], 1, 1, 1)
    factor = torch.from_numpy((1 + scale * rng.uniform(-1, 1, size=per_image)).astype(np.float32))
    offset = torch.from_numpy((shift * rng.uniform(-1, 1, size=per_image)).astype(np.float32))
    grain = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32)) if noise else None
    result = torch.empty_like(images)
    # One case at a time: what is made in between stays in the processor's cache.
    for case, image in enumerate(images):
        changed = (image * factor[case]).add_(offset[case])
        if grain is not None:
            changed += noise * grain[case]
        torch.where(image != 0, changed, image, out=result[case])
    return result


def _dropped(
    images: Tensor, presence: Tensor, probability: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blank sequences, each with the probability, but leave every case one that it has."""
    if not probability:
        return images, presence
    luck = torch.from_numpy(rng.random(tuple(presence.shape)).astype(np.float32))
    luck = torch.where(presence > 0, luck, -1.0)
    luckiest = torch.nn.functional.one_hot(luck.argmax(dim=1), presence.shape[1]).bool()
    kept = presence * ((luck >= probability) | luckiest).to(presence.dtype)
    return images * kept[:, :, None, None, None], kept
