"""global.imageRegistry (checklist 33): no image of the release comes from anywhere else, and the operator is told to do the same with those it starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.charts.conftest import CHARTS, Object, Render, named, pods

MIRROR = "registry.hospital.example:5000/mirror"


def environment(objects: list[Object]) -> dict[str, Any]:
    """The operator's environment."""
    (deployment,) = named(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def images(objects: list[Object]) -> set[str]:
    """Every image of the release: of its pods, and those that the operator starts."""
    found = {
        container["image"]
        for _, spec in pods(objects)
        for container in (*spec["containers"], *spec.get("initContainers", []))
    }
    known = environment(objects)
    return {*found, known["FEDSTUDY_IMAGE"], known["FEDSTUDY_TRAINER_IMAGE"]}


@pytest.mark.parametrize("chart", CHARTS)
def test_every_image_comes_from_the_one_registry(render: Render, chart: str) -> None:
    objects = render(chart, {"global": {"imageRegistry": MIRROR}})
    assert images(objects) == {f"{MIRROR}/fedstudy:0.1.0", f"{MIRROR}/fedstudy-trainer:0.1.0"}
    assert environment(objects)["FEDSTUDY_REGISTRY"] == MIRROR
    assert "localhost" not in str(objects)


@pytest.mark.parametrize("chart", CHARTS)
def test_without_it_each_image_has_its_own_registry(render: Render, chart: str) -> None:
    objects = render(
        chart,
        {
            "image": {"registry": "a.example", "tag": "test"},
            "trainerImage": {"registry": "", "repository": "b", "digest": f"sha256:{'1' * 64}"},
        },
    )
    assert images(objects) == {"a.example/fedstudy:test", f"b@sha256:{'1' * 64}"}
    assert environment(objects)["FEDSTUDY_REGISTRY"] == ""


@pytest.mark.parametrize("chart", CHARTS)
def test_no_template_writes_an_image_by_hand(charts: Path, chart: str) -> None:
    lines = [
        line
        for path in (charts / chart / "templates").rglob("*.yaml")
        if not path.name.startswith("crd-")
        for line in path.read_text().splitlines()
        if re.match(r"\s*(- )?image:", line)
    ]
    assert lines
    assert all('include "fedstudy.image"' in line for line in lines)


@pytest.mark.parametrize("chart", CHARTS)
def test_pull_secrets_are_the_operators_and_those_of_every_pod_that_it_makes(
    render: Render, chart: str
) -> None:
    objects = render(chart, {"imagePullSecrets": [{"name": "one"}, {"name": "two"}]})
    assert environment(objects)["FEDSTUDY_PULL_SECRETS"] == "one,two"
    for name, spec in pods(objects):
        assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}], name
