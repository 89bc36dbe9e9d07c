"""Train, validation and test patients of a site, stratified by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")
_SHARES = {"validation": 0.15, "test": 0.25}


def stratified_split(rng: np.random.Generator, classes: Sequence[str]) -> list[str]:
    """60/15/25 within each class; a class of three or more patients has at least one in every split."""
    split = ["train"] * len(classes)
    for label in sorted(set(classes)):
        members = [index for index, value in enumerate(classes) if value == label]
        rng.shuffle(members)
        least = 1 if len(members) >= 3 else 0
        tests = max(least, round(_SHARES["test"] * len(members)))
        validations = max(least, round(_SHARES["validation"] * len(members)))
        for index in members[:tests]:
            split[index] = "test"
        for index in members[tests : tests + validations]:
            split[index] = "validation"
    return split


def split_counts(splits: Sequence[str]) -> dict[str, int]:
    """How many patients each split has."""
    return {name: sum(value == name for value in splits) for name in SPLITS}
