"""What a hospital's own evaluation says, so that it sees its own metrics without asking the hub."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fedstudy.agent.disclosure import CUTS
from fedstudy.errors import UpdateError
from fedstudy.measures import Statistics, classification_metrics, survival_metrics
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.tensors import TensorFile


def own_metrics(answer: Path, plan: StudyPlan, model: Path) -> dict[str, float]:
    """Metrics of the site alone, by name, from its EVALUATE answer; those that are not finite are left out.

    Args:
        answer: passed by `disclosure.check`, which lets pass what lacks tensors.
        model: the model that was evaluated; it has the cut points of a discrete-time model.

    Raises:
        UpdateError: no metrics come of the answer: it lacks a tensor, or its numbers contradict each other.
    """
    with TensorFile(answer) as file:
        statistics = file.arrays()
    try:
        with np.errstate(all="ignore"):
            metrics = _metrics(statistics, plan, model)
    except (
        LookupError,
        ValueError,
        ArithmeticError,
    ) as error:  # sums of wrong numbers may end in any of these
        raise UpdateError(
            f"No metrics come of the evaluation's statistics: {type(error).__name__}: {str(error)[:200]}.",
            "Run the same version of fedstudy in agent and trainer.",
        ) from None
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _metrics(statistics: Statistics, plan: StudyPlan, model: Path) -> dict[str, float]:
    if plan.task.type is TaskType.CLASSIFICATION:
        return classification_metrics(statistics)
    with TensorFile(model) as sent:
        cuts = np.asarray(sent.array(CUTS), dtype=np.float64).copy() if CUTS in sent else None
    return survival_metrics(statistics, cuts=cuts if "survival.predicted" in statistics else None)
