"""The aggregator's half of an algorithm: who trains when, with what parameters, and how updates become a model."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ValidationError

from fedstudy.aggregator.blocks import read_block
from fedstudy.encodings import decode
from fedstudy.errors import PlanError
from fedstudy.plan import Encoding, Model, Parameter, StudyPlan
from fedstudy.tensors import CONSTANT_PREFIX, Array, Blob, TensorFile


@dataclass(frozen=True)
class Share:
    """What a site has: training cases n_k, and events (deaths) among them."""

    site: str
    samples: int
    events: int


@dataclass(frozen=True)
class TrainStage:
    """Sites that train at the same time from the same model, with each one's parameters."""

    sites: tuple[str, ...]
    parameters: Mapping[str, Mapping[str, Parameter]]


@dataclass(frozen=True)
class Update:
    """A site's verified answer. `weight` is its p_k: the weights of a stage's updates add up to 1.

    `tensors` is the file as it came, in the plan's encoding. Where it is a change, `base` is the model that it changes.
    A fold reads `block`, which gives what the site trained whatever the encoding.
    """

    site: str
    tensors: TensorFile
    weight: float
    contribution: Share
    encoding: Encoding = Encoding.FLOAT32
    base: TensorFile | None = None

    def block(self, name: str, start: int, count: int, room: Array | None = None) -> Array:
        """Elements [start, start+count) of the site's flattened tensor w_k; float64 where w_k = w + change, else float32.

        They may be in `room`, an array of float32.
        """
        if self.encoding is Encoding.FLOAT32:
            sent = read_block(self.tensors, name, start, count, room)
        else:
            sent = decode(partial(read_block, self.tensors), name, start, count, self.encoding)
        if self.base is None:
            return sent
        return np.add(read_block(self.base, name, start, count), sent, dtype=np.float64)


class Algorithm(ABC):
    """Base of the aggregator's halves; found by name through the entry points `fedstudy.algorithms`."""

    name: ClassVar[str]
    updates_are_models: ClassVar[bool] = True
    """Whether an update is a model w_k: then ‖w_k − w‖ is bounded, and it travels in the plan's encoding."""

    class Parameters(Model):
        """The parameters that a plan may give; none by default."""

    parameters: Model

    def __init__(self, plan: StudyPlan) -> None:
        """Check the plan's parameters.

        Raises:
            PlanError: a parameter is unknown or out of range, or the algorithm does not fit the task.
        """
        self.plan = plan
        try:
            self.parameters = self.Parameters.model_validate(dict(plan.federation.algorithm.parameters))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in ("federation.algorithm.parameters", *first["loc"]))
            known = ", ".join(info.alias or key for key, info in self.Parameters.model_fields.items())
            raise PlanError(
                f"{field}: {first['msg']}.", f"Parameters of {self.name}: {known or 'none'}."
            ) from None

    def stages(self, round: int, shares: Sequence[Share]) -> list[TrainStage]:
        """The round's train stages, in order. Star: one stage with all sites; ring: one for each site."""
        sites = tuple(share.site for share in shares)
        return [TrainStage(sites, {site: self.site_parameters(round, site) for site in sites})]

    def site_parameters(self, round: int, site: str) -> dict[str, Parameter]:
        """What a site is told for a round: length, learning rate and seed. Override to add to it."""
        return training_parameters(self.plan, round, site)

    def expected(self, model: TensorFile) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Names → dtype and shape of an update: here all of the model that is not constant."""
        return trained(model)

    @abstractmethod
    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """Write the next model to `out`. Updates come in canonical site order, at least one.

        Raises:
            NoSpaceError: the disk is full.
        """


def trained(model: TensorFile) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names → dtype and shape of the tensors that training changes."""
    return {
        name: (info.dtype, info.shape)
        for name, info in model.tensors.items()
        if not name.startswith(CONSTANT_PREFIX)
    }


def training_parameters(plan: StudyPlan, round: int, site: str) -> dict[str, Parameter]:
    """`epochs` or `steps`, `learning_rate` (decayed: η·d^(t−1)) and `seed` of a site in round t ≥ 1."""
    training = plan.training
    length: dict[str, Parameter] = (
        {"epochs": training.local_epochs}
        if training.local_epochs is not None
        else {"steps": int(training.local_steps or 0)}
    )
    rate = training.optimizer.learning_rate * training.optimizer.decay ** (round - 1)
    return {**length, "learning_rate": rate, "seed": derived_seed(training.seed, round, site)}


def derived_seed(seed: int, round: int, name: str) -> int:
    """A seed in 0..2³¹−1 that follows from the plan's seed, the round and a name, on any machine and for ever."""
    digest = hashlib.sha256(f"{seed}/{round}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Optimiser steps in one pass over n cases: ⌈n / batch⌉, at least 1; batch size 0 means all cases in one step."""
    return max(1, math.ceil(samples / batch_size)) if batch_size else 1
