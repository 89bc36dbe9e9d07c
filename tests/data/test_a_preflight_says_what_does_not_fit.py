"""The hospital is told every fault at once, each exactly once, and what follows from a poor dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_for_data as h
import nibabel as nib
import numpy as np
import pytest

from fedstudy.errors import DataError
from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import DatasetProfile
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import load
from fedstudy_trainer.data.preflight import preflight

BIDS = DatasetConfig.model_validate({"format": "BIDS", "minCellCount": 1})


def check(root: Path, plan: StudyPlan | None = None, config: DatasetConfig = BIDS) -> DatasetProfile:
    return preflight(config, root, plan or h.image_plan())


def only_fault(profile: DatasetProfile) -> str:
    assert not profile.fits
    assert len(profile.faults) == 1, profile.faults
    return profile.faults[0]


def only_warning(profile: DatasetProfile) -> str:
    assert profile.fits, profile.faults
    assert len(profile.warnings) == 1, profile.warnings
    return profile.warnings[0]


def image(root: Path, i: int = 1, suffix: str = "T1w") -> Path:
    return root / f"sub-p{i:03d}" / "anat" / f"sub-p{i:03d}_{suffix}.nii.gz"


def test_a_good_dataset_fits_and_is_counted(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8)
    told = []
    plan = h.image_plan()
    profile = preflight(BIDS, tmp_path, plan, progress=lambda done, total: told.append((done, total)))
    assert (profile.fits, profile.faults, profile.warnings) == (True, [], [])
    assert profile.plan_digest == plan.digest()
    assert (profile.cases, profile.training, profile.validation, profile.test) == (8, 4, 2, 2)
    assert [(x.name, x.cases) for x in profile.labels] == [("WT", 4), ("Mutant", 4)]
    assert [(x.name, x.cases) for x in profile.images] == [("t1", 8)]
    assert told == [(i, 8) for i in range(1, 9)]


def test_a_missing_label_column_is_one_fault(tmp_path: Path) -> None:
    table = h.people(8)
    del table["idh"]
    h.write_table(tmp_path, table)
    assert "participants.tsv: expected a column idh, found" in only_fault(check(tmp_path, h.plan()))


def test_an_unknown_class_is_one_fault(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(8, idh=["WT", "Mutant", "mutated", "WT"] * 2))
    assert only_fault(check(tmp_path, h.plan())) == (
        'participants.tsv, rows 4 and 8, column idh: expected WT or Mutant, found "mutated".'
    )


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8, idh=["WT", "Mutant", "x", "WT"] * 2, split=["train"] * 7 + ["later"])
    image(tmp_path).write_bytes(b"no image")
    faults = check(tmp_path).faults
    assert len(faults) == 3
    assert [word in fault for word, fault in zip(("idh", "split", "_T1w"), faults, strict=True)] == [True] * 3


def test_more_than_fifty_faults_are_counted(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(60, age=[f"x{i}" for i in range(60)]))
    faults = check(tmp_path, h.plan()).faults
    assert len(faults) == 51
    assert faults[-1] == "and 10 more"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def with_nan(path: Path) -> None:
    values = np.ones((10, 10, 10))
    values[2, 3, 4] = np.nan
    h.write_nifti(path, values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "expected a whole compressed NIfTI file, found one that is truncated or damaged"),
        (with_nan, "expected finite numbers, found NaN or infinity in 1 of 1000 voxels"),
        (lambda p: p.write_bytes(b""), "expected a whole NIfTI file, found one that cannot be read"),
        (lambda p: p.write_bytes(b"text"), "expected a whole NIfTI file, found one that cannot be read"),
        (lambda p: h.write_nifti(p, np.ones((10, 10, 10, 2))), "expected 3 dimensions, found 4 (10 x 10 x 10 x 2)"),
        (lambda p: h.write_nifti(p, np.ones((10, 10))), "expected 3 dimensions, found 2 (10 x 10)"),
        (lambda p: h.write_nifti(p, np.zeros((10, 10, 10))), "expected an image, found the value 0 in every voxel"),
        (lambda p: h.write_nifti(p, np.full((9, 9, 9), 7)), "expected an image, found the value 7 in every voxel"),
        (lambda p: nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.complex64), np.eye(4)), p), "expected one number for each voxel, found values of type complex64"),
    ],
)  # fmt: skip
def test_a_bad_image_is_one_fault_with_row_and_file(tmp_path: Path, spoil: Any, message: str) -> None:
    h.write_bids(tmp_path, 8)
    spoil(image(tmp_path))
    fault = only_fault(check(tmp_path))
    assert fault.startswith("participants.tsv, row 3: sub-p001/anat/sub-p001_T1w.nii.gz: ")
    assert message in fault
    with pytest.raises(DataError, match="sub-p001_T1w"):
        load(BIDS, tmp_path, h.image_plan(), None).cases("training")


def test_a_truncated_uncompressed_image_is_a_fault(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(4))
    for i in range(4):
        truncated(h.write_nifti(tmp_path / f"p{i:03d}.nii"))
    config = DatasetConfig(images={"t1": "{participant_id}.nii"})
    assert len(check(tmp_path, config=config).faults) == 4


def test_sequences_of_another_shape_are_a_fault_without_resampling_and_a_warning_with(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8, ("t1", "t2"))
    larger = h.write_nifti(image(tmp_path, suffix="T2w"), size=12)
    around_the_same_centre = nib.affines.from_matvec(np.eye(3), [-1, -1, -1])
    nib.save(nib.Nifti1Image(nib.load(larger).get_fdata(), around_the_same_centre), larger)
    fault = only_fault(check(tmp_path, h.image_plan(("t1", "t2"))))
    assert "row 3: expected images of one shape, found t1 10 x 10 x 10, t2 12 x 12 x 12" in fault
    assert "Each is resampled" in only_warning(check(tmp_path, h.image_plan(("t1", "t2"), spacing=[2, 2, 2])))


def test_sequences_that_do_not_lie_on_each_other_are_a_warning(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8, ("t1", "t2"))
    path = image(tmp_path, suffix="T2w")
    shifted = nib.affines.from_matvec(np.eye(3), [0, 7, 0])
    nib.save(nib.Nifti1Image(nib.load(path).get_fdata(), shifted), path)
    warning = only_warning(check(tmp_path, h.image_plan(("t1", "t2"))))
    assert warning.startswith("1 of 8 cases have sequences whose centres lie more than 1 mm apart")


def test_a_missing_sequence_is_a_warning(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8, ("t1", "t2"))
    image(tmp_path, suffix="T2w").unlink()
    profile = check(tmp_path, h.image_plan(("t1", "t2")))
    assert only_warning(profile).startswith("1 of 8 cases lack t2")
    assert profile.cases == 8


def test_a_case_without_any_image_is_left_out_with_a_warning(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8)
    image(tmp_path).unlink()
    profile = check(tmp_path)
    assert any(w.startswith("1 of 8 cases have no image at all") for w in profile.warnings)
    assert (profile.fits, profile.cases, profile.training) == (True, 7, 3)
    assert len(load(BIDS, tmp_path, h.image_plan(), None).cases("training")) == 3


def test_a_sequence_that_no_case_has_is_a_fault_only_where_the_study_requires_it(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 8)
    task = h.task(images=("t1", "t2"), covariates=False)
    preprocessing = {"size": [8, 8, 8]}
    assert "No case has t2" in only_warning(check(tmp_path, h.image_plan(("t1", "t2"))))
    strict = h.plan(task=task, preprocessing=preprocessing, cohort={"require": {"images": ["t2"]}})
    assert "The study requires t2, but no case has it" in only_fault(check(tmp_path, strict))


@pytest.mark.parametrize("config", [BIDS, DatasetConfig(), DatasetConfig(images={"t1": "{age}.nii"})])
def test_no_image_at_all_is_one_fault(tmp_path: Path, config: DatasetConfig) -> None:
    h.write_table(tmp_path, h.people(8))
    assert "No file of t1 was found for any of the 8 rows" in only_fault(check(tmp_path, config=config))
    with pytest.raises(DataError, match="None of the images t1"):
        load(config, tmp_path, h.image_plan(), None)


def test_a_template_with_an_unknown_column_is_one_fault(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(8))
    config = DatasetConfig(images={"t1": "{session}/{participant_id}.nii"})
    assert "names the column session, which the table does not have" in only_fault(check(tmp_path, config=config))  # fmt: skip


def test_a_required_column_that_is_not_there_is_one_fault(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(8))
    plan = h.plan(cohort={"require": {"columns": ["kps"]}})
    assert "expected a column kps" in only_fault(check(tmp_path, plan))


def test_too_few_training_cases_are_one_fault(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(8))
    assert check(tmp_path, h.plan(cohort={"minCases": 4})).fits
    fault = only_fault(check(tmp_path, h.plan(cohort={"minCases": 5})))
    assert fault == "Expected at least 5 usable training cases (cohort.minCases), found fewer."


@pytest.mark.parametrize(
    ("survival", "columns", "message"),
    [
        (False, {"idh": ["Mutant"] * 8}, "All training cases are Mutant: the site takes part"),
        (True, {"dead": [0] * 8}, "No training case has an event"),
        (False, {"age": [50] * 8}, "Covariate age has the same value in all training cases"),
        (False, {"age": ["n/a"] * 8}, "Covariate age is missing in all training cases"),
        (False, {"sex": ["female"] * 8}, "Covariate sex=male has the same value"),
        (True, {"months": [0, *range(1, 8)]}, "row 2, column months: a time of 0 is taken as 0.03"),
        (False, {"idh": ["n/a", "WT", "Mutant", "WT"] * 2, "split": ["train"] * 8}, "2 of the table's cases lack the target"),
    ],
)  # fmt: skip
def test_a_poor_dataset_takes_part_with_one_warning(
    tmp_path: Path, survival: bool, columns: dict[str, list[object]], message: str
) -> None:
    h.write_table(tmp_path, h.people(8, **columns))
    assert message in only_warning(check(tmp_path, h.plan(task=h.task(survival=survival))))


def test_one_patient_takes_part_with_warnings(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(1))
    profile = check(tmp_path, h.plan())
    assert profile.fits
    assert [w.split(":")[0] for w in profile.warnings] == [
        "There is one usable training case",
        "All training cases are WT" if h.people(1)["idh"] == ["WT"] else "All training cases are Mutant",
    ]


def test_small_counts_are_nowhere_in_a_profile(tmp_path: Path) -> None:
    h.write_bids(tmp_path, 12, ("t1", "t2"), idh=["Mutant"] * 3 + ["WT"] * 8 + ["n/a"], split=["train"] * 12)
    image(tmp_path, suffix="T2w").unlink()
    config = DatasetConfig.model_validate({"format": "BIDS", "minCellCount": 5})
    profile = check(tmp_path, h.image_plan(("t1", "t2")), config)
    assert profile.cases == 11
    assert [x.cases for x in profile.labels] == [None, None]  # 8 would tell 11 - 8 = 3
    assert [x.cases for x in profile.images] == [11, None]  # 10 would tell 11 - 10 = 1
    assert (profile.validation, profile.test) == (None, None)
    assert any(w.startswith("Fewer than 5 of 12 cases lack t2") for w in profile.warnings)
