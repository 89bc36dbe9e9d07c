"""The preflight's checks of images: which are missing, which cannot be read, and whether a patient's fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import DataError
from fedstudy.plan import StudyPlan
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.findings import Findings, shape_text
from fedstudy_trainer.data.images import ImagePaths, locate_images
from fedstudy_trainer.data.suppression import count_text
from fedstudy_trainer.data.table import Cases

Progress = Callable[[int, int], None]
"""Called with the number of image files read so far, and of all."""

ALIGNED_MM = 1.0
"""Sequences of a patient whose centres lie further apart than this are told of."""


def find_images(
    config: DatasetConfig, root: Path, plan: StudyPlan, cases: Cases, findings: Findings
) -> ImagePaths:
    """The files of each case; a fault, and no files, if they cannot be looked for."""
    try:
        return locate_images(config, root, plan.task.images, cases)
    except DataError as error:
        findings.fault(str(error))
        return tuple((None,) * len(plan.task.images) for _ in range(len(cases)))


def check_presence(
    config: DatasetConfig, plan: StudyPlan, cases: Cases, paths: ImagePaths, findings: Findings
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


def check_files(
    config: DatasetConfig,
    root: Path,
    plan: StudyPlan,
    cases: Cases,
    paths: ImagePaths,
    findings: Findings,
    progress: Progress | None,
) -> None:
    """Read every image, and compare the shapes and places of each patient's."""
    total = sum(path is not None for row in paths for path in row)
    done, apart = 0, 0
    for row, files in zip(cases.rows, paths, strict=True):
        found: dict[str, _Grid] = {}
        place = f"{cases.table.name}, row {row}"
        for image, path in zip(plan.task.images, files, strict=True):
            if path is None:
                continue
            try:
                found[image] = _grid(path, path.relative_to(root).as_posix())
            except DataError as error:
                findings.fault(f"{place}: {error}")
            done += 1
            if progress is not None:
                progress(done, total)
        _compare_shapes(found, place, plan.preprocessing.spacing is not None, findings)
        apart += _lie_apart(list(found.values()))
    if apart:
        findings.warn(
            f"{count_text(apart, config.min_cell_count)} of {len(cases)} cases have sequences whose centres lie more "
            f"than {ALIGNED_MM:g} mm apart; each is centred by itself, so register them to one grid first."
        )


@dataclass(frozen=True)
class _Grid:
    """Where the voxels of an image lie: how many along each axis, and the middle in mm."""

    shape: tuple[int, ...]
    centre: NDArray[np.float64]


def _grid(path: Path, name: str) -> _Grid:
    from fedstudy_trainer.data.nifti import read_volume  # nibabel, only where there are images

    volume = read_volume(path, name)
    middle = (np.array(volume.values.shape) - 1) / 2
    return _Grid(volume.values.shape, volume.affine[:3, :3] @ middle + volume.affine[:3, 3])


def _lie_apart(grids: Sequence[_Grid]) -> bool:
    return any(np.linalg.norm(grid.centre - grids[0].centre) > ALIGNED_MM for grid in grids[1:])


def _compare_shapes(grids: Mapping[str, _Grid], place: str, resampled: bool, findings: Findings) -> None:
    if len({grid.shape for grid in grids.values()}) <= 1:
        return
    found = ", ".join(f"{image} {shape_text(grid.shape)}" for image, grid in grids.items())
    message = f"{place}: expected images of one shape, found {found}."
    if resampled:
        findings.warn(f"{message} Each is resampled and centred by itself.")
    else:
        findings.fault(f"{message} The plan does not resample (preprocessing.spacing), so they must agree.")
