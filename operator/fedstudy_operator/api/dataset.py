"""SiteDataset: a hospital's data and what may be done with them. One per dataset, used by many studies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from fedstudy.plan import ColumnName, ImageName, Model
from fedstudy.wire.admin import DatasetPolicy
from fedstudy_operator.api.conditions import Condition
from fedstudy_operator.api.meta import API_VERSION, DNSLabel, DNSName, Metadata, RelativePath, Status

Template = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^/\\].*$")]


class DatasetFormat(StrEnum):
    """How the data lie in the volume."""

    TABLE = "Table"
    BIDS = "BIDS"


class Volume(Model):
    """Where the data are. Always mounted read-only: there is no field to change that."""

    persistent_volume_claim: DNSName = Field(description="The claim, in this namespace.")
    sub_path: RelativePath | None = Field(
        default=None, description="A folder within the volume. Unset: the whole of it."
    )


class SiteDatasetSpec(Model):
    """What the data steward writes."""

    volume: Volume = Field(description="Where the data are.")
    format: DatasetFormat = Field(
        default=DatasetFormat.TABLE,
        description="Table: a table of participants and paths of images. BIDS: the same with the Brain Imaging Data Structure's paths as defaults.",
    )
    table: RelativePath = Field(
        default="participants.tsv", description="The table of participants (TSV or CSV) within the volume."
    )
    images: dict[ImageName, Template] = Field(
        default={},
        max_length=16,
        description="Image name → path within the volume, with column names in braces, for example sub-{participant_id}/anat/sub-{participant_id}_T1w.nii.gz.",
    )
    columns: dict[ColumnName, str] = Field(
        default={},
        max_length=128,
        description="The study's name of a thing → the column of this table. `participant` and `split` name the identifier and the split; what is not mapped has the same name.",
    )
    policy: DatasetPolicy = Field(
        default=DatasetPolicy(),
        description="What may be done with the data. Unset means refused, not allowed.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> SiteDatasetSpec:
        faults = dataset_faults(self)
        if faults:
            raise ValueError("; ".join(f"{path}: {what}" for path, what in faults))
        return self


def dataset_faults(spec: Any) -> list[tuple[str, str]]:
    """Faults of a spec that no single field shows, as (field path within the spec, what is wrong)."""
    faults = []
    paths = {"table": spec.table, **{f"images.{name}": path for name, path in spec.images.items()}}
    if spec.volume.sub_path:
        paths["volume.subPath"] = spec.volume.sub_path
    for field, path in paths.items():
        if ".." in path.split("/"):
            faults.append((field, "leads out of the volume ('..')"))
    for name, column in spec.columns.items():
        if not column or len(column) > 128:
            faults.append((f"columns.{name}", "names no column"))
    return faults


class Count(Status):
    """A count, unset where smaller than policy.minCellCount."""

    name: str = Field(max_length=63, description="Of what.")
    cases: int | None = Field(
        default=None, description="How many; unset where fewer than policy.minCellCount."
    )


class ProfileStatus(Status):
    """What the latest preflight counted."""

    cases: int | None = Field(default=None, description="Usable cases; unset where few.")
    images: list[Count] = Field(default=[], max_length=16, description="Cases by image.")
    labels: list[Count] = Field(default=[], max_length=32, description="Cases by class.")


class SiteDatasetStatus(Status):
    """What the data steward reads."""

    observed_generation: int = Field(
        default=0, description="The generation of the spec that this status is about."
    )
    conditions: list[Condition] = Field(default=[], max_length=32, description="Ready, Readable, Profiled.")
    profile: ProfileStatus = Field(
        default=ProfileStatus(), description="Counts of the latest preflight, small ones suppressed."
    )
    studies: list[DNSLabel] = Field(
        default=[], max_length=256, description="SiteParticipants that use the dataset now."
    )
    summary: str = Field(default="", max_length=256, description="How it is, in a few words.")


class SiteDataset(Model):
    """A hospital's data and what may be done with them."""

    api_version: Literal["fedstudy.io/v1alpha1"] = API_VERSION
    kind: Literal["SiteDataset"] = "SiteDataset"
    metadata: Metadata
    spec: SiteDatasetSpec = Field(description="The data and their policy.")
    status: SiteDatasetStatus = Field(default=SiteDatasetStatus(), description="What is.")


__all__ = ["SiteDataset", "SiteDatasetSpec", "SiteDatasetStatus", "dataset_faults"]
