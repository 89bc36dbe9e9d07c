"""Newton-Raphson over sites: the site answers with the terms of its exact likelihood; the hub adds them and steps.

For a linear model of a Cox or two-class outcome, the pooled maximum-likelihood fit comes out in a handful of rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedstudy.errors import PlanError
from fedstudy.measures.cox import cox_terms
from fedstudy.measures.regression import logistic_terms
from fedstudy.measures.sums import Statistics
from fedstudy.plan import ClassWeighting, LossName, StudyPlan
from fedstudy_trainer.algorithms.base import LocalAlgorithm
from fedstudy_trainer.data.dataset import SplitData
from fedstudy_trainer.networks import StudyNetwork, shape_of
from fedstudy_trainer.tasks.classification import site_weights


class NewtonRaphson(LocalAlgorithm):
    """Answers gradient [D], information [D, D] and loglik [] of the log-likelihood at the shared model, in float64.

    β [D] is the model's trainable tensors, flattened one after the other, weights before biases: `weight` [1, 2P],
    then `bias` [1] (two classes only). A direction without information, such as the indicator of a covariate that is
    never missing, has zeros in gradient and information.
    """

    name: ClassVar[str] = "NewtonRaphson"

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        fits = plan.task.effective_loss is not LossName.DISCRETE_HAZARD and shape_of(plan).outputs == 1
        if plan.model.network.name != "Linear" or not fits:
            raise PlanError(
                "federation.algorithm.name: NewtonRaphson needs the network Linear with two classes, or with the loss StratifiedCox.",
                "Choose FedAvg, or change the plan's network, classes or loss.",
            )

    def answer(self, network: StudyNetwork, cases: SplitData) -> Mapping[str, NDArray[Any]]:
        """The terms at the network's weights over all training cases, in float64."""
        state = network.state_dict()
        design = _inputs(network, cases.covariates)
        weight = state["weight"].cpu().numpy().astype(np.float64)[0]
        if self.plan.task.effective_loss is LossName.STRATIFIED_COX:
            return _answer(cox_terms(design, cases.times, cases.events, weight))
        beta = np.concatenate([weight, state["bias"].cpu().numpy().astype(np.float64)])
        design = np.concatenate([design, np.ones((len(cases), 1))], axis=1)
        weights = state["constant.class.weight"]
        if self.plan.task.class_weighting is ClassWeighting.SITE_BALANCE:
            weights = site_weights(cases.labels, 2)
        labels = cases.labels.astype(np.float64)
        return _answer(logistic_terms(design, labels, beta, weights.cpu().double().numpy()[cases.labels]))


def _answer(terms: Statistics) -> dict[str, NDArray[Any]]:
    return {
        "gradient": terms["newton.gradient"],
        "information": terms["newton.information"],
        "loglik": terms["newton.loglik"].reshape(()),
    }


def _inputs(network: StudyNetwork, covariates: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, 2P] the inputs that the network makes of raw covariates, in float64."""
    with torch.no_grad():
        inputs = network.standardised(torch.from_numpy(covariates.astype(np.float64)))
    return np.asarray(inputs.cpu().numpy(), dtype=np.float64)
