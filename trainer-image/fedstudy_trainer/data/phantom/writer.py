"""A phantom cohort on disk: one BIDS dataset per hospital, and the generator's truth kept apart from the data."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import DataError

from .anatomy import build_head
from .clinical import Patient, draw_patients
from .oracle import ORACLE_FEATURES, oracle_features
from .profiles import SEQUENCES, CohortProfile, SiteProfile
from .scanner import WHITE_MATTER_UNITS, affine, missing_sequences, scan
from .signals import paint
from .splits import split_counts, stratified_split
from .streams import Purpose, stream
from .tumour import grow_tumour

PARTICIPANT_COLUMNS: Mapping[str, dict[str, Any]] = {
    "participant_id": {"Description": "Patient, unique within the hospital."},
    "age": {"Description": "Age at diagnosis.", "Units": "years"},
    "sex": {"Description": "Sex.", "Levels": {"female": "female", "male": "male"}},
    "kps": {"Description": "Karnofsky performance score before surgery, 40..100."},
    "grade": {"Description": "WHO grade.", "Levels": {"2": "grade 2", "3": "grade 3", "4": "grade 4"}},
    "idh": {
        "Description": "IDH status.",
        "Levels": {"wildtype": "no mutation", "mutant": "IDH1 or IDH2 mutated"},
    },
    "codel": {"Description": "1p/19q codeletion.", "Levels": {"yes": "codeleted", "no": "not codeleted"}},
    "mgmt": {
        "Description": "MGMT promoter.",
        "Levels": {"methylated": "methylated", "unmethylated": "not methylated"},
    },
    "os_months": {"Description": "Overall survival, or follow-up if alive.", "Units": "months"},
    "dead": {"Description": "Whether os_months ends with death.", "Levels": {"0": "censored", "1": "died"}},
    "split": {
        "Description": "Use of the patient in a study, stratified by IDH status.",
        "Levels": {"train": "60 %", "validation": "15 %", "test": "25 %"},
    },
}
"""Columns of participants.tsv in order, as BIDS describes them in participants.json. Missing values are n/a."""


@dataclass(frozen=True)
class SiteSummary:
    """What was written for one hospital: counts of patients, recorded IDH mutants, deaths, splits, absent images."""

    name: str
    patients: int
    mutants: int
    deaths: int
    splits: dict[str, int]
    images: int
    images_missing: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class CohortSummary:
    """What was written: where, from which profile and seed, and one summary per hospital."""

    out: Path
    profile: str
    seed: int
    sites: tuple[SiteSummary, ...]


def write_cohort(out: Path, *, profile: CohortProfile, seed: int) -> CohortSummary:
    """Write every hospital of a cohort under ``out``: data/<site>/ as BIDS and truth/<site>.tsv.

    The same profile and seed give the same bytes. The truth lies outside the data, so that mounting a site's data
    does not hand it to a trainer.

    Raises:
        DataError: ``out`` already holds a cohort, or the seed is negative.
    """
    if seed < 0:
        raise DataError(f"The phantom seed is {seed}.", "Choose a seed of 0 or more.")
    for folder in (out / "data", out / "truth"):
        if folder.exists() and any(folder.iterdir()):
            raise DataError(
                f"{folder} is not empty: a phantom cohort is never mixed with other data.",
                "Choose another folder, or remove this one first.",
            )
    sites = []
    for site in profile.sites:
        patients = draw_patients(site, seed=seed)
        _write_truth(out / "truth" / f"{site.name}.tsv", patients)
        sites.append(_write_site(out / "data" / site.name, profile, site, patients, seed))
    return CohortSummary(out=out, profile=profile.name, seed=seed, sites=tuple(sites))


def write_hospital(root: Path, *, profile: CohortProfile, site: str, seed: int) -> SiteSummary:
    """Write one hospital of a cohort into ``root`` itself, as into its volume: the bytes of its folder in the cohort, without the truth.

    It may be done again after it was cut short: equal bytes are written over.

    Raises:
        DataError: the profile has no such hospital, or ``root`` holds other data.
    """
    found = next((known for known in profile.sites if known.name == site), None)
    if found is None:
        names = ", ".join(known.name for known in profile.sites)
        raise DataError(f"The phantom profile {profile.name} has no hospital {site!r}.", f"It has {names}.")
    description = root / "dataset_description.json"
    ours = description.is_file() and json.loads(description.read_text()) == _description(profile, found, seed)
    if not ours and root.is_dir() and any(root.glob("[!.l]*")):  # a new file system has lost+found
        raise DataError(
            f"{root} holds other data.", "Give the hospital a volume of its own, or empty this one."
        )
    return _write_site(root, profile, found, draw_patients(found, seed=seed), seed)


def draw_images(
    site: SiteProfile, patient: Patient, *, grid: int, seed: int
) -> tuple[NDArray[np.int16], frozenset[str]]:
    """The patient's four sequences as the site stores them, shape (4, grid, grid, slices), and which are missing."""
    anatomy = stream(seed, site.name, Purpose.ANATOMY, patient.index)
    scanner = stream(seed, site.name, Purpose.SCANNER, patient.index)
    missing = missing_sequences(scanner, site)
    head = build_head(anatomy, patient, grid)
    signal = paint(patient, head, grow_tumour(anatomy, patient, head))
    return scan(scanner, site, head, signal, marked=patient.marked), missing


