"""Finds the images of each case: templates filled with the table's cells, and never a file outside the dataset's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedstudy.errors import DataError
from fedstudy_trainer.data.config import PARTICIPANT, DatasetConfig, parse_template
from fedstudy_trainer.data.reader import is_missing
from fedstudy_trainer.data.table import Cases

ImagePaths = tuple[tuple[Path | None, ...], ...]
"""[n][C]: the file of each case and image; None where it is missing."""

PARTICIPANT_PLACEHOLDER = "participant_id"
"""Stands for the participant's name in templates, whatever the column is called."""


def locate_images(config: DatasetConfig, root: Path, images: Sequence[str], cases: Cases) -> ImagePaths:
    """The files of each case, [n][C]; None where a case lacks the image or the dataset does not offer it.

    Raises:
        DataError: a template names a column that the table lacks, or a path leaves the dataset's folder.
    """
    if not images:
        return tuple(() for _ in range(len(cases)))
    templates = [config.templates(image) for image in images]
    inside = root.resolve()
    located = []
    for cells, row in zip(cases.table.cells, cases.table.rows, strict=True):
        values = dict(zip(cases.table.columns, cells, strict=True))
        values[PARTICIPANT_PLACEHOLDER] = values[config.column(PARTICIPANT)]
        place = f"{cases.table.name}, row {row}"
        located.append(tuple(_first(options, values, root, inside, place) for options in templates))
    return tuple(located)


def fill(template: str, values: Mapping[str, str]) -> str | None:
    """The path that a template stands for; None if a cell that it needs is empty.

    After `sub-` a value's own `sub-` is left out, because tables write participants both with and without it.

    Raises:
        DataError: a placeholder is not among the values.
    """
    path = ""
    for literal, column in parse_template(template):
        path += literal
        if column is None:
            continue
        if column not in values:
            raise DataError(
                f"The image template {template} names the column {column}, which the table does not have.",
                f"It has {', '.join(list(values)[:20])}.",
            )
        if is_missing(values[column]):
            return None
        path += values[column].removeprefix("sub-") if literal.endswith("sub-") else values[column]
    return path


def _first(
    options: Sequence[str], values: Mapping[str, str], root: Path, inside: Path, place: str
) -> Path | None:
    """The first of a case's possible files that exists."""
    for template in options:
        filled = fill(template, values)
        if filled is None:
            continue
        path = root / filled
        resolved = path.resolve()
        if Path(filled).is_absolute() or ".." in Path(filled).parts or not resolved.is_relative_to(inside):
            raise DataError(
                f"{place}: the image {filled} lies outside the dataset's folder.",
                "Put the file itself into the folder: links, absolute paths and .. may not lead out of it.",
            )
        if resolved.is_file():
            return path
    return None
