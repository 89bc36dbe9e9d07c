"""Cyclical weight transfer (Chang et al., JAMIA 2018): the model travels from site to site in a ring.

Proportional iterations are the cure for unequal sites of Balachandar et al., JAMIA 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedstudy.aggregator.algorithms.base import (
    Algorithm,
    Share,
    TrainStage,
    Update,
    derived_seed,
    steps_per_epoch,
    trained,
)
from fedstudy.aggregator.blocks import blocks, layout, spans, write_blocks
from fedstudy.plan import Model, Parameter
from fedstudy.tensors import Array, Blob, TensorFile


class Order(StrEnum):
    """In which order the model visits the sites."""

    FIXED = "Fixed"
    SHUFFLED = "Shuffled"


class Iterations(StrEnum):
    """How long a site trains in a visit."""

    EPOCHS = "Epochs"
    PROPORTIONAL = "Proportional"
    EQUAL = "Equal"


class CyclicalWeightTransfer(Algorithm):
    """for k in order(c): w ← LocalTrain(w, D_k)."""

    name: ClassVar[str] = "CyclicalWeightTransfer"

    class Parameters(Model):
        """Parameters of cyclical weight transfer."""

        order: Order = Field(
            default=Order.FIXED, description="Fixed: by name. Shuffled: anew in every cycle, from the seed."
        )
        iterations: Iterations = Field(
            default=Iterations.EPOCHS,
            description="Epochs: localEpochs or localSteps as given. Proportional: steps in proportion to the site's cases. Equal: the same number of steps at each site.",
        )

    parameters: Parameters

    def stages(self, round: int, shares: Sequence[Share]) -> list[TrainStage]:
        """One stage for each site, in the order of this cycle."""
        order, iterations = self.parameters.order, self.parameters.iterations
        ring = list(shares)
        if order is Order.SHUFFLED:
            generator = np.random.Generator(
                np.random.PCG64(derived_seed(self.plan.training.seed, round, "order"))
            )
            ring = [ring[int(i)] for i in generator.permutation(len(ring))]
        return [
            TrainStage(
                (s.site,), {s.site: self.site_parameters(round, s.site) | self._length(s, shares, iterations)}
            )
            for s in ring
        ]

    def site_parameters(self, round: int, site: str) -> dict[str, Parameter]:
        """FedAvg's parameters; the length is added by `stages`."""
        parameters = super().site_parameters(round, site)
        if self.parameters.iterations is not Iterations.EPOCHS:
            parameters.pop("epochs", None)
        return parameters

    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """w ← w_k: the last visited site's model, with the constants of the model."""
        names, last = trained(model), updates[-1]

        def fill(name: str) -> Iterator[Array]:
            if name not in names:
                yield from blocks(model, name)
                return
            for start, count in spans(math.prod(model.tensors[name].shape)):
                yield last.block(name, start, count)

        return write_blocks(out, layout(model), fill, model.metadata)

    def _length(self, share: Share, shares: Sequence[Share], iterations: Iterations) -> dict[str, Parameter]:
        if iterations is Iterations.EPOCHS:
            return {}
        total = self.steps_per_cycle(shares)
        if iterations is Iterations.EQUAL:
            return {"steps": max(1, round(total / len(shares)))}
        n = sum(s.samples for s in shares)
        return {"steps": max(1, round(total * share.samples / n)) if n else 1}

    def steps_per_cycle(self, shares: Sequence[Share]) -> int:
        """T = Σ_j E·⌈n_j/B⌉, or K·τ where the plan gives localSteps τ."""
        training = self.plan.training
        if training.local_epochs is None:
            return len(shares) * int(training.local_steps or 0)
        return sum(training.local_epochs * steps_per_epoch(s.samples, training.batch_size) for s in shares)
