"""What a hospital says about its dataset: where the table and the images are, and what the columns are called."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from string import Formatter
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, field_validator

from fedstudy.errors import DataError
from fedstudy.plan import ImageName, Model

PARTICIPANT = "participant"
SPLIT = "split"
DEFAULT_COLUMNS = {PARTICIPANT: "participant_id"}
"""Column of a concept that is not mapped; every other concept is looked for under its own name."""

BIDS_SUFFIXES = {
    "t1": "T1w",
    "t1gd": "ce-gadolinium_T1w",
    "t1ce": "ce-gadolinium_T1w",
    "t2": "T2w",
    "flair": "FLAIR",
}
"""File name endings of the images that a BIDS dataset has under their customary names."""

_PLACEHOLDER = re.compile(r"^[A-Za-z_][A-Za-z0-9_.\- ]*$")
_Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_Template = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class DatasetFormat(StrEnum):
    """How a dataset lies on disk."""

    TABLE = "Table"
    BIDS = "BIDS"


class DatasetConfig(Model):
    """The description of a dataset: SiteDataset's spec without policy and publish."""

    format: DatasetFormat = Field(
        default=DatasetFormat.TABLE,
        description="Table: images are where the templates say. BIDS: t1, t1gd (or t1ce), t2, flair also have their customary places.",
    )
    table: str = Field(
        default="participants.tsv",
        min_length=1,
        max_length=512,
        description="The participants' table, TSV or CSV, relative to the dataset's folder.",
    )
    images: dict[ImageName, _Template] = Field(
        default={},
        max_length=16,
        description="Path of each image, relative to the dataset's folder; {column} stands for that column's value.",
    )
    columns: dict[str, _Column] = Field(
        default={},
        max_length=256,
        description="Columns by concept: participant, split, and every name of a plan's target and covariates.",
    )
    min_cell_count: int = Field(default=5, ge=1, le=1000, description="Counts below this are not published.")

    @field_validator("table")
    @classmethod
    def _table_is_inside(cls, value: str) -> str:
        _refuse_escape(value)
        return value

    @field_validator("images")
    @classmethod
    def _templates_are_inside(cls, value: dict[str, str]) -> dict[str, str]:
        for name, template in value.items():
            try:
                parse_template(template)
                _refuse_escape(template)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return value

    def column(self, concept: str) -> str:
        """The table's column for `participant`, `split`, or a name of the plan."""
        return self.columns.get(concept, DEFAULT_COLUMNS.get(concept, concept))

    def templates(self, image: str) -> tuple[str, ...]:
        """Where to look for an image, best first; empty if the dataset does not offer it."""
        if image in self.images:
            return (self.images[image],)
        if self.format is DatasetFormat.BIDS and image in BIDS_SUFFIXES:
            stem = f"sub-{{participant_id}}/anat/sub-{{participant_id}}_{BIDS_SUFFIXES[image]}"
            return (f"{stem}.nii.gz", f"{stem}.nii")
        return ()


def load_config(folder: Path) -> DatasetConfig:
    """The description in `dataset.json` of the folder $FEDSTUDY_CONFIG.

    Raises:
        DataError: the file is missing or is not a description.
    """
    path = folder / "dataset.json"
    try:
        return DatasetConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.", "Describe the dataset there (docs/data.md)."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}.", "Correct the SiteDataset.") from error


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """A template as pairs of literal text and the column that follows it (None at the end).

    Raises:
        ValueError: braces do not match, or a placeholder is more than a column's name.
    """
    parts = []
    for literal, field, spec, conversion in Formatter().parse(template):
        if field is not None and (not _PLACEHOLDER.match(field) or spec or conversion):
            raise ValueError(f"{{{field}}} is not a placeholder: write {{column}} with a column's name")
        parts.append((literal, field))
    return parts


def _refuse_escape(path: str) -> None:
    if path.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", path):
        raise ValueError(f"{path} is an absolute path; write it relative to the dataset's folder")
    if ".." in re.split(r"[/\\]", path):
        raise ValueError(f'{path} leaves the dataset\'s folder with ".."')
