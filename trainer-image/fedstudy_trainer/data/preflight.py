"""Checks a dataset against a plan before anything is trained, and says in plain words all that does not fit.

A fault keeps the site from taking part; a warning says what follows and lets it. Messages name rows, columns and files, so they
are for the hospital's eyes only. The profile's counts may be published: those below minCellCount are not given.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedstudy.plan import StudyPlan, TaskType
from fedstudy.wire.admin import DatasetProfile, ImageCount, LabelCount
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.findings import Findings, shown
from fedstudy_trainer.data.image_checks import Progress, check_files, check_presence, find_images
from fedstudy_trainer.data.images import ImagePaths
from fedstudy_trainer.data.splits import Split
from fedstudy_trainer.data.suppression import count_text, suppressed
from fedstudy_trainer.data.table import Cases, find_cases


def preflight(
    config: DatasetConfig, root: Path, plan: StudyPlan, progress: Progress | None = None
) -> DatasetProfile:
    """What a dataset has for a plan, and what does not fit. Reads every image whole.

    Args:
        config: the dataset's description.
        root: the dataset's folder; only read.
        plan: the study's plan.
        progress: is told after each image file.
    """
    findings = Findings()
    cases = find_cases(config, root, plan, findings)
    if cases is None:
        return _profile(plan, findings)
    usable = cases.has_target()
    without = int(np.count_nonzero(~usable))
    if without and not findings.faults:  # a cell that cannot be read is a fault already
        findings.warn(
            f"{count_text(without, config.min_cell_count)} of the table's cases lack the target and are left out."
        )
    paths: ImagePaths = ()
    if plan.task.images:
        paths = find_images(config, root, plan, cases, findings)
        usable &= check_presence(config, plan, cases, paths, findings)
        check_files(config, root, plan, cases, paths, findings, progress)
    if not findings.faults:  # what follows would only repeat them
        _check_cohort(plan, cases, usable, findings)
    return _profile(plan, findings, config, cases, usable, paths)


def _check_cohort(plan: StudyPlan, cases: Cases, usable: NDArray[np.bool_], findings: Findings) -> None:
    """Too few cases is a fault; a poor training set is not, but the hospital should know what follows."""
    training = usable & cases.in_split(Split.TRAINING)
    n = int(training.sum())
    if n < plan.cohort.min_cases:
        findings.fault(
            f"Expected at least {plan.cohort.min_cases} usable training cases (cohort.minCases), found fewer."
        )
        return
    if n == 1:
        findings.warn(
            "There is one usable training case: spread within the site is unknown, and the site counts very little."
        )
    _check_targets(plan, cases, training, findings)
    for name, column in zip(cases.covariate_names, cases.covariates[training].T, strict=True):
        known = column[np.isfinite(column)]
        if known.size == 0:
            findings.warn(
                f"Covariate {name} is missing in all training cases: it is imputed for all of them."
            )
        elif n > 1 and np.ptp(known) == 0:
            findings.warn(
                f"Covariate {name} has the same value in all training cases: its effect cannot be learnt here."
            )


def _check_targets(plan: StudyPlan, cases: Cases, training: NDArray[np.bool_], findings: Findings) -> None:
    if plan.task.type is TaskType.CLASSIFICATION:
        classes = np.unique(cases.labels[training])
        if len(classes) == 1:
            name = (plan.task.target.classes or [])[int(classes[0])]
            findings.warn(
                f"All training cases are {name}: the site takes part, but alone it cannot tell classes apart and has no AUC."
            )
    elif not cases.events[training].any():
        findings.warn(
            "No training case has an event: the site takes part in evaluation, but gives a Cox model nothing to learn and has no C-index."
        )


def _profile(
    plan: StudyPlan,
    findings: Findings,
    config: DatasetConfig | None = None,
    cases: Cases | None = None,
    usable: NDArray[np.bool_] | None = None,
    paths: ImagePaths = (),
) -> DatasetProfile:
    """The findings and, where there are cases, the counts of usable ones."""
    profile = DatasetProfile(
        plan_digest=plan.digest(),
        fits=not findings.faults,
        faults=shown(findings.faults),
        warnings=shown(findings.warnings),
    )
    if config is None or cases is None or usable is None:
        return profile
    least, n = config.min_cell_count, int(usable.sum())
    splits = suppressed([int((usable & cases.in_split(split)).sum()) for split in Split], least)
    counts: dict[str, object] = {
        "cases": n if n >= least else None,
        "training": splits[0],
        "validation": splits[1],
        "test": splits[2],
    }
    if plan.task.type is TaskType.CLASSIFICATION:
        classes = plan.task.target.classes or []
        of_class = suppressed([int((cases.labels[usable] == k).sum()) for k in range(len(classes))], least)
        counts["labels"] = [
            LabelCount(name=name, cases=count) for name, count in zip(classes, of_class, strict=True)
        ]
    else:
        dead = int((cases.events[usable] == 1).sum())
        counts["events"] = suppressed([dead, n - dead], least)[0]
    if paths:
        counts["images"] = [
            ImageCount(name=image, cases=_with_image(paths, channel, usable, least))
            for channel, image in enumerate(plan.task.images)
        ]
    return profile.model_copy(update=counts)


def _with_image(paths: ImagePaths, channel: int, usable: NDArray[np.bool_], least: int) -> int | None:
    """How many usable cases have an image; all having it says nothing of one patient."""
    n = int(usable.sum())
    have = sum(bool(keep) and row[channel] is not None for keep, row in zip(usable, paths, strict=True))
    return have if have == n >= least else suppressed([have, n - have], least)[0]
