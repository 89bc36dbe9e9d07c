"""Layout, tables and images of a written cohort, read back from disk as a trainer would."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from fedstudy.errors import DataError
from fedstudy_trainer.data.phantom import PROFILES, CohortProfile, CohortSummary, SiteProfile, write_cohort

COLUMNS = [
    "participant_id", "age", "sex", "kps", "grade", "idh", "codel", "mgmt", "os_months", "dead", "split",
]  # fmt: skip
SEQUENCES = ["T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CohortSummary:
    return write_cohort(tmp_path_factory.mktemp("tiny"), profile=PROFILES["tiny"], seed=5)


def table(cohort: CohortSummary, site: str) -> pd.DataFrame:
    return pd.read_csv(cohort.out / "data" / site / "participants.tsv", sep="\t", keep_default_na=False)


def test_every_site_is_a_bids_dataset_whose_columns_are_described(tiny: CohortSummary) -> None:
    for site in tiny.sites:
        root = tiny.out / "data" / site.name
        description = json.loads((root / "dataset_description.json").read_text())
        assert {"Name", "BIDSVersion"} <= description.keys()
        assert list(json.loads((root / "participants.json").read_text())) == COLUMNS
        assert list(table(tiny, site.name).columns) == COLUMNS


def test_every_participant_has_four_images_on_an_honest_grid(tiny: CohortSummary) -> None:
    for site in tiny.sites:
        for participant in table(tiny, site.name)["participant_id"]:
            for sequence in SEQUENCES:
                name = f"{participant}_{sequence}.nii.gz"
                image = nibabel.load(tiny.out / "data" / site.name / participant / "anat" / name)
                assert image.shape == site.shape
                assert image.get_data_dtype() == np.int16
                assert image.header.get_zooms() == pytest.approx(site.spacing_mm)
                assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
                brain_cc = (np.asarray(image.dataobj) > 0).sum() * np.prod(site.spacing_mm) / 1000
                assert 1100 < brain_cc < 1800


def test_levels_are_those_described_and_missing_is_na(tiny: CohortSummary) -> None:
    rows = pd.concat([table(tiny, site.name) for site in tiny.sites])
    assert set(rows["sex"]) == {"female", "male"}
    assert set(rows["grade"]) <= {2, 3, 4}
    assert set(rows["idh"]) == {"wildtype", "mutant"}
    assert set(rows["codel"]) <= {"yes", "no"}
    assert set(rows["mgmt"]) == {"methylated", "unmethylated"}
    assert set(rows["dead"]) == {0, 1}
    assert "n/a" in set(rows["kps"])
    assert rows["age"].between(18, 90).all() and (rows["os_months"] > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_tiny_has_both_classes_in_every_split_of_every_site(seed: int, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path, profile=PROFILES["tiny"].with_grid(12), seed=seed)
    for site in cohort.sites:
        counts = table(cohort, site.name).groupby(["split", "idh"]).size()
        assert len(counts) == 6


def test_the_truth_lies_outside_the_data_of_every_site(tiny: CohortSummary) -> None:
    for site in tiny.sites:
        truth = pd.read_csv(tiny.out / "truth" / f"{site.name}.tsv", sep="\t")
        assert list(truth["participant_id"]) == list(table(tiny, site.name)["participant_id"])
        assert {"subtype", "et_fraction", "t1_core", "whole_cc", "frontal", "mismatch"} <= set(truth.columns)
    assert not list((tiny.out / "data").rglob("*truth*"))


def test_the_summary_counts_what_lies_on_disk(tiny: CohortSummary) -> None:
    for site in tiny.sites:
        rows = table(tiny, site.name)
        assert site.patients == len(rows)
        assert site.mutants == (rows["idh"] == "mutant").sum()
        assert site.deaths == rows["dead"].sum()
        assert site.splits == rows["split"].value_counts().to_dict()
        assert site.images == len(list((tiny.out / "data" / site.name).rglob("*.nii.gz")))


def test_a_cohort_is_never_written_over_other_data(tiny: CohortSummary) -> None:
    with pytest.raises(DataError, match="not empty"):
        write_cohort(tiny.out, profile=PROFILES["tiny"], seed=5)


def test_a_negative_seed_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 or more"):
        write_cohort(tmp_path, profile=PROFILES["tiny"], seed=-1)


def test_a_missing_sequence_is_an_absent_file(tmp_path: Path) -> None:
    site = SiteProfile("gap", 8, 0.5, missing=(("FLAIR", 1.0), ("T1w", 0.5)))
    cohort = write_cohort(tmp_path, profile=CohortProfile("gap", (site,), grid=12), seed=0)
    files = [path.name for path in (tmp_path / "data" / "gap").rglob("*.nii.gz")]
    assert not [name for name in files if "FLAIR" in name]
    assert 8 < cohort.sites[0].images_missing < 16
