"""Smooth and rough random fields on a voxel grid, as products of small matrices: cheap enough for every patient."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

Array = NDArray[np.float32]


@lru_cache(maxsize=16)
def _spline_basis(grid: int, controls: int) -> Array:
    """Cubic B-spline basis on an axis of ``grid`` voxels, shape (grid, controls)."""
    inner = np.linspace(0.0, 1.0, controls - 2)
    knots = np.concatenate([[0.0] * 3, inner, [1.0] * 3])
    return np.asarray(
        BSpline.design_matrix(np.linspace(0.0, 1.0, grid), knots, 3).toarray(), dtype=np.float32
    )


@lru_cache(maxsize=16)
def _legendre_basis(grid: int, order: int) -> Array:
    """Legendre polynomials 0..order on an axis from -1 to 1, shape (grid, order + 1)."""
    basis: Array = np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, grid), order).astype(np.float32)
    return basis


@lru_cache(maxsize=4)
def _pink_filter(grid: int) -> Array:
    """Amplitude 1/f over the half spectrum of a cube, zero at f = 0."""
    full, half = np.fft.fftfreq(grid), np.fft.rfftfreq(grid)
    frequency = np.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2)
    frequency[0, 0, 0] = np.inf
    amplitude: Array = (1.0 / frequency**1.5).astype(np.float32)
    return amplitude


def _product(basis: Array, coefficients: Array) -> Array:
    """Tensor product of one basis on all three axes: (grid, K) and (K, K, K) to (grid, grid, grid)."""
    field = coefficients
    for _ in range(3):
        # Contract the first axis and append the grid axis: after three turns the axes are in order again.
        field = np.tensordot(field, basis, axes=(0, 1))
    return np.ascontiguousarray(field, dtype=np.float32)


def spline_field(rng: np.random.Generator, grid: int, *, controls: int = 6) -> Array:
    """A smooth field from normal B-spline coefficients of sd 1, shape (grid, grid, grid)."""
    coefficients = rng.standard_normal((controls, controls, controls), dtype=np.float32)
    return _product(_spline_basis(grid, controls), coefficients)


def polynomial_field(rng: np.random.Generator, grid: int, *, order: int = 3) -> Array:
    """A polynomial of total degree 1..order without a constant term, shape (grid, grid, grid)."""
    coefficients = rng.standard_normal((order + 1,) * 3, dtype=np.float32)
    degree = np.indices(coefficients.shape).sum(axis=0)
    coefficients[(degree > order) | (degree == 0)] = 0.0
    return _product(_legendre_basis(grid, order), coefficients)


def pink_noise(rng: np.random.Generator, grid: int) -> Array:
    """1/f-like texture with mean 0 and sd 1, shape (grid, grid, grid)."""
    spectrum = np.fft.rfftn(rng.standard_normal((grid,) * 3, dtype=np.float32)) * _pink_filter(grid)
    texture = np.fft.irfftn(spectrum, s=(grid,) * 3, axes=(0, 1, 2)).astype(np.float32)
    scaled: Array = texture / texture.std()
    return scaled


def soft_step(distance: Array, width: float) -> Array:
    """Smooth membership: 1 where ``distance`` is far above 0, 0 far below, over about 4 ``width``."""
    membership: Array = (1.0 / (1.0 + np.exp(np.clip(-distance / width, -30.0, 30.0)))).astype(np.float32)
    return membership
