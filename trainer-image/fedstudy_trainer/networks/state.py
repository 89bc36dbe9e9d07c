"""A network's state as named numpy arrays: what Initialise makes, a round begins with, and a site sends back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedstudy.errors import UpdateError
from fedstudy.measures.cohort import class_weights, event_time_cuts, standardisation
from fedstudy.plan import ClassWeighting, StudyPlan
from fedstudy.tensors import CONSTANT_PREFIX
from fedstudy_trainer.networks.base import Shape, StudyNetwork, shape_of
from fedstudy_trainer.networks.registry import build

State = dict[str, NDArray[Any]]


def initial_state(plan: StudyPlan, statistics: Mapping[str, NDArray[Any]], seed: int | None = None) -> State:
    """The first model: constants from the cohort's statistics, weights from the seed; float32, the same bits every time.

    Args:
        statistics: the sum of `fedstudy.measures.cohort.cohort_statistics` over the sites.
        seed: of the weights; the plan's when None.

    Raises:
        PlanError: the network does not fit the plan.
        DataError: a discrete-time hazard is asked for, and no site has an event.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.training.seed if seed is None else seed)
        network = build(plan)
    return weights(network) | constants(plan, statistics)


def constants(plan: StudyPlan, statistics: Mapping[str, NDArray[Any]]) -> State:
    """The tensors `constant.…` of a plan, float32, from the summed cohort statistics."""
    shape = shape_of(plan)
    result: State = {}
    if shape.covariates:
        found = standardisation(statistics, [str(column) for column in range(shape.covariates)])
        result["constant.covariate.mean"] = found.mean
        result["constant.covariate.scale"] = found.scale
    if shape.classes:
        result["constant.class.weight"] = _class_weight(plan, shape, statistics)
    if shape.cuts:
        result["constant.time.cuts"] = event_time_cuts(statistics["time.events"], shape.cuts + 1)
    return {name: array.astype(np.float32) for name, array in result.items()}


def _class_weight(plan: StudyPlan, shape: Shape, statistics: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if plan.task.class_weighting is ClassWeighting.GLOBAL_BALANCE:
        return class_weights(statistics["count.class"])
    return np.ones(shape.classes)


def weights(network: StudyNetwork) -> State:
    """Copies of all tensors whose name does not begin with `constant.`: what a site sends back."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in network.state_dict().items()
        if not name.startswith(CONSTANT_PREFIX)
    }


def load_state(network: StudyNetwork, state: Mapping[str, NDArray[Any]]) -> None:
    """Put a model's tensors into a network.

    Raises:
        UpdateError: names, shapes or dtypes are not the network's, or a value is not finite.
    """
    own = network.state_dict()
    if own.keys() != state.keys():
        differing = ", ".join(sorted(own.keys() ^ state.keys())[:5])
        raise UpdateError(
            f"The model's tensors are not those of the plan's network; for example {differing}.",
            "Let hub and site run the same version of fedstudy.",
        )
    for name, tensor in own.items():
        array = state[name]
        if tuple(tensor.shape) != array.shape or array.dtype != np.float32:
            raise UpdateError(
                f"Tensor {name} of the model is {array.dtype} {list(array.shape)}, expected float32 {list(tensor.shape)}.",
                "Let hub and site run the same version of fedstudy.",
            )
        if not np.isfinite(array).all():
            raise UpdateError(f"Tensor {name} of the model holds values that are not finite.")
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
