"""Folds that need all updates of a number at once: K blocks in memory at a time, not K models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fedstudy.aggregator.algorithms.base import Update, trained
from fedstudy.aggregator.blocks import blocks, layout, spans, write_blocks
from fedstudy.tensors import Array, Blob, TensorFile

WHOLE_BLOCKS = 16
"""So many sites' blocks are held at their full size, 8 MiB of float64; with more sites the blocks shrink, and the sum stays."""


def fold_sorted(
    model: TensorFile, updates: Sequence[Update], out: Path, centre: Callable[[Array], Array]
) -> Blob:
    """Write a model each number of which is a function of the K sites' numbers, sorted.

    Sorting makes the order of the updates irrelevant to the bits. Blocks shrink as
    sites are added, so memory depends neither on the model nor, above 16, on the sites.

    Args:
        centre: [K, n] float64, ascending along the first axis → [n].

    Raises:
        NoSpaceError: the disk is full.
    """
    names, at_once = trained(model), -(-len(updates) // WHOLE_BLOCKS)

    def fill(name: str) -> Iterator[Array]:
        if name not in names:
            yield from blocks(model, name)
            return
        elements = math.prod(model.tensors[name].shape)
        for start, count in spans(elements, at_once):
            values = np.empty((len(updates), count), dtype=np.float64)
            for k, update in enumerate(updates):
                values[k] = update.block(name, start, count)
            values += 0.0  # -0.0 becomes 0.0: they compare equal, so sorting would leave them in the order of arrival
            values.sort(axis=0)
            yield centre(values)

    return write_blocks(out, layout(model), fill, model.metadata)
