"""What the chart tells the operator is what the operator's contract names, and its probes and replicas are those of a production service."""

from __future__ import annotations

import pytest
from tests.charts.conftest import CHARTS, Render, named
from tests.charts.test_one_value_rewrites_every_image import environment

NAMES = {
    "FEDSTUDY_ROLE", "FEDSTUDY_NAMESPACES", "FEDSTUDY_IMAGE", "FEDSTUDY_TRAINER_IMAGE", "FEDSTUDY_REGISTRY",
    "FEDSTUDY_PULL_SECRETS", "FEDSTUDY_TRUST_DOMAIN", "FEDSTUDY_QUEUES", "FEDSTUDY_LEASE", "FEDSTUDY_HTTP",
    "POD_NAME", "POD_NAMESPACE",
}  # fmt: skip


@pytest.mark.parametrize(("chart", "role"), [("fedstudy-hub", "hub"), ("fedstudy-site", "site")])
def test_by_default_it_serves_its_role_in_all_namespaces(render: Render, chart: str, role: str) -> None:
    found = environment(render(chart))
    assert set(found) == NAMES
    assert (found["FEDSTUDY_ROLE"], found["FEDSTUDY_NAMESPACES"]) == (role, "")
    assert found["FEDSTUDY_LEASE"] == f"fedstudy-operator-{role}"
    assert found["FEDSTUDY_QUEUES"] == "false"
    assert found["FEDSTUDY_HTTP"] == "0.0.0.0:8080"
    assert found["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


@pytest.mark.parametrize("chart", CHARTS)
def test_values_reach_the_operator(render: Render, chart: str) -> None:
    values = {
        "watchNamespaces": ["a", "b"],
        "kueue": True,
        "trustDomain": "hospitals.example",
        "leaseName": "l",
    }
    found = environment(render(chart, values))
    assert found["FEDSTUDY_NAMESPACES"] == "a,b"
    assert found["FEDSTUDY_QUEUES"] == "true"
    assert found["FEDSTUDY_TRUST_DOMAIN"] == "hospitals.example"
    assert found["FEDSTUDY_LEASE"] == "l"


@pytest.mark.parametrize("chart", CHARTS)
def test_an_upgrade_and_a_drained_node_leave_an_operator(render: Render, chart: str) -> None:
    objects = render(chart)
    (deployment,) = named(objects, "Deployment")
    spec = deployment["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }  # fmt: skip
    labels = spec["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "fedstudy"
    assert labels["app.kubernetes.io/component"] == "operator"
    (budget,) = named(objects, "PodDisruptionBudget")
    for selector in (spec["selector"], budget["spec"]["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert not named(render(chart, {"replicas": 1}), "PodDisruptionBudget")
    (container,) = spec["template"]["spec"]["containers"]
    for probe, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    assert container["ports"] == [{"name": "metrics", "containerPort": 8080, "protocol": "TCP"}]


@pytest.mark.parametrize("chart", CHARTS)
def test_labels_of_the_house_are_on_every_object(render: Render, chart: str) -> None:
    objects = render(chart, {"commonLabels": {"example.org/owner": "imaging"}})
    without = [
        o["kind"] for o in objects if o["metadata"].get("labels", {}).get("example.org/owner") != "imaging"
    ]
    assert not without
    (deployment,) = named(objects, "Deployment")
    assert deployment["spec"]["template"]["metadata"]["labels"]["example.org/owner"] == "imaging"
