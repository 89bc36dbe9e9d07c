"""Independent random streams by purpose, site and patient, so that no draw can disturb another."""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; a knob that draws from one never shifts the numbers of another."""

    LABELS = 0
    CLINICAL = 1
    REGISTRY = 2
    ANATOMY = 3
    SCANNER = 4
    SPLIT = 5


def stream(seed: int, site: str, purpose: Purpose, patient: int = 0) -> np.random.Generator:
    """A generator that depends on nothing but its four arguments (not on the sites' order, nor on any size)."""
    entropy = (seed, zlib.crc32(site.encode()), int(purpose), patient)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
