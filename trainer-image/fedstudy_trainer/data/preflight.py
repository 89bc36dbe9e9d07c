"""Checks a dataset against a plan before anything is trained, and says in plain words all that does not fit.

A fault keeps the site from taking part; a warning says what follows and lets it. Messages name rows, columns and files, so they
are for the hospital's eyes; counts below minCellCount are given nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import DataError
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.wire.admin import DatasetProfile, ImageCount, LabelCount
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.findings import Findings, shown
from fedstudy_trainer.data.images import locate_images
from fedstudy_trainer.data.splits import Split
from fedstudy_trainer.data.suppression import count_text, suppressed
from fedstudy_trainer.data.table import Cases, find_cases

Progress = Callable[[int, int], None]
"""Called with the number of image files read so far, and of all."""

_Paths = tuple[tuple[Path | None, ...], ...]


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
    if without:
        findings.warn(
            f"{count_text(without, config.min_cell_count)} of the table's cases lack the target and are left out."
        )
    paths: _Paths = ()
    if plan.task.images:
        paths = _locate(config, root, plan, cases, findings)
        usable &= _check_presence(config, plan, cases, paths, findings)
        _check_files(root, plan, cases, paths, findings, progress)
    if not findings.faults:  # what follows would only repeat them
        _check_cohort(plan, cases, usable, findings)
    return _profile(plan, findings, config, cases, usable, paths)


def _locate(config: DatasetConfig, root: Path, plan: StudyPlan, cases: Cases, findings: Findings) -> _Paths:
    try:
        return locate_images(config, root, plan.task.images, cases)
    except DataError as error:
        findings.fault(str(error))
        return tuple((None,) * len(plan.task.images) for _ in range(len(cases)))


def _check_presence(
    config: DatasetConfig, plan: StudyPlan, cases: Cases, paths: _Paths, findings: Findings
) -> NDArray[np.bool_]:
    """[n]: whether a case has any image. Says which are missing."""
    least, n = config.min_cell_count, len(cases)
    present = np.array([[path is not None for path in row] for row in paths], dtype=np.bool_)
    images = plan.task.images
    some = np.array([any(row) for row in paths], dtype=np.bool_)
    if not some.any():
        if not findings.faults:
            findings.fault(
                f"No file of {', '.join(images)} was found for any of the {n} rows: expected for example "
                f"{_example(config, images)}. Check the dataset's images."
            )
        return some
    for channel, image in enumerate(images):
        have = int(present[:, channel].sum())
        if have == 0 and image in plan.cohort.require.images:
            findings.fault(f"The study requires {image}, but no case has it: {_example(config, [image])}.")
        elif have == 0:
            findings.warn(
                f"No case has {image} ({_example(config, [image])}); the model gets zeros and is told so."
            )
        elif have < n:
            findings.warn(
                f"{count_text(n - have, least)} of {n} cases lack {image}; the model gets zeros and is told so."
            )
    none = n - int(some.sum())
    if none:
        findings.warn(f"{count_text(none, least)} of {n} cases have no image at all and are left out.")
    return some


def _example(config: DatasetConfig, images: Sequence[str]) -> str:
    templates = [config.templates(image)[0] for image in images if config.templates(image)]
    return templates[0] if templates else "the dataset names no file for it"


def _check_files(
    root: Path,
    plan: StudyPlan,
    cases: Cases,
    paths: _Paths,
    findings: Findings,
    progress: Progress | None,
) -> None:
    """Read every image, and compare the shapes of each patient's."""
    from fedstudy_trainer.data.nifti import read_volume, shape_text

    total = sum(path is not None for row in paths for path in row)
    done, uneven = 0, []
    for row, files in zip(cases.rows, paths, strict=True):
        shapes: dict[str, tuple[int, ...]] = {}
        for image, path in zip(plan.task.images, files, strict=True):
            if path is None:
                continue
            try:
                volume = read_volume(path, path.relative_to(root).as_posix())
                shapes[image] = volume.values.shape
            except DataError as error:
                findings.fault(f"{cases.table.name}, row {row}: {error}")
            done += 1
            if progress is not None:
                progress(done, total)
        if len(set(shapes.values())) > 1:
            found = ", ".join(f"{image} {shape_text(shape)}" for image, shape in shapes.items())
            uneven.append(f"{cases.table.name}, row {row}: expected images of one shape, found {found}.")
    if plan.preprocessing.spacing is None:
        for message in uneven:
            findings.fault(
                f"{message} The plan does not resample (preprocessing.spacing), so they must agree."
            )
    else:
        for message in uneven:
            findings.warn(f"{message} Each is resampled and centred by itself.")


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
    paths: _Paths = (),
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


def _with_image(paths: _Paths, channel: int, usable: NDArray[np.bool_], least: int) -> int | None:
    """How many usable cases have an image; all having it says nothing of one patient."""
    n = int(usable.sum())
    have = sum(bool(keep) and row[channel] is not None for keep, row in zip(usable, paths, strict=True))
    return have if have == n >= least else suppressed([have, n - have], least)[0]
