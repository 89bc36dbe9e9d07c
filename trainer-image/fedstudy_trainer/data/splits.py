"""Divides a site's cases into training, validation and test: the same way every time, and alike in every class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Split(StrEnum):
    """What a case is used for."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


SHARES = {Split.TRAINING: 0.60, Split.VALIDATION: 0.15, Split.TEST: 0.25}
"""Shares of the cases where the table does not say."""

_SPELLINGS = {
    "train": Split.TRAINING,
    "training": Split.TRAINING,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}


def parse_split(text: str) -> Split | None:
    """The split that a cell names, whatever its case; None if it names none."""
    return _SPELLINGS.get(text.strip().lower())


def stratified_split(participants: Sequence[str], strata: NDArray[np.int64], seed: int) -> list[Split]:
    """A split by stable hash, stratified: it depends on the participants' names, their strata and the seed only.

    Cases are ordered by stratum, then by the hash of their name, and each goes to the split that lacks most of its
    share so far. So the shares hold within one or two cases in every stratum and over all of them, and a site's only case is for training.

    Args:
        participants: n distinct names; their order does not matter.
        strata: [n] class or event of each case; negative (unknown) strata come last and do not disturb the others.
    """
    order = sorted(
        range(len(participants)),
        key=lambda i: (strata[i] < 0, int(strata[i]), _hash(participants[i], seed)),
    )
    given = dict.fromkeys(Split, 0)
    result = [Split.TRAINING] * len(participants)
    for position, index in enumerate(order, start=1):
        split = max(Split, key=lambda s: SHARES[s] * position - given[s])
        given[split] += 1
        result[index] = split
    return result


def _hash(participant: str, seed: int) -> bytes:
    return hashlib.sha256(f"fedstudy-split:{seed}:{participant}".encode()).digest()
