"""The corpus of good and bad manifests against `fedstudy validate`'s door: manifests.read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.merge import patched

from fedstudy_operator import manifests

CORPUS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent.parent / "corpus" / "manifests.yaml").read_text()
)


@pytest.mark.parametrize("name", CORPUS["base"])
def test_a_good_manifest_has_no_fault(name: str, tmp_path: Path) -> None:
    assert faults_of(tmp_path, CORPUS["base"][name]) == []


@pytest.mark.parametrize("case", CORPUS["bad"], ids=lambda case: case["name"])
def test_a_bad_manifest_is_refused_with_its_field(case: dict[str, Any], tmp_path: Path) -> None:
    faults = faults_of(tmp_path, patched(CORPUS["base"][case["base"]], case["patch"]))
    text = "\n".join(map(str, faults))
    assert faults, "nothing was refused"
    for word in case["expect"]:
        assert word in text, text
    assert all(fault.line > 0 for fault in faults)


def test_all_faults_come_at_once_with_the_lines_they_stand_on(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "apiVersion: fedstudy.io/v1alpha1\nkind: SiteParticipant\nmetadata: {name: x}\nspec:\n"
        "  siteName: A\n  datasetref: d\n  study:\n    name: s\n    namespace: hub\n"
    )
    _, faults = manifests.read([file])
    assert [(fault.line, fault.field) for fault in faults] == [
        (5, "spec.datasetRef"),
        (5, "spec.siteName"),
        (6, "spec.datasetref"),
    ]
    assert "Did you mean datasetRef?" in str(faults[2])


def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(CORPUS["base"]["dataset"]) + "kind: SiteDataset\n")
    assert any("stands twice" in str(fault) for fault in manifests.read([file])[1])


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("apiVersion: fedstudy.io/v1alpha1\nkind: [\n")
    (fault,) = manifests.read([file])[1]
    assert fault.line in (2, 3)
    assert "not valid YAML" in str(fault)


def test_a_study_without_sites_is_a_fault(tmp_path: Path) -> None:
    study = patched(CORPUS["base"]["study"], {"spec": {"sites": []}})
    assert any(
        fault.field == "spec.sites" and "nobody is invited" in fault.message
        for fault in faults_of(tmp_path, study)
    )


def test_a_participant_must_be_listed_and_its_dataset_there(tmp_path: Path) -> None:
    stranger = patched(CORPUS["base"]["participant"], {"spec": {"siteName": "bb", "datasetRef": "glioma"}})
    text = "\n".join(
        map(str, faults_of(tmp_path, CORPUS["base"]["study"], stranger, CORPUS["base"]["dataset"]))
    )
    assert "'bb' is not listed in the study's sites. Did you mean b?" in text
    assert "no SiteDataset 'glioma'" in text
    assert "Did you mean gliomas?" in text


def test_the_command_reports_and_ends_with_the_documented_code(tmp_path: Path) -> None:
    write(tmp_path, patched(CORPUS["base"]["study"], {"spec": {"training": {"batchSize": "x"}}}))
    done = subprocess.run(
        [sys.executable, "-m", "fedstudy_operator.cli", "validate", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)[0]["field"] == "spec.training.batchSize"
    assert "Traceback" not in done.stderr


def faults_of(folder: Path, *objects: dict[str, Any]) -> list[manifests.Fault]:
    """What `fedstudy validate` finds in a folder with these objects."""
    write(folder, *objects)
    return manifests.read([folder])[1]


def write(folder: Path, *objects: dict[str, Any]) -> None:
    """One file with all objects."""
    (folder / "objects.yaml").write_text(
        "\n---\n".join(yaml.safe_dump(obj, sort_keys=False) for obj in objects)
    )
