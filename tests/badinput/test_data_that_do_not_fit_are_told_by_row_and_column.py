"""A site whose data do not fit is left out with the reason; without a quorum the run ends, and goes on once they are mended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from cohort_for_bad_input import SITES, Cohort, cohort, fedstudy


def _spoil_tables(c: Cohort) -> None:
    c.tables["north"][3]["idh"] = "mutnt"
    for row in c.tables["south"]:
        del row["idh"]


@pytest.mark.slow
def test_too_few_sites_with_fitting_data_end_the_run_and_mended_data_go_on(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    _spoil_tables(c)
    ended = fedstudy("run", c.write())
    assert ended.code == 4
    assert "toy: 1 of 3 sites can take part; 2 must." in ended.text
    assert (
        'north: participants.tsv, row 5, column idh: expected wildtype or mutant, found "mutnt".'
        in ended.text
    )
    assert "south: participants.tsv: expected a column idh" in ended.text
    cohort(tmp_path / "c").write()
    ended = fedstudy("run", c.folder, "--resume")
    assert ended.code == 0, ended.text
    assert {site["rounds"] for site in _results(c)["sites"]} == {2}


@pytest.mark.slow
def test_a_quorum_goes_on_without_a_site_whose_table_is_empty_and_says_so(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    c.tables["north"] = []
    ended = fedstudy("run", c.write())
    assert ended.code == 0, ended.text
    assert "toy goes on without north: participants.tsv has no rows" in ended.text
    assert "north: connection lost" not in ended.text
    assert ended.text.count("goes on without") == 1
    assert {site["site"]: site["rounds"] for site in _results(c)["sites"]}.get("north", 0) == 0


@pytest.mark.slow
def test_poor_but_valid_sites_take_part_with_a_warning(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    for row in c.tables["north"]:
        row["idh"] = "mutant"
    for row in c.tables["south"]:
        row["age"] = "50"
    c.tables["east"] = c.tables["east"][:1]
    ended = fedstudy("run", c.write())
    assert ended.code == 0, ended.text
    assert "toy: north: All training cases are mutant" in ended.text
    assert "toy: south: Covariate age has the same value in all training cases" in ended.text
    assert "toy: east: There is one usable training case" in ended.text
    assert {site["site"]: site["rounds"] for site in _results(c)["sites"]} == dict.fromkeys(SITES, 2)


@pytest.mark.slow
def test_a_site_without_an_event_takes_part_with_a_warning(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    c.survival()
    for row in c.tables["north"]:
        row["dead"] = "0"
    ended = fedstudy("run", c.write())
    assert ended.code == 0, ended.text
    assert "toy: north: No training case has an event" in ended.text


@pytest.mark.slow
def test_images_that_cannot_be_read_are_told_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    assert fedstudy("phantom", folder, "--profile", "tiny").code == 0
    sites = sorted(path for path in (folder / "data").iterdir())
    missing, truncated, shaped, holed = (_images(sites[k % len(sites)])[k // len(sites)] for k in range(4))
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:400])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)), shaped)
    nibabel.save(nibabel.Nifti1Image(np.full((24, 24, 24), np.nan, np.float32), np.eye(4)), holed)
    ended = fedstudy("run", folder, "--threads", "1")
    shutil.rmtree(folder / "data")
    assert ended.code in (0, 4), ended.text
    for spoilt in (truncated, shaped, holed):
        assert spoilt.name in ended.text


def _images(site: Path) -> list[Path]:
    return sorted(site.rglob("*.nii.gz"))


def _results(c: Cohort) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((c.results / "results.json").read_text())
    return found
