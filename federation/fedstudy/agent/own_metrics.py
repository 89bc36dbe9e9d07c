"""What a hospital's own evaluation says, so that it sees its own metrics without asking the hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedstudy.agent.disclosure import CUTS
from fedstudy.measures import classification_metrics, survival_metrics
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.tensors import TensorFile


def own_metrics(answer: Path, plan: StudyPlan, model: Path) -> dict[str, float]:
    """Metrics of the site alone, by name, from its EVALUATE answer.

    Args:
        answer: passed by `disclosure.check`.
        model: the model that was evaluated; it has the cut points of a discrete-time model.
    """
    with TensorFile(answer) as file:
        statistics = file.arrays()
    if plan.task.type is TaskType.CLASSIFICATION:
        return classification_metrics(statistics)
    with TensorFile(model) as sent:
        cuts = np.asarray(sent.array(CUTS), dtype=np.float64).copy() if CUTS in sent else None
    return survival_metrics(statistics, cuts=cuts if "survival.predicted" in statistics else None)
