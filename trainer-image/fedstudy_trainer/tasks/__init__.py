"""Tasks: classification and survival, each a loss and a site's share of the evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedstudy.plan import ClassWeighting, LossName, StudyPlan
from fedstudy_trainer.networks import StudyNetwork
from fedstudy_trainer.tasks.base import Task
from fedstudy_trainer.tasks.classification import Classification, site_weights
from fedstudy_trainer.tasks.cox import StratifiedCox
from fedstudy_trainer.tasks.hazard import DiscreteHazard

__all__ = ["Task", "make_task"]


def make_task(
    plan: StudyPlan,
    network: StudyNetwork,
    training_labels: NDArray[np.int64],
    strata: NDArray[np.int64] | None = None,
) -> Task:
    """The plan's task.

    Args:
        network: with the study's constants loaded.
        training_labels: [n] of this site; only SiteBalance looks at them.
        strata: [n] stratum of each training case, where the data are of several sites (the pooled control).
    """
    loss = plan.task.effective_loss
    if loss is LossName.STRATIFIED_COX:
        return StratifiedCox(plan.federation.weights, strata)
    if loss is LossName.DISCRETE_HAZARD:
        return DiscreteHazard(network.get_buffer("constant.time.cuts").detach().clone())
    if plan.task.class_weighting is ClassWeighting.SITE_BALANCE:
        return Classification(site_weights(training_labels, network.shape.classes))
    return Classification(network.get_buffer("constant.class.weight").detach().clone())
