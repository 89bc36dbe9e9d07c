"""FedAvg (McMahan et al., AISTATS 2017, algorithm 1): the weighted mean of the sites' models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedstudy.aggregator.algorithms.base import Algorithm, Update, trained
from fedstudy.aggregator.blocks import DTYPES, blocks, layout, read_block, runs, spans, write_blocks
from fedstudy.plan import Encoding, Model, PositiveFloat
from fedstudy.tensors import Array, Blob, TensorFile


class FedAvg(Algorithm):
    """w ← w + η_s · (Σ p_k w_k − w); with η_s = 1 the plain mean Σ p_k w_k."""

    name: ClassVar[str] = "FedAvg"

    class Parameters(Model):
        """Parameters of FedAvg."""

        server_learning_rate: PositiveFloat = Field(
            default=1.0, description="η_s, the step towards the mean."
        )

    parameters: Parameters

    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """The weighted mean, added up in float64 in the order of the updates."""
        return weighted_mean(model, updates, out, self.parameters.server_learning_rate)


def weighted_mean(
    model: TensorFile, updates: Sequence[Update], out: Path, server_learning_rate: float
) -> Blob:
    """Write w + η_s·(Σ p_k w_k − w) to `out`; constants and metadata are those of the model.

    Raises:
        NoSpaceError: the disk is full.
    """
    names, together = trained(model), _together(model, updates)
    largest = max((count for size in together.values() for _, count in spans(size)), default=0)
    read, terms, means = np.empty(largest, np.float32), np.empty(largest), np.empty(largest)

    def fill(name: str) -> Iterator[Array]:
        if name not in names:
            yield from blocks(model, name)
            return
        dtype = DTYPES[model.tensors[name].dtype]
        for start, count in spans(together.get(name, 0)):
            mean, term = means[:count], terms[:count]
            mean.fill(0)
            for update in updates:
                np.copyto(term, update.block(name, start, count, read))
                term *= update.weight
                mean += term
            if server_learning_rate != 1.0:
                w = read_block(model, name, start, count).astype(np.float64)
                mean = w + server_learning_rate * (mean - w)
            yield mean.astype(dtype)

    return write_blocks(out, layout(model), fill, model.metadata)


def _together(model: TensorFile, updates: Sequence[Update]) -> dict[str, int]:
    """Which trained tensors are folded as one, where the updates are read as they are written."""
    names = trained(model)
    if any(update.encoding is not Encoding.FLOAT32 for update in updates):
        return {name: math.prod(shape) for name, (_, shape) in names.items()}
    constants = [name for name in model.tensors if name not in names]
    return runs([model, *(update.tensors for update in updates)], names, between=constants)