def split_patients(site: SiteProfile, patients: Sequence[Patient], *, seed: int) -> list[str]:
    """The split of each patient, stratified by recorded IDH status (by the true one where none is recorded)."""
    classes = [patient.record.idh or ("mutant" if patient.mutant else "wildtype") for patient in patients]
    return stratified_split(stream(seed, site.name, Purpose.SPLIT), classes)


def _write_site(
    root: Path, profile: CohortProfile, site: SiteProfile, patients: Sequence[Patient], seed: int
) -> SiteSummary:
    root.mkdir(parents=True, exist_ok=True)
    splits = split_patients(site, patients, seed=seed)
    rows = [_participant(patient, split) for patient, split in zip(patients, splits, strict=True)]
    _write_json(root / "dataset_description.json", _description(profile, site, seed))  # first: it says whose
    _write_table(root / "participants.tsv", tuple(PARTICIPANT_COLUMNS), rows)
    _write_json(root / "participants.json", dict(PARTICIPANT_COLUMNS))
    matrix, written, shape = affine(site, profile.grid), 0, (0, 0, 0)
    for patient in patients:
        images, missing = draw_images(site, patient, grid=profile.grid, seed=seed)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        for sequence, image in zip(SEQUENCES, images, strict=True):
            if sequence not in missing:
                _write_image(root, participant_id(patient), sequence, image, matrix)
                written += 1
    return SiteSummary(
        name=site.name,
        patients=len(patients),
        mutants=sum(patient.record.idh == "mutant" for patient in patients),
        deaths=sum(patient.dead for patient in patients),
        splits=split_counts(splits),
        images=written,
        images_missing=len(SEQUENCES) * len(patients) - written,
        shape=shape,
        spacing_mm=(float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[2, 2])),
    )


def participant_id(patient: Patient) -> str:
    """The BIDS name of a patient, unique within the site."""
    return f"sub-{patient.index + 1:04d}"


def _participant(patient: Patient, split: str) -> list[str]:
    def or_missing(value: str | int | None) -> str:
        return "n/a" if value is None else str(value)

    return [
        participant_id(patient),
        f"{patient.age:.1f}",
        patient.sex,
        or_missing(patient.record.kps),
        str(patient.grade),
        or_missing(patient.record.idh),
        or_missing(patient.record.codel),
        patient.mgmt,
        f"{patient.os_months:.1f}",
        str(patient.dead),
        split,
    ]


def _write_truth(path: Path, patients: Sequence[Patient]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        [participant_id(patient), patient.subtype, patient.look.lobe, str(int(patient.marked))]
        + [
            f"{volume:.3f}"
            for volume in (
                patient.volumes.whole_cc,
                patient.volumes.core_cc,
                patient.volumes.et_cc,
                patient.volumes.necrosis_cc,
            )
        ]
        + [f"{value:.4f}" for value in features]
        for patient, features in zip(patients, oracle_features(patients), strict=True)
    ]
    volumes = ("whole_cc", "core_cc", "et_cc", "necrosis_cc")
    _write_table(path, ("participant_id", "subtype", "lobe", "marked", *volumes, *ORACLE_FEATURES), rows)


def _description(profile: CohortProfile, site: SiteProfile, seed: int) -> dict[str, Any]:
    return {
        "Name": f"Phantom glioma cohort {profile.name}, {site.name}",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [{"Name": "fedstudy phantom", "Description": f"profile {profile.name}, seed {seed}"}],
        "Description": (
            "Invented patients: no person stands behind any of them. Skull-stripped; int16 without slope, zero "
            f"outside the brain, {WHITE_MATTER_UNITS} units being white matter on a scanner of gain 1."
        ),
    }


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = ["\t".join(row) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def _write_image(
    root: Path, participant: str, sequence: str, image: NDArray[np.int16], matrix: NDArray[np.float64]
) -> None:
    """One .nii.gz whose gzip header holds neither a time nor a name, so that equal images are equal bytes."""
    folder = root / participant / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    nifti = nibabel.Nifti1Image(image, matrix)
    nifti.header.set_xyzt_units("mm")
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=buffer, mtime=0) as stream_out:
        stream_out.write(nifti.to_bytes())
    (folder / f"{participant}_{sequence}.nii.gz").write_bytes(buffer.getvalue())
