"""Where a tumour is and what it is made of: exact volumes, shapes from low-order spherical harmonics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import SEMI_AXES_MM, Head
from .clinical import Patient
from .fields import Array, soft_step

# Standard-head centres in mm (right, anterior, superior) for the right hemisphere.
_LOBE_CENTRE = {
    "frontal": (30.0, 40.0, 18.0),
    "temporal": (42.0, -2.0, -20.0),
    "parietal": (32.0, -34.0, 30.0),
    "occipital": (24.0, -60.0, 2.0),
    "deep": (27.0, 6.0, 2.0),
}
_CENTRE_SD_MM = 7.0


@dataclass(frozen=True)
class Tumour:
    """Soft shares (0..1) of each compartment in each brain voxel, all of shape (voxels,).

    ``whole`` contains ``core``, and ``core`` contains ``enhancing`` and ``necrosis``; ``rim`` is the thin outer
    layer of the core that stays bright on FLAIR in a T2-FLAIR mismatch; ``spots`` are calcifications.
    """

    whole: Array
    core: Array
    enhancing: Array
    necrosis: Array
    rim: Array
    spots: Array


def grow_tumour(rng: np.random.Generator, patient: Patient, head: Head) -> Tumour:
    """Place the patient's tumour in the head with the volumes that were drawn for it (to within a voxel).

    Each compartment is a sublevel set of a distance-like field in mm; its level is the order statistic of the field
    that gives the wanted volume, so clipping by skull and ventricles does not shrink it.
    """
    centre = _centre(rng, patient)
    offset = head.position - centre
    # Oedema fingers and lobulation fade as the tumour gets compact.
    loose = 1.0 - patient.look.compactness
    outer = _lobulated(rng, offset, amplitude=0.08 + 0.25 * loose)
    outer = outer + 40.0 * head.fluid + loose * (9.0 * head.texture[0] + 7.0 * head.grey)
    inner = _lobulated(
        rng, offset + rng.normal(0.0, 2.0, 3).astype(np.float32), amplitude=0.06 + 0.19 * loose
    )
    edge = float(np.hypot(patient.look.edge_mm, head.voxel_mm / 4))

    whole_level = _level(outer, patient.volumes.whole_cc, head)
    whole = soft_step(whole_level - outer, edge)
    inside = inner + 1e4 * (outer > whole_level)
    core_level = _level(inside, patient.volumes.core_cc, head)
    core = soft_step(core_level - inside, edge) * whole
    enhancing, necrosis = _enhancement(rng, patient, head, inner, inside, core_level)
    rim_width = 1.2 + head.voxel_mm / 4
    rim = np.exp(-(((inside - core_level + 1.0) / rim_width) ** 2)).astype(np.float32) * whole
    spots = soft_step(head.texture[1] - 1.3, 0.15) * core * np.float32(patient.look.calcified)
    return Tumour(whole, core, enhancing * core, necrosis * core, rim, spots)


def _centre(rng: np.random.Generator, patient: Patient) -> Array:
    """Standard-head centre in mm; oligodendrogliomas (mutC) lean on the cortex, none lies outside the brain."""
    centre = np.array(_LOBE_CENTRE[patient.look.lobe]) + rng.normal(0.0, _CENTRE_SD_MM, 3)
    centre[0] = max(centre[0], 8.0) * patient.look.side
    radius = float(np.sqrt(((centre / SEMI_AXES_MM) ** 2).sum()))
    wanted = np.clip(radius, 0.66, 0.78) if patient.subtype == "mutC" else min(radius, 0.74)
    placed: Array = (centre * wanted / radius).astype(np.float32)
    return placed


def _lobulated(rng: np.random.Generator, offset: Array, *, amplitude: float) -> Array:
    """Distance from the centre over 1 + amplitude * Y(direction): Y mixes spherical harmonics of degree 2, 3, 4.

    A zonal harmonic about a random pole is a spherical harmonic of its degree, and costs one Legendre polynomial.
    """
    distance = np.sqrt((offset**2).sum(axis=-1)) + np.float32(1e-3)
    poles = rng.standard_normal((3, 2, 3)).astype(np.float32)
    poles /= np.linalg.norm(poles, axis=-1, keepdims=True)
    weights = rng.normal(0.0, 1.0, (3, 2)).astype(np.float32)
    harmonics = np.zeros_like(distance)
    for degree, pole_pair, weight_pair in zip((2, 3, 4), poles, weights, strict=True):
        cosine = (offset @ pole_pair.T) / distance[:, None]
        harmonics += _legendre(degree, cosine) @ weight_pair
    field: Array = distance / (1.0 + amplitude * np.clip(harmonics, -2.0, 2.0))
    return field


def _legendre(degree: int, x: Array) -> Array:
    """Legendre polynomial of degree 2, 3 or 4."""
    square = x * x
    if degree == 2:
        values = 1.5 * square - 0.5
    elif degree == 3:
        values = x * (2.5 * square - 1.5)
    else:
        values = (35.0 * square - 30.0) * square / 8.0 + 0.375
    polynomial: Array = values.astype(np.float32, copy=False)
    return polynomial


def _level(field: Array, volume_cc: float, head: Head) -> float:
    """The level under which ``field`` takes up ``volume_cc``."""
    rank = int(np.clip(round(volume_cc / head.voxel_cc), 1, field.size - 1))
    return float(np.partition(field, rank)[rank])


def _enhancement(
    rng: np.random.Generator, patient: Patient, head: Head, inner: Array, inside: Array, core_level: float
) -> tuple[Array, Array]:
    """Memberships of enhancing tumour and necrosis within the core.

    With a ring, the shell of the core enhances around a necrotic middle; without, a nodule off the middle does.
    """
    width = 0.6 + head.voxel_mm / 5
    quiet_cc = max(patient.volumes.core_cc - patient.volumes.et_cc, 0.0)
    if patient.look.ring:
        shell_level = _level(inside, quiet_cc, head)
        enhancing = soft_step(inside - shell_level, width)
    else:
        radius_mm = (patient.volumes.core_cc * 1000.0 / 4.19) ** (1 / 3)
        middle = head.position[int(np.argmin(inside))] + rng.normal(0.0, 0.4 * radius_mm, 3).astype(
            np.float32
        )
        nodule = np.sqrt(((head.position - middle) ** 2).sum(axis=-1)) + 1e4 * (inside > core_level)
        enhancing = soft_step(_level(nodule, patient.volumes.et_cc, head) - nodule, width)
    # Volumes below half a voxel enhance not at all rather than one whole voxel.
    enhancing = enhancing * np.float32(min(1.0, patient.volumes.et_cc / head.voxel_cc))
    necrosis = soft_step(_level(inner, patient.volumes.necrosis_cc, head) - inner, width)
    share = np.float32(min(1.0, patient.volumes.necrosis_cc / head.voxel_cc))
    return enhancing, necrosis * share * (1.0 - enhancing)
