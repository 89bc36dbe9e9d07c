"""One values file in Git is a hospital: its datasets and participants, word for word; both charts fit into one cluster; CRDs outlive a release."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.charts.conftest import CHARTS, HOSPITAL, Object, Render, named

from fedstudy_operator import manifests


def key(obj: Object) -> tuple[str, str, str]:
    """What may not be twice in a cluster."""
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def test_datasets_and_participants_are_rendered_as_they_are_written(render: Render, tmp_path: Any) -> None:
    objects = render("fedstudy-site", HOSPITAL)
    for kind, word in (("SiteDataset", "datasets"), ("SiteParticipant", "participants")):
        (found,) = named(objects, kind)
        assert found["spec"] == HOSPITAL[word][0]["spec"]
        assert found["metadata"]["namespace"] == "neuro"
    file = tmp_path / "hospital.yaml"
    file.write_text(yaml.safe_dump_all([*named(objects, "SiteDataset"), *named(objects, "SiteParticipant")]))
    read, faults = manifests.read([file])
    assert (len(read), faults) == (2, [])


def test_without_a_namespace_they_are_in_the_releases(render: Render) -> None:
    values = {"datasets": [{"name": "d", "spec": {"volume": {"persistentVolumeClaim": "c"}}}]}
    (found,) = named(render("fedstudy-site", values), "SiteDataset")
    assert found["metadata"]["namespace"] == "fedstudy"


def test_both_charts_fit_into_one_cluster_and_one_namespace(render: Render) -> None:
    hub, site = ([key(o) for o in render(chart)] for chart in CHARTS)
    assert not set(hub) & set(site)
    assert len(hub) == len(set(hub)) and len(site) == len(set(site))


@pytest.mark.parametrize("chart", CHARTS)
def test_two_releases_in_two_namespaces_share_no_cluster_wide_object_but_the_crds(
    render: Render, chart: str
) -> None:
    one = {key(o) for o in render(chart) if "namespace" not in o["metadata"]}
    two = {key(o) for o in render(chart, {}, "--namespace", "other") if "namespace" not in o["metadata"]}
    assert {kind for kind, _, _ in one & two} == {"CustomResourceDefinition"}


@pytest.mark.parametrize("chart", CHARTS)
def test_crds_outlive_the_release_unless_told_otherwise(render: Render, chart: str) -> None:
    keep = {"helm.sh/resource-policy": "keep"}
    found = named(render(chart), "CustomResourceDefinition")
    assert found
    assert all(crd["metadata"]["annotations"] == keep for crd in found)
    dropped = named(render(chart, {"crds": {"keep": False}}), "CustomResourceDefinition")
    assert len(dropped) == len(found)
    assert not any("annotations" in crd["metadata"] for crd in dropped)
    assert not named(render(chart, {"crds": {"enabled": False}}), "CustomResourceDefinition")


@pytest.mark.parametrize("chart", CHARTS)
def test_further_objects_may_use_the_releases_values(render: Render, chart: str) -> None:
    extra = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Values.trustDomain }}-b'}\n",
    ]
    found = {o["metadata"]["name"] for o in named(render(chart, {"extraObjects": extra}), "ConfigMap")}
    assert found == {"fs-a", "fedstudy-b"}
