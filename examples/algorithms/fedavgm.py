"""FedAvgM, the aggregator's half: FedAvg with momentum at the server (Hsu, Qi and Brown 2019, arXiv:1909.06335)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedstudy.aggregator.algorithms import Algorithm, Update
from fedstudy.aggregator.algorithms.base import trained
from fedstudy.aggregator.blocks import DTYPES, blocks, layout, read_block, spans, write_blocks
from fedstudy.errors import StudyFailedError
from fedstudy.plan import Model, PositiveFloat
from fedstudy.tensors import Array, Blob, TensorFile

MOMENTUM = "fedavgm.momentum"
"""Key in a model's metadata: the digest of the momentum that led to it."""


class FedAvgM(Algorithm):
    """m ← β·m + Σ p_k (w_k − w);  w ← w + η_s·m. With β = 0 it is FedAvg.

    The momentum is the algorithm's own state. It is a tensor file beside the model, named by its content, and the model's
    metadata name it. So a fold that is done again after a crash finds what it found before, and gives the same bytes.
    """

    name: ClassVar[str] = "FedAvgM"

    class Parameters(Model):
        """Parameters of FedAvgM."""

        momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="β of the server.")
        server_learning_rate: PositiveFloat = Field(default=1.0, description="η_s of the server.")

    parameters: Parameters

    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """One step of the server, added up in float64 in the order of the updates."""
        before = self._momentum_of(model, out.parent)
        part = out.with_name(f"{out.name}.momentum")
        with TensorFile(before) if before else nullcontext() as m:
            digest = write_blocks(
                part, trained(model), lambda n: self._momentum(n, model, updates, m), {}
            ).digest
        after = part.replace(_path(out.parent, digest))
        metadata = {**model.metadata, MOMENTUM: digest}
        with TensorFile(after) as momentum:
            blob = write_blocks(out, layout(model), lambda n: self._step(n, model, momentum), metadata)
        for old in out.parent.glob("fedavgm-*.safetensors"):
            if old not in (before, after):  # `before` stays: this fold may have to be done again
                old.unlink()
        return blob

    def _momentum_of(self, model: TensorFile, folder: Path) -> Path | None:
        """The momentum that led to a model; None for the initial model, which has none yet."""
        digest = model.metadata.get(MOMENTUM)
        if digest is None:
            return None
        path = _path(folder, digest)
        if not path.is_file():
            raise StudyFailedError(
                f"The momentum {digest} of the model is not in {folder}.",
                "Restore the aggregator's folder, or start the study anew.",
            )
        return path

    def _momentum(
        self, name: str, model: TensorFile, updates: Sequence[Update], before: TensorFile | None
    ) -> Iterator[Array]:
        """β·m + Σ p_k (w_k − w), block by block."""
        for start, count in spans(math.prod(model.tensors[name].shape)):
            w = read_block(model, name, start, count).astype(np.float64)
            m = (
                np.zeros(count)
                if before is None
                else read_block(before, name, start, count).astype(np.float64)
            )
            m *= self.parameters.momentum
            for update in updates:
                m += update.weight * (update.block(name, start, count) - w)
            yield m.astype(DTYPES[model.tensors[name].dtype])

    def _step(self, name: str, model: TensorFile, momentum: TensorFile) -> Iterator[Array]:
        """w + η_s·m, block by block; constants stay as they are."""
        if name not in momentum:
            yield from blocks(model, name)
            return
        for start, count in spans(math.prod(model.tensors[name].shape)):
            w = read_block(model, name, start, count).astype(np.float64)
            m = read_block(momentum, name, start, count).astype(np.float64)
            yield (w + self.parameters.server_learning_rate * m).astype(DTYPES[model.tensors[name].dtype])


def _path(folder: Path, digest: str) -> Path:
    """Where a momentum lies. The digest is hashed again, so that no metadata can lead out of the folder."""
    return folder / f"fedavgm-{hashlib.sha256(digest.encode()).hexdigest()}.safetensors"
