"""The TCGA glioma table, hospital by hospital: the facts of its README come out of our reader."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import helpers_for_data as h
import numpy as np
import pytest
from tests.required import lacking

from fedstudy.errors import DataError
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import load
from fedstudy_trainer.data.preflight import preflight
from fedstudy_trainer.data.table import Cases, read_cases

REAL = Path(__file__).parents[2].parent / "shared" / "realdata" / "tcga-glioma" / "tcga_glioma_clinical.csv"
CONFIG = DatasetConfig.model_validate(
    {
        "table": "patients.csv",
        "columns": {"participant": "patient", "months": "os_months"},
        "minCellCount": 1,
    }
)
COVARIATES: list[dict[str, Any]] = [
    {"name": "age"},
    {"name": "sex", "categories": ["female", "male"]},
    {"name": "kps"},
    {"name": "grade", "categories": ["G2", "G3", "G4"]},
]
IDH = h.plan(task=h.task() | {"covariates": COVARIATES})
SURVIVAL = h.plan(task=h.task(survival=True) | {"covariates": COVARIATES})


def hospital(name: str) -> str:
    """One name for each hospital: Besta and MD Anderson are spelt in two ways, two more differ in a word."""
    if "Besta" in name:
        return "Besta"
    return "MD Anderson" if name.startswith("MD Anderson") else name


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not REAL.exists():
        lacking(f"{REAL.name} is not here: it is a download beside the repository, shared/realdata")
    rows: dict[str, list[dict[str, str]]] = {}
    with REAL.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(hospital(row["site_name"]), []).append(row)
    folders = {}
    for index, (name, members) in enumerate(rows.items()):
        folders[name] = tmp_path_factory.mktemp(f"hospital-{index}")
        with (folders[name] / "patients.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, members[0].keys())
            writer.writeheader()
            writer.writerows(members)
    return folders


@pytest.fixture(scope="module")
def cases(hospitals: dict[str, Path]) -> dict[str, Cases]:
    return {name: read_cases(CONFIG, folder, IDH) for name, folder in hospitals.items()}


def test_all_patients_of_36_hospitals_are_there(cases: dict[str, Cases]) -> None:
    assert len(cases) == 36
    assert sum(len(c) for c in cases.values()) == 1122


def test_idh_counts_are_those_documented(cases: dict[str, Cases]) -> None:
    labels = np.concatenate([c.labels for c in cases.values()])
    assert [(labels == k).sum() for k in (1, 0, -1)] == [457, 538, 127]


def test_patients_complete_for_idh_age_and_survival_are_925_and_612_with_kps(
    hospitals: dict[str, Path], cases: dict[str, Cases]
) -> None:
    complete, with_kps = 0, 0
    for name, folder in hospitals.items():
        try:
            alive = read_cases(CONFIG, folder, SURVIVAL).has_target()
        except DataError:  # the one negative time, below; it is complete all the same
            alive = np.array([bool(cell) for cell in cases[name].table.column("os_months")])
        known = alive & (cases[name].labels >= 0) & np.isfinite(cases[name].covariates[:, 0])
        complete += int(known.sum())
        with_kps += int((known & np.isfinite(cases[name].covariates[:, 2])).sum())
    assert (complete, with_kps) == (925, 612)


def test_the_one_negative_time_is_named_and_every_other_hospital_fits(hospitals: dict[str, Path]) -> None:
    faults = [fault for folder in hospitals.values() for fault in preflight(CONFIG, folder, SURVIVAL).faults]
    assert len([f for f in faults if "cohort.minCases" not in f]) == 1
    assert any('column os_months: expected a time, 0 or more, found "-0.032' in fault for fault in faults)


def test_missing_kps_differs_between_hospitals_from_none_to_all(cases: dict[str, Cases]) -> None:
    shares = [float(np.isnan(c.covariates[:, 2]).mean()) for c in cases.values()]
    assert (min(shares), max(shares)) == (0, 1)


def test_one_hospital_gives_batches_with_every_patient_of_known_class(hospitals: dict[str, Path]) -> None:
    site = load(CONFIG, hospitals["Henry Ford Hospital"], IDH, None)
    splits = [site.cases(split) for split in ("training", "validation", "test")]
    n = sum(len(split) for split in splits)
    assert n == int(sum((read_cases(CONFIG, hospitals["Henry Ford Hospital"], IDH).labels >= 0).astype(int)))
    assert [abs(len(s) / n - share) < 0.02 for s, share in zip(splits, (0.6, 0.15, 0.25), strict=True)]
    prevalence = [float(split.labels.mean()) for split in splits]
    assert max(prevalence) - min(prevalence) < 0.05
    (batch,) = site.batches("training", 0, seed=0)
    assert batch.covariates is not None
    assert batch.covariates.shape == (len(splits[0]), 5)
