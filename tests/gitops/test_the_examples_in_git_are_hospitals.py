"""docs/gitops: what the examples for Flux and Argo CD give to the chart, the chart takes; what they refer to is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fedstudy_operator import manifests

Object = dict[str, Any]


@pytest.fixture(scope="module")
def gitops() -> Path:
    return Path(__file__).resolve().parents[2] / "docs" / "gitops"


def documents(file: Path) -> list[Object]:
    return [obj for obj in yaml.safe_load_all(file.read_text()) if obj]


def flux_values(gitops: Path) -> Object:
    (release,) = [o for o in documents(gitops / "flux" / "hospital.yaml") if o["kind"] == "HelmRelease"]
    values: Object = release["spec"]["values"]
    return values


def argo_values(gitops: Path) -> Object:
    (application,) = documents(gitops / "argo-cd" / "application.yaml")
    values: Object = application["spec"]["source"]["helm"]["valuesObject"]
    return values


@pytest.mark.parametrize("source", [flux_values, argo_values])
def test_their_values_are_the_charts_and_their_resources_are_valid(
    repository: Path, gitops: Path, tmp_path: Path, source: Any
) -> None:
    values = source(gitops)
    schema = json.loads((repository / "charts" / "fedstudy-site" / "values.schema.json").read_text())
    jsonschema.validate(values, schema)
    resources = [
        {
            "apiVersion": "fedstudy.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": entry["name"], "namespace": entry["namespace"]},
            "spec": entry["spec"],
        }
        for kind, word in (("SiteDataset", "datasets"), ("SiteParticipant", "participants"))
        for entry in values[word]
    ]
    (tmp_path / "hospital.yaml").write_text(yaml.safe_dump_all(resources))
    found, faults = manifests.read([tmp_path])
    assert (len(found), faults) == (2, [])
    assert {o["metadata"]["namespace"] for o in resources} <= set(values["watchNamespaces"])


def test_both_describe_the_same_hospital(gitops: Path) -> None:
    flux = {key: value for key, value in flux_values(gitops).items() if key != "crds"}
    assert flux == argo_values(gitops)


def test_flux_makes_the_definitions_first(repository: Path, gitops: Path) -> None:
    objects = {
        o["metadata"]["name"]: o["spec"]
        for o in documents(gitops / "flux" / "cluster.yaml")
        if o["kind"] == "Kustomization"
    }
    definitions = objects["fedstudy-crds"]
    assert (repository / definitions["path"]).is_dir()
    assert (definitions["prune"], definitions["wait"]) == (False, True)
    assert objects["fedstudy-hospital"]["dependsOn"] == [{"name": "fedstudy-crds"}]
    assert flux_values(gitops)["crds"] == {"enabled": False}
    hospital = documents(gitops / "flux" / "hospital.yaml")
    namespaces = {o["metadata"]["name"] for o in hospital if o["kind"] == "Namespace"}
    assert set(flux_values(gitops)["watchNamespaces"]) <= namespaces
    assert hospital[-1]["spec"]["targetNamespace"] in namespaces


def test_the_entry_for_argo_cds_settings_has_the_actions_word_for_word(gitops: Path) -> None:
    (entry,) = yaml.safe_load((gitops / "argo-cd" / "actions.yaml").read_text()).values()
    actions = yaml.safe_load(entry)
    folder = gitops / "argo-cd" / "actions"
    assert actions["discovery.lua"].strip() == (folder / "discovery.lua").read_text().strip()
    found = {action["name"]: action["action.lua"].strip() for action in actions["definitions"]}
    assert found == {name: (folder / f"{name}.lua").read_text().strip() for name in ("suspend", "resume")}
