"""The work of a round, the same for every system: 60 float32 tensors, a constant added by each site, a weighted mean.

Sizes, names, initial values and marks are those of the harness that measures the rivals, so that one driver checks all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIZES = {"1MB": 10**6, "10MB": 10**7, "100MB": 10**8, "1GB": 10**9, "8GB": 8 * 10**9}
"""Bytes of float32 parameters."""

_PROFILE = [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]
_SMALL = 64
_BLOCK = 1 << 20


def layers(size: int) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of 60 tensors that hold exactly `size` bytes of float32."""
    left = size // 4 - 2 * _SMALL * len(_PROFILE)
    unit = left // sum(_PROFILE)
    found: list[tuple[str, tuple[int, ...]]] = []
    for i, part in enumerate(_PROFILE):
        shape: tuple[int, ...] = (part * unit // _SMALL, _SMALL) if i + 1 < len(_PROFILE) else (left,)
        left -= math.prod(shape)
        found += [(f"b{i:02d}.weight", shape), (f"b{i:02d}.bias", (_SMALL,)), (f"b{i:02d}.norm", (_SMALL,))]
    return found


def starts(size: int) -> dict[str, int]:
    """Where each tensor begins among the flat parameters."""
    at, found = 0, {}
    for name, shape in layers(size):
        found[name] = at
        at += math.prod(shape)
    return found


def ramp(start: int, count: int) -> Floats:
    """Initial values of the flat parameters [start, start+count)."""
    return (np.arange(start, start + count, dtype=np.int64) % 4093).astype(np.float32) / np.float32(64)


def initial(start: int, count: int) -> Iterator[Floats]:
    """One tensor's initial values, block by block."""
    for at in range(start, start + count, _BLOCK):
        yield ramp(at, min(_BLOCK, start + count - at))


def samples(site: int) -> int:
    """How many training cases site `site` says it used."""
    return site + 1


def constant(site: int) -> np.float32:
    """What the training of a site adds to every parameter."""
    return np.float32(0.5 * (site + 1))


def step(sites: int) -> float:
    """What a round adds to every parameter of the mean."""
    return sum(samples(c) * float(constant(c)) for c in range(sites)) / sum(samples(c) for c in range(sites))


def mark(folder: Path, round: int) -> None:
    """Say that a round's model is there; 0: that round 1 begins."""
    with (folder / "marks.jsonl").open("a") as file:
        file.write(json.dumps({"round": round, "t": time.monotonic()}) + "\n")


def worst_error(values: Floats, start: int, sites: int, rounds: int) -> float:
    """Largest difference of some final parameters from what they must be, as a share of what is allowed (2e-5 of the largest)."""
    moved, worst = rounds * step(sites), 0.0
    for at in range(0, values.size, _BLOCK):
        piece = values[at : at + _BLOCK]
        worst = max(worst, float(np.abs(piece - (ramp(start + at, piece.size) + np.float32(moved))).max()))
    return worst / (2e-5 * (64 + moved))
