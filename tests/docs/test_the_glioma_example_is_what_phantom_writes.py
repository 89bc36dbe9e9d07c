"""examples/glioma-phantom holds the manifests that `fedstudy phantom` writes for the demo's hospitals, and what a cluster needs; they are valid."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from fedstudy_operator import manifests
from fedstudy_operator.api import API_VERSION


@pytest.fixture
def example(repository: Path) -> Path:
    return repository / "examples" / "glioma-phantom"


def test_the_example_is_up_to_date(repository: Path, example: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("examples_generate", repository / "examples/generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fresh = {path.name: path.read_text() for path in module.write(tmp_path)}
    committed = {path.name: path.read_text() for path in example.iterdir() if path.suffix == ".yaml"}
    assert committed == fresh, "run: make examples"


def test_the_example_has_no_fault(example: Path) -> None:
    found, faults = manifests.read([example])
    assert (len(found), faults) == (9, []), "what is not of fedstudy.io is passed over"


def test_kubectl_reads_all_of_it_and_namespaces_first(example: Path) -> None:
    """`kubectl apply -f FOLDER` reads the YAML at the top of a folder, in the order of names."""
    assert not [path for path in example.rglob("*.yaml") if path.parent != example]
    objects = [
        obj for path in sorted(example.glob("*.yaml")) for obj in yaml.safe_load_all(path.read_text()) if obj
    ]
    there: set[str] = set()
    for obj in objects:
        if obj["kind"] == "Namespace":
            there.add(obj["metadata"]["name"])
        else:
            assert obj["metadata"]["namespace"] in there, obj["metadata"]["name"]
    claims = {o["metadata"]["namespace"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    jobs = {o["metadata"]["namespace"]: o for o in objects if o["kind"] == "Job"}
    for dataset in (o for o in objects if o["kind"] == "SiteDataset"):
        site = dataset["metadata"]["namespace"]
        assert site in claims and dataset["spec"]["volume"]["persistentVolumeClaim"] == site
        command = jobs[site]["spec"]["template"]["spec"]["containers"][0]["command"]
        assert command[-2:] == ["--site", site]
    assert {o["kind"] for o in objects if o["apiVersion"] == API_VERSION} == set(manifests.KINDS)


def test_its_jobs_give_words_that_the_trainer_knows(example: Path) -> None:
    from fedstudy_trainer.__main__ import _parser

    text = (example / "00-cluster.yaml").read_text()
    jobs = [obj for obj in yaml.safe_load_all(text) if obj["kind"] == "Job"]
    assert len(jobs) == 4
    for job in jobs:
        command = job["spec"]["template"]["spec"]["containers"][0]["command"]
        options = _parser().parse_args(command[1:])
        assert (command[0], options.command, options.out) == ("fedstudy-trainer", "phantom", "/data")
    assert not re.search(r"nvidia|/work", text)
