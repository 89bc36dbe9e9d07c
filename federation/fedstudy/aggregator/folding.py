"""What a closed stage gives: summed statistics, a first or next model, or an evaluation. Runs in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedstudy import tensors
from fedstudy.aggregator.algorithms.base import Algorithm, Share, Update
from fedstudy.aggregator.blocks import blocks as read_blocks
from fedstudy.aggregator.blocks import layout, write_blocks
from fedstudy.aggregator.declared import time_cuts
from fedstudy.aggregator.evaluate import evaluation
from fedstudy.aggregator.state import Kind, Stage
from fedstudy.aggregator.store import AnswerRow
from fedstudy.aggregator.weights import site_weights
from fedstudy.errors import StudyFailedError
from fedstudy.measures import Statistics, total
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.results import Evaluation
from fedstudy.tensors import Blob, TensorFile
from fedstudy.wire.blobs import BlobStore


@dataclass(frozen=True)
class Product:
    """What became of a stage's answers; one of the three is set."""

    statistics: Blob | None = None
    model: Blob | None = None
    evaluation: Evaluation | None = None


def work_up(
    stage: Stage,
    answers: Sequence[AnswerRow],
    plan: StudyPlan,
    algorithm: Algorithm,
    blobs: BlobStore,
    scratch: Path,
) -> Product:
    """Fold a stage's answers, in canonical site order. The same answers give the same bits, always.

    Args:
        answers: the accepted ones, at least one.
        scratch: a folder on the blobs' disk for the file under way.

    Raises:
        FedstudyError: the answers do not fit together, or the disk is full.
    """
    rows = sorted(answers, key=lambda row: row.site)
    match stage.kind:
        case Kind.STATISTICS:
            summed = total(tensors.read(blobs.path(row.blob.digest)) for row in rows)
            _refuse_nothing_to_learn(plan, summed)
            return Product(statistics=blobs.add_tensors(summed, {"kind": "statistics"}))
        case Kind.INITIALISE:
            return Product(model=_first_model(stage, rows[0], plan, blobs, scratch))
        case Kind.TRAIN:
            return Product(model=_fold(stage, rows, plan, algorithm, blobs, scratch))
        case Kind.EVALUATE:
            return Product(evaluation=_evaluate(stage, rows, plan, blobs))
        case _:
            raise StudyFailedError(f"Nothing follows from {stage.id}.", "Please report this.")


def _refuse_nothing_to_learn(plan: StudyPlan, summed: Statistics) -> None:
    """A model of one class, or of no death, would be no model; better to say so before the first round."""
    where = "in the training cases of all sites together"
    if plan.task.type is TaskType.SURVIVAL and not summed["count.events"].sum():
        raise StudyFailedError(f"There is no event {where}.", "Check target.event, and the tables' splits.")
    if plan.task.type is TaskType.CLASSIFICATION and np.count_nonzero(summed["count.class"]) < 2:
        counts = zip(plan.task.target.classes or [], summed["count.class"], strict=True)
        found = ", ".join(f"{int(count)} {name}" for name, count in counts)
        raise StudyFailedError(
            f"There are not two classes {where}: {found}.", "Check target.label and classes."
        )


def _first_model(stage: Stage, row: AnswerRow, plan: StudyPlan, blobs: BlobStore, scratch: Path) -> Blob:
    """The initial model under the study's own metadata, so that its digest does not depend on who made it."""
    out = scratch / f"{stage.id}.safetensors"
    with TensorFile(blobs.path(row.blob.digest)) as made:
        metadata = {"format": "fedstudy", "study": plan.study, "plan": str(plan.digest())}
        blob = write_blocks(out, layout(made), lambda name: read_blocks(made, name), metadata)
    return blobs.add_file(out, blob)


def _fold(
    stage: Stage,
    rows: Sequence[AnswerRow],
    plan: StudyPlan,
    algorithm: Algorithm,
    blobs: BlobStore,
    scratch: Path,
) -> Blob:
    shares = [Share(row.site, row.samples, row.events) for row in rows]
    weights = site_weights(shares, plan.federation.weights, plan.federation.max_weight)
    out = scratch / f"{stage.id}.safetensors"
    with ExitStack() as files:
        model = files.enter_context(TensorFile(blobs.path(stage.inputs["model"].digest)))
        transfer = plan.federation.transfer
        base = model if transfer.delta else None
        updates = [
            Update(
                row.site,
                files.enter_context(TensorFile(blobs.path(row.blob.digest))),
                weight,
                share,
                transfer.encoding,
                base,
            )
            for row, weight, share in zip(rows, weights, shares, strict=True)
        ]
        blobs.lend(out, stage.inputs["model"].size)
        blob = algorithm.fold(model, updates, out)
    return blobs.add_file(out, blob)


def _evaluate(stage: Stage, rows: Sequence[AnswerRow], plan: StudyPlan, blobs: BlobStore) -> Evaluation:
    with TensorFile(blobs.path(stage.inputs["model"].digest)) as model:
        cuts = time_cuts(plan, model)
    by_site = {row.site: tensors.read(blobs.path(row.blob.digest)) for row in rows}
    return evaluation(plan, stage.split, stage.round, by_site, cuts)
