"""Whether an answer may count: its names, shapes and dtypes, that it is finite, and that it is not too far away."""

from __future__ import annotations

import math
import statistics as stdlib_statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fedstudy import encodings
from fedstudy.aggregator.algorithms.base import Algorithm, trained
from fedstudy.aggregator.blocks import BLOCK, DTYPES, Layout, blocks, layout, read_block, runs, spans
from fedstudy.aggregator.declared import (
    declared_cohort,
    declared_evaluation,
    declared_model,
    time_cuts,
)
from fedstudy.aggregator.evaluate import evaluation
from fedstudy.aggregator.state import Kind, Stage
from fedstudy.errors import UpdateError
from fedstudy.measures import Statistics
from fedstudy.plan import StudyPlan, Transfer
from fedstudy.tensors import MAX_HEADER, Array, TensorFile

FREE_UPDATES = 3
"""So many accepted updates pass before a norm is held against their median."""

NORM_FACTOR = 5.0

MOST_CASES = 1 << 40
LARGEST_SUM = 1e50


def verify(
    path: Path,
    stage: Stage,
    plan: StudyPlan,
    algorithm: Algorithm,
    model: Path | None,
    norms: Sequence[float],
) -> float | None:
    """Check an answer's file; returns the L2 norm of a model update, ‖w_k − w‖, where there is one.

    Args:
        path: the spooled answer, whose digest is already verified.
        stage: what was asked.
        model: the stage's input model, for train and evaluate.
        norms: of updates accepted before.

    Raises:
        UpdateError: what is wrong with it, with the tensor's name.
    """
    with TensorFile(path) as answer:
        match stage.kind:
            case Kind.STATISTICS:
                same_layout(answer, declared_cohort(plan))
            case Kind.INITIALISE:
                declared_model(answer, plan)
            case Kind.TRAIN if model is not None:
                with TensorFile(model) as w:
                    return _verify_update(answer, w, plan, algorithm, norms)
            case Kind.EVALUATE if model is not None:
                with TensorFile(model) as w:
                    same_layout(answer, declared_evaluation(plan, w))
                    cuts = time_cuts(plan, w)
            case _:
                raise UpdateError(f"Nobody asked for an answer to {stage.id}.")
        refuse_not_finite(answer)
        if stage.kind in (Kind.STATISTICS, Kind.EVALUATE):
            refuse_impossible(answer)
        if stage.kind is Kind.EVALUATE:
            _refuse_without_metrics(answer.arrays(), plan, stage, cuts)
    return None


_STATISTICS_LIMIT = 64 << 20
_MODEL_LIMIT = 64 << 30


def size_limit(stage: Stage, plan: StudyPlan, algorithm: Algorithm, model: Path | None) -> int:
    """Most bytes that a valid answer can have; nothing larger is spooled."""
    if stage.kind is Kind.INITIALISE:
        return _MODEL_LIMIT
    if stage.kind is not Kind.TRAIN or model is None:
        return _STATISTICS_LIMIT
    with TensorFile(model) as w:
        expected = encodings.declared(algorithm.expected(w), plan.federation.transfer)
    return (
        MAX_HEADER + 8 + sum(math.prod(shape) * DTYPES[dtype].itemsize for dtype, shape in expected.values())
    )


def same_layout(answer: TensorFile, expected: Layout) -> None:
    """Refuse other names, dtypes or shapes than expected.

    Raises:
        UpdateError: the first difference, by name.
    """
    found = layout(answer)
    for name in sorted(expected.keys() - found.keys()):
        raise UpdateError(f"Tensor {name!r} is missing.", _VERSIONS)
    for name in sorted(found.keys() - expected.keys()):
        raise UpdateError(f"Tensor {name!r} is not wanted.", _VERSIONS)
    for name, (dtype, shape) in expected.items():
        if found[name] != (dtype, tuple(shape)):
            raise UpdateError(
                f"Tensor {name!r} is {found[name][0]} {list(found[name][1])}, expected {dtype} {list(shape)}.",
                _VERSIONS,
            )


_VERSIONS = "Run the same plan and the same version of fedstudy at all sites."


def refuse_not_finite(answer: TensorFile) -> None:
    """Refuse NaN and infinity.

    Raises:
        UpdateError: the tensor that holds one.
    """
    for name in answer:
        for block in blocks(answer, name):
            if block.dtype.kind == "f" and not np.isfinite(block).all():
                raise UpdateError(
                    f"Tensor {name!r} holds NaN or infinity.",
                    "Lower the learning rate, or clip the gradient.",
                )


