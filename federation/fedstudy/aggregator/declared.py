"""Names, dtypes and shapes that answers must have, which follow from the plan (and from the model's cut points) alone."""

from __future__ import annotations

import numpy as np

from fedstudy.errors import UpdateError
from fedstudy.measures import Statistics, classification_statistics, cohort_statistics, survival_statistics
from fedstudy.plan import LossName, StudyPlan, TaskType
from fedstudy.tensors import CONSTANT_PREFIX, Array, TensorFile

Declared = dict[str, tuple[str, tuple[int, ...]]]

CUTS = "constant.time.cuts"
_CODES = {np.dtype(np.float64): "F64", np.dtype(np.int64): "I64"}


def covariate_columns(plan: StudyPlan) -> int:
    """P: a number is one column, a categorical covariate with k categories is k−1."""
    return sum(len(c.categories) - 1 if c.categories else 1 for c in plan.task.covariates)


def declared_cohort(plan: StudyPlan) -> Declared:
    """What the statistics of the prologue consist of."""
    classes = len(plan.task.target.classes or [])
    labels = np.zeros(0, dtype=np.int64) if classes else None
    return _layout(cohort_statistics(np.zeros((0, covariate_columns(plan))), labels, classes))


def declared_evaluation(plan: StudyPlan, model: TensorFile) -> Declared:
    """What the statistics of an evaluation consist of."""
    if plan.task.type is TaskType.CLASSIFICATION:
        classes = len(plan.task.target.classes or [])
        return _layout(classification_statistics(np.zeros((0, classes)), np.zeros(0, dtype=np.int64)))
    nothing = np.zeros(0)
    cuts = time_cuts(plan, model)
    hazards = None if cuts is None else np.zeros((0, cuts.size + 1))
    return _layout(survival_statistics(nothing, nothing, nothing, hazards=hazards, cuts=cuts))


def declared_model(model: TensorFile, plan: StudyPlan) -> None:
    """Check an initial model: float32 throughout, with the constants that the task needs and something to train.

    Raises:
        UpdateError: what is missing or of another shape.
    """
    for name, info in model.tensors.items():
        if info.dtype != "F32":
            raise UpdateError(f"Tensor {name!r} of the initial model is {info.dtype}, expected F32.")
    if all(name.startswith(CONSTANT_PREFIX) for name in model):
        raise UpdateError("The initial model has nothing to train.")
    shapes = {name: model.tensors[name].shape for name in model}
    wanted: dict[str, tuple[int, ...]] = {}
    if columns := covariate_columns(plan):
        wanted |= {"constant.covariate.mean": (columns,), "constant.covariate.scale": (columns,)}
    if plan.task.effective_loss is LossName.DISCRETE_HAZARD:
        wanted[CUTS] = (plan.task.intervals - 1,)
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            found = list(shapes[name]) if name in shapes else "missing"
            raise UpdateError(f"Tensor {name!r} of the initial model is {found}, expected {list(shape)}.")


def time_cuts(plan: StudyPlan, model: TensorFile) -> Array | None:
    """[J-1] cut points (float64 of the model's float32) of a discrete-time model; None for other tasks."""
    if plan.task.effective_loss is not LossName.DISCRETE_HAZARD:
        return None
    return np.asarray(model.array(CUTS), dtype=np.float64)


def _layout(statistics: Statistics) -> Declared:
    return {name: (_CODES[array.dtype], array.shape) for name, array in statistics.items()}
