"""What is wrong in manifests is said at once, with file, line, field and remedy; nothing has been started or written by then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cohort_for_bad_input import Cohort, cohort, fedstudy


def _unknown_field(c: Cohort) -> str:
    c.study["federation"]["round"] = 3
    return "study.json:35: spec.federation.round: is not a field here. Did you mean rounds?"


def _malformed_value(c: Cohort) -> str:
    c.study["training"]["localEpochs"] = "many"
    return "spec.training.localEpochs: expected"


def _no_sites(c: Cohort) -> str:
    c.study["sites"] = []
    return "spec.sites: is empty: nobody is invited"


def _too_few_sites(c: Cohort) -> str:
    c.study["federation"]["minSites"] = 4
    return "spec.federation.minSites"


def _unlisted_site(c: Cohort) -> str:
    c.participants["north"]["siteName"] = "nroth"
    return "Did you mean north?"


SPOILS: list[Callable[[Cohort], str]] = [
    _unknown_field,
    _malformed_value,
    _no_sites,
    _too_few_sites,
    _unlisted_site,
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_each_fault_names_its_field(tmp_path: Path, spoil: Callable[[Cohort], str]) -> None:
    c = cohort(tmp_path / "c")
    expected = spoil(c)
    ended = fedstudy("run", c.write())
    assert ended.code == 3
    assert expected.split(": ", 1)[-1] in ended.text
    assert "study.json" in ended.text or "participant.json" in ended.text
    assert not c.results.exists()


def test_text_that_is_no_yaml_is_told_by_its_line(tmp_path: Path) -> None:
    folder = cohort(tmp_path / "c").write()
    (folder / "study.json").write_text('{"apiVersion": "fedstudy.io/v1alpha1",\n "kind": [}\n')
    for command in ("validate", "run", "plan"):
        ended = fedstudy(command, folder)
        assert ended.code == 3
        assert "study.json:2" in ended.text


def test_a_claim_without_a_folder_is_told_with_the_option_that_gives_one(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    del c.tables["north"]
    ended = fedstudy("run", c.write())
    assert ended.code == 3
    assert "--volume north=FOLDER" in ended.text


def test_results_of_an_earlier_run_are_never_overwritten(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    folder = c.write()
    c.results.mkdir()
    (c.results / "results.json").write_text("{}")
    ended = fedstudy("run", folder)
    assert ended.code == 3
    assert "holds an earlier run" in ended.text
    assert (c.results / "results.json").read_text() == "{}"


def test_a_folder_of_results_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c")
    folder = c.write()
    c.results.write_text("a file is in the way")
    ended = fedstudy("run", folder)
    assert ended.code == 3
    assert f"The folder of results {c.results} cannot be made" in ended.text


def test_nothing_to_resume_is_told(tmp_path: Path) -> None:
    ended = fedstudy("run", cohort(tmp_path / "c").write(), "--resume")
    assert ended.code == 3
    assert "nothing to resume" in ended.text