def refuse_impossible(answer: TensorFile) -> None:
    """Refuse counts and sums that no cohort has, which would overflow when they are added and multiplied.

    Raises:
        UpdateError: the tensor that holds one.
    """
    for name in answer:
        for block in blocks(answer, name):
            whole = block.dtype.kind in "iu"
            if whole and block.size and (block.min() < 0 or block.max() > MOST_CASES):
                raise UpdateError(f"Tensor {name!r} holds a count below 0 or above {MOST_CASES}.", _VERSIONS)
            if not whole and (np.abs(block) > LARGEST_SUM).any():
                raise UpdateError(f"Tensor {name!r} holds a sum beyond ±{LARGEST_SUM:g}.", _VERSIONS)


def _refuse_without_metrics(
    statistics: Statistics, plan: StudyPlan, stage: Stage, cuts: Array | None
) -> None:
    """Refuse statistics of which no finite metrics come: they would spoil the evaluation of all sites."""
    try:
        with np.errstate(all="ignore"):
            evaluation(plan, stage.split, stage.round, {"site": statistics}, cuts)
    except (
        ValueError,
        ArithmeticError,
        IndexError,
    ) as error:  # sums of wrong numbers may end in any of these
        raise UpdateError(
            f"The evaluation's statistics contradict themselves: {str(error)[:200]}.", _VERSIONS
        ) from None


def norm_bound(plan: StudyPlan, norms: Sequence[float]) -> float:
    """Largest accepted ‖w_k − w‖: the plan's, else 5 × the running median once 3 updates were accepted, else none."""
    if plan.federation.norm_bound is not None:
        return plan.federation.norm_bound
    if len(norms) < FREE_UPDATES:
        return math.inf
    median = stdlib_statistics.median(norms)
    return NORM_FACTOR * median if median > 0 else math.inf


def _verify_update(
    answer: TensorFile, w: TensorFile, plan: StudyPlan, algorithm: Algorithm, norms: Sequence[float]
) -> float | None:
    same_layout(answer, encodings.declared(algorithm.expected(w), plan.federation.transfer))
    if not algorithm.updates_are_models:
        refuse_not_finite(answer)
        return None
    norm, bound = difference_norm(answer, w, plan.federation.transfer), norm_bound(plan, norms)
    if norm > bound:
        raise UpdateError(
            f"The update changes the model by {norm:.4g} (L2 norm); at most {bound:.4g} is accepted.",
            "Check the site's data and learning rate, or set federation.normBound.",
        )
    return norm


def difference_norm(answer: TensorFile, w: TensorFile, transfer: Transfer) -> float:
    """‖w_k − w‖ over the tensors of an update, decoded; added up in float64 from blocks.

    Where the update travels as it is, a block's differences and squares are float32 (an error of about 1e-6 of the norm),
    which takes a quarter of the time; an update in which they overflow is done again in float64.

    Raises:
        UpdateError: a tensor holds NaN or infinity.
    """
    names = sorted(trained(w))
    if transfer == Transfer():
        rooms = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        square = sum(
            _quick_square(answer, w, name, start, count, rooms)
            for name, size in runs([answer, w], names).items()
            for start, count in spans(size)
        )
        if math.isfinite(square):
            return math.sqrt(square)
    square = 0.0
    for name in names:
        for start, count in spans(math.prod(w.tensors[name].shape)):
            square += _exact_square(answer, w, name, start, count, transfer)
    return math.sqrt(square)


def _quick_square(
    answer: TensorFile, w: TensorFile, name: str, start: int, count: int, rooms: tuple[Array, Array]
) -> float:
    """Σ(w_k − w)² of a block; finite only where all of w_k is."""
    change = read_block(answer, name, start, count, rooms[0])
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(change, read_block(w, name, start, count, rooms[1]), out=change)
        np.multiply(change, change, out=change)
        return float(change.sum())


def _exact_square(
    answer: TensorFile, w: TensorFile, name: str, start: int, count: int, transfer: Transfer
) -> float:
    sent = encodings.decode(partial(read_block, answer), name, start, count, transfer.encoding)
    before = read_block(w, name, start, count).astype(np.float64)
    change = sent if transfer.delta else sent - before
    # A change is finite and yet too large when the model that it gives is no float32.
    if not (np.abs(before + change) <= np.finfo(np.float32).max).all():
        raise UpdateError(
            f"Tensor {name!r} holds NaN or infinity.",
            "Lower the learning rate, or clip the gradient.",
        )
    return float(np.square(change, dtype=np.float64).sum())
