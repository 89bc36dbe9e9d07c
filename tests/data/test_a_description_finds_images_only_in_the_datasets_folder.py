"""Templates, BIDS places, and what may not be reached through them."""

from __future__ import annotations

from pathlib import Path

import helpers_for_data as h
import pytest
from pydantic import ValidationError

from fedstudy.errors import DataError
from fedstudy_trainer.data.config import DatasetConfig, load_config
from fedstudy_trainer.data.images import locate_images
from fedstudy_trainer.data.table import read_cases


def located(config: DatasetConfig, root: Path, images: tuple[str, ...] = ("t1",)) -> list[list[str | None]]:
    cases = read_cases(config, root, h.plan())
    rows = locate_images(config, root, images, cases)
    return [[None if p is None else p.relative_to(root).as_posix() for p in row] for row in rows]


@pytest.mark.parametrize("name", ["p000", "sub-p000"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_bids_images_are_found_with_and_without_the_prefix(tmp_path: Path, name: str, ending: str) -> None:
    h.write_table(tmp_path, h.people(1, participant_id=[name]))
    files = [
        f"sub-p000/anat/sub-p000_{x}{ending}" for x in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR", "T1w")
    ]
    for file in files:
        h.write_nifti(tmp_path / file)
    config = DatasetConfig.model_validate({"format": "BIDS", "images": {"own": files[-1]}})
    assert located(config, tmp_path, (*h.SEQUENCES, "own")) == [files]
    assert located(config, tmp_path, ("t1ce", "pet")) == [[files[1], None]]


def test_templates_take_any_column_and_an_empty_cell_means_no_image(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(2, file=["deep/a.nii", "n/a"]))
    h.write_nifti(tmp_path / "x" / "deep" / "a.nii")
    assert located(DatasetConfig(images={"t1": "x/{file}"}), tmp_path) == [["x/deep/a.nii"], [None]]


def test_the_participant_stands_for_itself_whatever_its_column_is_called(tmp_path: Path) -> None:
    table = h.people(1)
    table["case"] = table.pop("participant_id")
    h.write_table(tmp_path, table)
    h.write_nifti(tmp_path / "p000.nii")
    config = DatasetConfig(images={"t1": "{participant_id}.nii"}, columns={"participant": "case"})
    assert located(config, tmp_path) == [["p000.nii"]]


@pytest.mark.parametrize(
    "template",
    ["../{participant_id}.nii", "/data/x.nii", "a/../../x", "C:/x", "{a.b!r}", "{a:>10}", "{}", "{0}", "{a"],
)
def test_a_template_that_leaves_the_folder_or_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(ValidationError):
        DatasetConfig(images={"t1": template})


@pytest.mark.parametrize("cell", ["../secret", "/etc/hostname", "a/../../secret"])
def test_a_cell_cannot_lead_out_of_the_folder(tmp_path: Path, cell: str) -> None:
    root = tmp_path / "data"
    h.write_table(root, h.people(1, file=[cell]))
    h.write_nifti(tmp_path / "secret.nii")
    with pytest.raises(DataError, match=r"row 2: the image .* lies outside the dataset's folder"):
        located(DatasetConfig(images={"t1": "{file}.nii"} if "secret" in cell else {"t1": "{file}"}), root)


def test_a_link_may_point_within_the_folder_but_not_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    h.write_table(root, h.people(1))
    h.write_nifti(root / "store" / "x.nii")
    (root / "p000.nii").symlink_to("store/x.nii")
    config = DatasetConfig(images={"t1": "{participant_id}.nii"})
    assert located(config, root) == [["p000.nii"]]
    (root / "p000.nii").unlink()
    (root / "p000.nii").symlink_to(h.write_nifti(tmp_path / "outside.nii"))
    with pytest.raises(DataError, match="lies outside"):
        located(config, root)


def test_the_table_may_not_be_a_link_out_of_the_folder(tmp_path: Path) -> None:
    outside = h.write_table(tmp_path / "other", h.people(2))
    root = tmp_path / "data"
    root.mkdir()
    (root / "participants.tsv").symlink_to(outside)
    with pytest.raises(DataError, match="link out of the dataset's folder"):
        read_cases(DatasetConfig(), root, h.plan())


def test_a_description_is_read_from_its_file_and_faults_are_placed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json cannot be read"):
        load_config(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": "BIDS", "minCellCount": 7}')
    assert load_config(tmp_path).min_cell_count == 7
    (tmp_path / "dataset.json").write_text('{"format": "Excel"}')
    with pytest.raises(DataError, match=r"dataset\.json: format: Input should be"):
        load_config(tmp_path)
