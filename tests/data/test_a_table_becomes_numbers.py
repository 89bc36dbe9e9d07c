"""What a table's cells turn into, and what is said about cells that turn into nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import helpers_for_data as h
import numpy as np
import pytest

from fedstudy.errors import DataError
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import load
from fedstudy_trainer.data.table import Cases, read_cases

CONFIG = DatasetConfig()


def read(root: Path, survival: bool = False, config: DatasetConfig = CONFIG) -> Cases:
    return read_cases(config, root, h.plan(task=h.task(survival=survival)))


def fault(root: Path, survival: bool = False, config: DatasetConfig = CONFIG) -> str:
    with pytest.raises(DataError) as caught:
        read(root, survival, config)
    return caught.value.message


def test_covariates_are_raw_with_nan_and_categories_without_the_reference(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(4, age=[50, "n/a", "", "61.5"], sex=["male", "FEMALE", "NA", "female"]))
    cases = read(tmp_path)
    assert cases.covariate_names == ("age", "sex=male")
    np.testing.assert_array_equal(cases.covariates, [[50, 1], [np.nan, 0], [np.nan, np.nan], [61.5, 0]])


def test_classes_match_exactly_or_whatever_their_case(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(4, idh=["WT", "wt", "MUTANT", "nan"]))
    assert read(tmp_path).labels.tolist() == [0, 0, 1, -1]


def test_a_class_that_is_spelt_like_a_missing_value_is_a_class(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(3, idh=["NA", "WT", "n/a"]))
    task = h.task() | {"target": {"label": "idh", "classes": ["WT", "NA"]}}
    assert read_cases(CONFIG, tmp_path, h.plan(task=task)).labels.tolist() == [1, 0, -1]


def test_events_are_read_in_every_customary_spelling(tmp_path: Path) -> None:
    spellings = ["1", "0", "True", "false", "dead", "Alive", "YES", "no", "1.0", "n/a"]
    h.write_table(tmp_path, h.people(10, dead=spellings))
    assert read(tmp_path, survival=True).events.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1, -1]


def test_a_time_of_zero_becomes_a_small_positive_one(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(4, months=[0, 0.01, "n/a", 7]))
    np.testing.assert_array_equal(read(tmp_path, survival=True).times, [0.03, 0.01, np.nan, 7])


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    table = h.people(4)
    table["patient"], table["Age (years)"] = table.pop("participant_id"), table.pop("age")
    table["set"] = table.pop("split")
    h.write_table(tmp_path, table)
    config = DatasetConfig(columns={"participant": "patient", "age": "Age (years)", "split": "set"})
    cases = read(tmp_path, config=config)
    assert cases.participants[0] == "p000"
    assert [str(s) for s in cases.splits] == ["training", "training", "validation", "test"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "participant_id,age,sex,idh\np1,50,male,WT\np2,60,female,Mutant\n"),
        ("a.csv", "participant_id;age;sex;idh\r\np1;50;male;WT\r\n\r\np2;60;female;Mutant"),
        ("a.tsv", "\ufeffparticipant_id\tage\tsex\tidh\r\np1\t50\tmale\tWT\r\np2\t60\tfemale\tMutant\r\n"),
        ("a.txt", "participant_id\tage\tsex\tidh\np1\t50\tmale\tWT\np2\t60\tfemale\tMutant\n"),
        ("a.csv", 'participant_id,age,sex,idh\n"p1", 50,"male",WT\np2,60,female,"Mutant"\n'),
    ],
)
def test_tsv_and_csv_are_read_as_programs_write_them(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    cases = read(tmp_path, config=DatasetConfig(table=name))
    assert cases.participants == ("p1", "p2")
    assert cases.labels.tolist() == [0, 1]
    assert cases.covariates[:, 0].tolist() == [50, 60]


def test_a_missing_column_is_named_with_the_columns_that_are_there(tmp_path: Path) -> None:
    table = h.people(4)
    table["IDH_status"] = table.pop("idh")
    h.write_table(tmp_path, table)
    assert "expected a column idh, found participant_id, age, sex" in fault(tmp_path)


def test_an_unknown_class_is_named_once_with_row_column_expected_and_found(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(4, idh=["WT", "R132H", "Mutant", "R132H"]))
    assert fault(tmp_path) == (
        'participants.tsv, rows 3 and 5, column idh: expected WT or Mutant, found "R132H".'
    )


@pytest.mark.parametrize(
    ("survival", "columns", "message"),
    [
        (False, {"age": [1, 2, "old", 4]}, 'row 4, column age: expected a number (with a point), found "old"'),
        (False, {"age": [1, 2, "inf", 4]}, 'row 4, column age: expected a number (with a point), found "inf"'),
        (False, {"sex": ["male", "m", "male", "male"]}, 'row 3, column sex: expected female or male, found "m"'),
        (True, {"months": [1, 2, -3, 4]}, 'row 4, column months: expected a time, 0 or more, found "-3"'),
        (True, {"dead": [1, 2, 0, 0]}, 'row 3, column dead: expected 1 or 0'),
        (False, {"split": ["train", "test", "b", "test"]}, 'row 4, column split: expected train, validation or test, found "b"'),
        (False, {"split": ["train", "test", "", "test"]}, 'row 4, column split: expected train, validation or test, found ""'),
        (False, {"participant_id": ["a", "b", "a", "d"]}, "rows 2 and 4, column participant_id: expected a different participant"),
        (False, {"participant_id": ["a", "", "c", "d"]}, "row 3, column participant_id: expected a name"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_named_with_its_row_and_column(
    tmp_path: Path, survival: bool, columns: dict[str, list[object]], message: str
) -> None:
    h.write_table(tmp_path, h.people(4, **columns))
    assert message in fault(tmp_path, survival)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "participants.tsv is empty"),
        (b"participant_id\tidh\tidh\n", "row 1: column idh is there twice"),
        (b"participant_id\t\tidh\n", "row 1: column 2 has no name"),
        (b"participant_id\tage\tsex\tidh\n", "has no rows"),
        (b"participant_id\tage\tsex\tidh\np1\t50\tmale\tWT\np2\t50\tmale\n", "row 3: expected 4 cells, found 3"),
        ("participant_id\tname\nx\tMüller\n".encode("latin-1"), "is not UTF-8 text"),
        ("participant_id\tname\nx\ty\n".encode("utf-16-le"), "holds binary data"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "participants.tsv").write_bytes(content)
    assert message in fault(tmp_path)


def test_a_table_that_is_not_there_is_named_with_the_folder(tmp_path: Path) -> None:
    assert f"participants.tsv is not in the dataset's folder {tmp_path}" in fault(tmp_path)


def test_several_faults_are_counted_and_the_first_is_told(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(3, age=["x", "y", "z"]))
    assert fault(tmp_path).endswith("And 2 more: run `fedstudy-trainer preflight` for all.")


def test_reading_a_table_imports_neither_torch_nor_monai() -> None:
    program = (
        "import sys; from fedstudy_trainer.data import dataset, preflight;"
        "print([m for m in ('torch', 'monai', 'nibabel', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cases_without_a_target_are_left_out_of_every_split(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(8, idh=["WT", "n/a", "WT", "Mutant"] * 2))
    data = load(CONFIG, tmp_path, h.plan(), None)
    assert [len(data.cases(s)) for s in ("training", "validation", "test")] == [2, 2, 2]
    assert data.cases("training").images is None
    assert data.cases("train").covariates.dtype == np.float32


def test_survival_cases_need_both_a_time_and_an_event(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(4, months=[1, 2, "", 4], dead=[1, "", 0, 0], split=["train"] * 4))
    data = load(CONFIG, tmp_path, h.plan(task=h.task(survival=True)), None).cases("training")
    assert data.times.tolist() == [1, 4]
    assert data.events.tolist() == [1, 0]
    assert data.labels.tolist() == [-1, -1]
