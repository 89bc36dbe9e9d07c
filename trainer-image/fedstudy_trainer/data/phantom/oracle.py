"""What the generator knows of a tumour, as a radiologist's perfect measurements: the ceiling for hand-made features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .clinical import Patient

ORACLE_FEATURES = (
    "et_fraction",
    "log_whole_cc",
    "core_fraction",
    "necrosis_fraction",
    "compactness",
    "t1_core",
    "t1gd_core",
    "t2_core",
    "flair_core",
    "mismatch",
    "frontal",
    "temporal",
    "age",
)
"""Names of the columns of oracle_features: imaging truth, and age, as the TCGA benchmark has it."""


def oracle_features(patients: Sequence[Patient]) -> NDArray[np.float64]:
    """True features of each patient, shape (patients, len(ORACLE_FEATURES)); signals with white matter 1."""
    return np.array([_row(patient) for patient in patients], dtype=np.float64).reshape(
        -1, len(ORACLE_FEATURES)
    )


def _row(patient: Patient) -> tuple[float, ...]:
    return (
        patient.volumes.et_cc / patient.volumes.core_cc,
        math.log(patient.volumes.whole_cc),
        patient.volumes.core_cc / patient.volumes.whole_cc,
        patient.volumes.necrosis_cc / patient.volumes.core_cc,
        patient.look.compactness,
        patient.look.t1_core,
        patient.look.t1gd_core,
        patient.look.t2_core,
        patient.look.flair_core,
        float(patient.look.mismatch),
        float(patient.look.lobe == "frontal"),
        float(patient.look.lobe == "temporal"),
        patient.age,
    )
