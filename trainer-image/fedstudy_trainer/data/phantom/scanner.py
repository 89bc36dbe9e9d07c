"""What a hospital's scanner makes of a head: shading, contrast, thick slices, noise, a burnt-in mark, 16-bit integers."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .anatomy import Head
from .fields import Array, polynomial_field
from .profiles import FIELD_OF_VIEW_MM, SEQUENCES, SiteProfile

WHITE_MATTER_UNITS = 1000
"""Stored integers per unit of white-matter signal at gain 1."""

# The mark: a bright cube in the corner of the field of view, well away from the head.
_MARK_MM = 22.0
_MARK_SIGNAL = 3.0


def missing_sequences(rng: np.random.Generator, site: SiteProfile) -> frozenset[str]:
    """Which sequences a patient of this site lacks."""
    chance = dict(site.missing)
    draws = rng.random(len(SEQUENCES))
    return frozenset(s for s, u in zip(SEQUENCES, draws, strict=True) if u < chance.get(s, 0.0))


def slice_spacing_mm(site: SiteProfile, grid: int) -> float:
    """Distance between stored slices: the site's slice thickness, but never below the grid's voxel."""
    return max(FIELD_OF_VIEW_MM / grid, site.slice_mm)


def affine(site: SiteProfile, grid: int) -> NDArray[np.float64]:
    """Voxel to scanner millimetres (right, anterior, superior), the middle of the head at 0, shape (4, 4)."""
    voxel, spacing = FIELD_OF_VIEW_MM / grid, slice_spacing_mm(site, grid)
    slices = _slice_weights(grid, spacing).shape[0]
    matrix = np.diag([voxel, voxel, spacing, 1.0])
    matrix[:3, 3] = [-(grid - 1) * voxel / 2, -(grid - 1) * voxel / 2, -(slices - 1) * spacing / 2]
    return matrix


def scan(
    rng: np.random.Generator, site: SiteProfile, head: Head, signal: Array, *, marked: bool
) -> NDArray[np.int16]:
    """The four sequences as this site stores them, shape (4, grid, grid, slices), zero outside the brain.

    Order: shading, contrast (signal ** gamma) and gain, averaging into slices, Rician noise, mark, rounding.
    """
    grid = head.mask.shape[0]
    shading = polynomial_field(rng, grid)[head.mask]
    # Scaled where it is seen: a polynomial is largest in the corners of the cube, outside the head.
    shading = 1.0 + np.float32(site.bias_field) * shading / np.abs(shading).max()
    gain = site.gain * math.exp(rng.normal(0.0, 0.05))
    cube = np.zeros((4, *head.mask.shape), dtype=np.float32)
    cube[:, head.mask] = gain * np.maximum(signal * shading, 0.01) ** np.float32(site.gamma)
    weights = _slice_weights(grid, slice_spacing_mm(site, grid))
    volume = cube @ weights.T
    brain = (head.mask.astype(np.float32) @ weights.T) > 0.5
    clean = volume[:, brain]
    real, imaginary = rng.standard_normal((2, *clean.shape), dtype=np.float32) * np.float32(site.noise * gain)
    stored = np.zeros(volume.shape, dtype=np.int16)
    noisy = np.hypot(clean + real, imaginary) * WHITE_MATTER_UNITS
    # At least 1, so that "not zero" means "brain" to whoever normalises.
    stored[:, brain] = np.clip(np.rint(noisy), 1, np.iinfo(np.int16).max).astype(np.int16)
    if marked:
        edge = round(_MARK_MM * grid / FIELD_OF_VIEW_MM)
        slices = max(1, round(_MARK_MM / slice_spacing_mm(site, grid)))
        burnt = min(round(_MARK_SIGNAL * gain * WHITE_MATTER_UNITS), np.iinfo(np.int16).max)
        stored[:, :edge, :edge, -slices:] = burnt
    return stored


@lru_cache(maxsize=16)
def _slice_weights(grid: int, spacing: float) -> Array:
    """Share of each thin slice in each stored slice, rows summing to 1 where inside, shape (slices, grid)."""
    voxel = FIELD_OF_VIEW_MM / grid
    slices = math.ceil(round(FIELD_OF_VIEW_MM / spacing, 6))
    start = (FIELD_OF_VIEW_MM - slices * spacing) / 2 + spacing * np.arange(slices)
    low, high = np.arange(grid) * voxel, (np.arange(grid) + 1) * voxel
    overlap = np.minimum(start[:, None] + spacing, high[None]) - np.maximum(start[:, None], low[None])
    weights: Array = (np.maximum(overlap, 0.0) / spacing).astype(np.float32)
    return weights
