"""Disclosure control: an answer leaves the hospital only with tensors that its instruction declares, and finite ones.

The declaration of a statistic is what the function of `fedstudy.measures` that makes it gives for no patients: the same
names, dtypes and shapes. A trained model may hold the names, dtypes and shapes of the model that was sent, without its
constants, in the plan's encoding. An initial model's names are the network's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstudy import encodings, tensors
from fedstudy.errors import UpdateError
from fedstudy.measures import classification_statistics, cohort_statistics, survival_statistics
from fedstudy.plan import LossName, StudyPlan, TaskType
from fedstudy.tensors import CONSTANT_PREFIX, TensorFile
from fedstudy.wire import federation_pb2 as pb

Declared = dict[str, tuple[str, tuple[int, ...]]]
"""What may leave: name → dtype code and shape."""

CUTS = CONSTANT_PREFIX + "time.cuts"


def check(path: Path, instruction: pb.Instruction, plan: StudyPlan, model: Path | None) -> None:
    """Refuse an answer that holds what its instruction does not declare, or a value that is not finite.

    Args:
        path: the answer, a tensor file.
        model: the instruction's input `model`; needed for TRAIN and EVALUATE.

    Raises:
        UpdateError: naming the first tensor at fault. The message holds no value of any tensor.
    """
    with TensorFile(path) as answer:
        _check_metadata(answer, instruction)
        expected = declared(instruction.kind, plan, model)
        if expected is not None:
            _check_names(answer, expected, pb.Kind.Name(instruction.kind))
        for name in answer:
            _check_finite(name, answer)


def declared(kind: int, plan: StudyPlan, model: Path | None) -> Declared | None:
    """The tensors that an answer of a kind may hold; None: any (an initial model).

    Raises:
        UpdateError: the kind takes no answer, or the model that it needs is missing.
    """
    if kind == pb.INITIALISE:
        return None
    if kind == pb.STATISTICS:
        return _as_declared(_no_cohort(plan))
    if kind not in (pb.TRAIN, pb.EVALUATE):
        raise UpdateError(f"An instruction of kind {pb.Kind.Name(kind)} takes no answer.")
    if model is None:
        raise UpdateError(f"An instruction of kind {pb.Kind.Name(kind)} came without a model.")
    if kind == pb.TRAIN:
        if plan.federation.algorithm.name == "NewtonRaphson":
            return _newton_terms(model)
        return encodings.declared(_trainable(model), plan.federation.transfer)
    return _as_declared(_no_evaluation(plan, model))


def _trainable(model: Path) -> Declared:
    with TensorFile(model) as sent:
        return {
            name: (info.dtype, info.shape)
            for name, info in sent.tensors.items()
            if not name.startswith(CONSTANT_PREFIX)
        }


def _newton_terms(model: Path) -> Declared:
    """Derivatives for all trained numbers of the model together."""
    numbers = sum(math.prod(shape) for _, shape in _trainable(model).values())
    return {
        "gradient": ("F64", (numbers,)),
        "information": ("F64", (numbers, numbers)),
        "loglik": ("F64", ()),
    }


def _no_cohort(plan: StudyPlan) -> Mapping[str, NDArray[Any]]:
    columns = sum(len(c.categories) - 1 if c.categories else 1 for c in plan.task.covariates)
    none = np.zeros(0)
    if plan.task.type is TaskType.SURVIVAL:
        return cohort_statistics(np.zeros((0, columns)), None, 0, none, none)
    classes = len(plan.task.target.classes or [])
    return cohort_statistics(np.zeros((0, columns)), np.zeros(0, dtype=np.int64), classes)


def _no_evaluation(plan: StudyPlan, model: Path) -> Mapping[str, NDArray[Any]]:
    none = np.zeros(0)
    if plan.task.type is TaskType.CLASSIFICATION:
        return classification_statistics(np.zeros((0, plan.task.outputs)), np.zeros(0, dtype=np.int64))
    if plan.task.effective_loss is not LossName.DISCRETE_HAZARD:
        return survival_statistics(none, none, none)
    with TensorFile(model) as sent:
        if CUTS not in sent:
            raise UpdateError(
                f"The model that was sent has no tensor {CUTS!r}, which this study's evaluation needs."
            )
        cuts = np.asarray(sent.array(CUTS), dtype=np.float64).copy()
    return survival_statistics(none, none, none, hazards=np.zeros((0, cuts.size + 1)), cuts=cuts)


def _check_metadata(answer: TensorFile, instruction: pb.Instruction) -> None:
    """Metadata is free text, so it could carry anything: only what names the instruction may leave."""
    expected = {"instruction": instruction.id, "kind": pb.Kind.Name(instruction.kind)}
    for key, value in answer.metadata.items():
        if key not in expected or value.upper() != expected[key].upper():
            raise UpdateError(f"The answer's metadata {key!r} is not declared, or is not this instruction's.")


def _check_names(answer: TensorFile, expected: Declared, kind: str) -> None:
    for name, info in answer.tensors.items():
        if name not in expected:
            raise UpdateError(
                f"The answer holds the tensor {name!r}, which {kind} does not declare; it was not sent.",
                "Only declared tensors leave the hospital. The trainer does not fit this study, or was tampered with.",
            )
        dtype, shape = expected[name]
        if (info.dtype, info.shape) != (dtype, shape):
            raise UpdateError(
                f"The answer's tensor {name!r} is {info.dtype} {list(info.shape)}; {kind} declares {dtype} {list(shape)}."
                " It was not sent."
            )


def _check_finite(name: str, answer: TensorFile) -> None:
    info = answer.tensors[name]
    if info.dtype == "BF16":
        finite = bool(
            np.all((answer.array(name) & 0x7F80) != 0x7F80)
        )  # all exponent bits set: NaN or infinity
    else:
        finite = info.dtype[0] != "F" or bool(np.isfinite(answer.array(name)).all())
    if not finite:
        raise UpdateError(
            f"The answer's tensor {name!r} holds a value that is NaN or infinite; it was not sent.",
            "Training diverged: a smaller training.optimizer.learningRate or a training.gradientClip helps.",
        )


def _as_declared(statistics: Mapping[str, NDArray[Any]]) -> Declared:
    return {name: (_code(array), array.shape) for name, array in statistics.items()}


def _code(array: NDArray[Any]) -> str:
    header = tensors.encode({"x": array})
    return tensors.parse_header(header, len(header))[1]["x"].dtype
