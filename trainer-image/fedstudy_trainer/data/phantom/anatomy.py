"""A head without a tumour: an ellipsoidal brain with cortex, deep grey matter and ventricles, different in everyone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .clinical import Patient
from .fields import Array, pink_noise, soft_step, spline_field
from .profiles import FIELD_OF_VIEW_MM

SEMI_AXES_MM = np.array([66.0, 84.0, 62.0], dtype=np.float32)
"""Half-widths of the brain, left-right, back-front, foot-head: 1440 cc."""

_TILT_DEGREES = 9.0

# Signals relative to white matter, in the order of SEQUENCES.
_WHITE = (1.0, 1.0, 1.0, 1.0)
_GREY = (0.76, 0.80, 1.25, 1.18)
_FLUID = (0.35, 0.36, 2.30, 0.35)


@dataclass(frozen=True)
class Head:
    """The voxels of one brain, flattened.

    Attributes:
        mask: which voxels of the cube are brain, shape (grid, grid, grid).
        position: place of each brain voxel in the standard head in mm, right-anterior-superior, shape (voxels, 3).
        fluid: share of cerebrospinal fluid in each, shape (voxels,).
        grey: share of grey matter, shape (voxels,).
        texture: two independent 1/f fields of sd 1, shape (2, voxels).
        signal: T1, T1Gd, T2, FLAIR relative to white matter, shape (4, voxels).
        voxel_mm: edge of a voxel.
    """

    mask: NDArray[np.bool_]
    position: Array
    fluid: Array
    grey: Array
    texture: Array
    signal: Array
    voxel_mm: float

    @property
    def voxel_cc(self) -> float:
        """Volume of a voxel in cubic centimetres."""
        return self.voxel_mm**3 / 1000.0


def build_head(rng: np.random.Generator, patient: Patient, grid: int) -> Head:
    """A healthy head of the patient's age on a cube of ``grid`` voxels over FIELD_OF_VIEW_MM."""
    voxel_mm = FIELD_OF_VIEW_MM / grid
    position = _standard_positions(rng, grid, tilt=_TILT_DEGREES if patient.marked else 0.0)
    radius = np.sqrt(((position / SEMI_AXES_MM) ** 2).sum(axis=-1))
    mask = radius < 1.0
    place, depth = position[mask], (1.0 - radius[mask]) * 68.0
    texture = np.stack([pink_noise(rng, grid)[mask], pink_noise(rng, grid)[mask]])
    fluid = _fluid(place, depth, patient.age, voxel_mm)
    grey = _grey(place, depth, texture[0], voxel_mm) * (1.0 - fluid)
    white = 1.0 - grey - fluid
    signal = np.stack(
        [white * w + grey * g + fluid * f for w, g, f in zip(_WHITE, _GREY, _FLUID, strict=True)]
    ).astype(np.float32)
    signal *= 1.0 + 0.02 * texture[1]
    return Head(mask, place, fluid, grey, texture, signal, voxel_mm)


@lru_cache(maxsize=4)
def _cube(grid: int) -> Array:
    """Scanner coordinates of voxel centres in mm about the middle of the cube, shape (grid, grid, grid, 3)."""
    axis = ((np.arange(grid) + 0.5) / grid - 0.5) * FIELD_OF_VIEW_MM
    cube: Array = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).astype(np.float32)
    return cube


def _standard_positions(rng: np.random.Generator, grid: int, *, tilt: float) -> Array:
    """Scanner to standard head: an individual affine map and B-spline warp."""
    angles = np.radians(rng.normal(0.0, 3.0, 3) + np.array([0.0, 0.0, tilt]))
    scale = np.diag(1.0 / rng.normal(1.0, 0.03, 3).clip(0.93, 1.04))
    affine = (scale @ _rotation(angles)).astype(np.float32)
    shift = rng.normal(0.0, 2.0, 3).astype(np.float32)
    warp = np.stack([spline_field(rng, grid) for _ in range(3)], axis=-1)
    positions: Array = (_cube(grid) - shift) @ affine.T + np.float32(2.5) * warp
    return positions


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation by angles about x, then y, then z, in radians."""
    (a, b, c), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, a, -sa], [0, sa, a]])
    about_y = np.array([[b, 0, sb], [0, 1, 0], [-sb, 0, b]])
    about_z = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    rotation: NDArray[np.float64] = about_z @ about_y @ about_x
    return rotation


def _ellipsoid(place: Array, centre: tuple[float, float, float], axes: tuple[float, float, float]) -> Array:
    """Signed depth in mm inside an ellipsoid mirrored in the midline (positive inside), shape (voxels,)."""
    mirrored = np.stack([np.abs(place[:, 0]), place[:, 1], place[:, 2]], axis=-1)
    radius = np.sqrt(
        (((mirrored - np.array(centre, dtype=np.float32)) / np.array(axes, dtype=np.float32)) ** 2).sum(
            axis=-1
        )
    )
    depth: Array = (1.0 - radius) * np.float32(np.prod(axes) ** (1 / 3))
    return depth


def _fluid(place: Array, depth: Array, age: float, voxel_mm: float) -> Array:
    """Ventricles, which widen with age, and a film around the brain."""
    widening = math.exp(0.008 * (age - 50.0))
    horns = _ellipsoid(place, (9.0, 2.0, 8.0), (6.0 * widening, 28.0 * widening**0.5, 9.0 * widening))
    width = 0.5 + voxel_mm / 4
    fluid: Array = np.maximum(soft_step(horns, width), soft_step(1.5 * widening - depth, width))
    return fluid


def _grey(place: Array, depth: Array, texture: Array, voxel_mm: float) -> Array:
    """A folded cortical ribbon and the deep nuclei."""
    width = 1.0 + voxel_mm / 4
    nuclei = _ellipsoid(place, (20.0, 4.0, 2.0), (8.0, 16.0, 9.0))
    grey: Array = np.maximum(soft_step(9.0 + 3.0 * texture - depth, width), soft_step(nuclei, width))
    return grey
