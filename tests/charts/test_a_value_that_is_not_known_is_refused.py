"""values.schema.json (checklist 33): an unknown or ill-typed value is an error that names it, whatever map it is in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.charts.conftest import CHARTS, EVERYTHING, HOSPITAL, Render

Template = Callable[..., subprocess.CompletedProcess[str]]


def maps(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all maps of values in a schema."""
    if "properties" in schema:
        yield path
        for name, node in schema["properties"].items():
            yield from maps(node, (*path, name))


def nested(path: tuple[str, ...], value: Any) -> Any:
    """A value at a path."""
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.mark.slow
@pytest.mark.parametrize("chart", CHARTS)
def test_every_map_of_values_refuses_what_it_does_not_know(
    template: Template, charts: Path, chart: str
) -> None:
    schema = json.loads((charts / chart / "values.schema.json").read_text())
    found = list(maps(schema))
    assert len(found) > 10
    for path in found:
        done = template(chart, nested((*path, "imagee"), "x"))
        assert done.returncode != 0, path
        assert "imagee" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"replicas": "two"}, "replicas"),
        ({"replicas": 11}, "replicas"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"watchNamespaces": ["Not_A_Namespace"]}, "watchNamespaces"),
        ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
        ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
        ({"networkPolicy": {"apiServerPorts": [0]}}, "apiServerPorts"),
        ({"metrics": {"prometheusRule": {"freeShare": 2}}}, "freeShare"),
        ({"commonLabels": {"a": 1}}, "commonLabels"),
    ],
)
@pytest.mark.parametrize("chart", CHARTS)
def test_an_ill_typed_value_is_refused_by_its_name(
    template: Template, chart: str, values: dict[str, Any], word: str
) -> None:
    done = template(chart, values)
    assert done.returncode != 0
    assert word in done.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"datasets": [{"name": "a"}]},
        {"datasets": [{"spec": {}}]},
        {"datasets": [{"name": "A B", "spec": {}}]},
        {"participants": [{"name": "a", "spec": {}, "status": {}}]},
        {"participants": [{"name": "a", "spec": "x"}]},
    ],
)
def test_a_resource_of_a_hospital_has_a_name_a_spec_and_no_more(template: Template, values: Any) -> None:
    assert template("fedstudy-site", values).returncode != 0


def test_what_is_of_the_site_alone_the_hub_refuses(template: Template) -> None:
    for word in HOSPITAL:
        if word != "watchNamespaces":
            assert template("fedstudy-hub", {word: HOSPITAL[word]}).returncode != 0, word


@pytest.mark.parametrize("chart", CHARTS)
def test_everything_at_once_is_accepted(render: Render, chart: str) -> None:
    assert render(chart, EVERYTHING)
