"""Copies, tables and schemas of the charts say what their sources say; the CRDs in them are those of crds/. Needs no Helm for the files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tests.charts.conftest import CHARTS, Render, named


@pytest.fixture(scope="module")
def generator(repository: Path) -> ModuleType:
    """charts/generate.py as a module."""
    import sys

    spec = importlib.util.spec_from_file_location("charts_generate", repository / "charts" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["charts_generate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("chart", CHARTS)
def test_no_generated_file_has_gone_its_own_way(generator: ModuleType, charts: Path, chart: str) -> None:
    stale = [
        name
        for name, content in generator.generated(chart).items()
        if not (charts / chart / name).exists()
        or (charts / chart / name).read_text(encoding="utf-8") != content
    ]
    assert not stale, "run: make charts"


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_has_no_copy_that_is_made_no_more(generator: ModuleType, charts: Path, chart: str) -> None:
    made = set(generator.generated(chart))
    marked = {
        str(path.relative_to(charts / chart))
        for path in (charts / chart / "templates").rglob("*")
        if path.is_file() and "Made by `make charts`" in path.read_text(encoding="utf-8")
    }
    assert marked <= made


@pytest.mark.parametrize("chart", CHARTS)
def test_the_crds_of_a_chart_are_those_of_the_repository(
    render: Render, repository: Path, generator: ModuleType, chart: str
) -> None:
    found = {crd["metadata"]["name"]: crd["spec"] for crd in named(render(chart), "CustomResourceDefinition")}
    wanted = {
        (crd := yaml.safe_load((repository / "crds" / f"fedstudy.io_{plural}.yaml").read_text()))["metadata"][
            "name"
        ]: crd["spec"]
        for plural in generator.KINDS[chart]
    }
    assert found == wanted


def test_every_crd_of_the_repository_is_in_exactly_one_chart(repository: Path, generator: ModuleType) -> None:
    shipped = [plural for plurals in generator.KINDS.values() for plural in plurals]
    assert sorted(f"fedstudy.io_{plural}.yaml" for plural in shipped) == sorted(
        path.name for path in (repository / "crds").glob("*.yaml")
    )


def test_a_value_without_documentation_is_an_error(generator: ModuleType) -> None:
    with pytest.raises(generator.ValuesError, match="line 1: a has no"):
        generator.parse("a: 1\n")
    with pytest.raises(generator.ValuesError, match="line 2: the schema is no JSON"):
        generator.parse("# -- A.\na: 1 # @schema {no}\n")


def test_a_schema_is_inferred_from_the_default_and_narrowed_by_its_comment(generator: ModuleType) -> None:
    text = '# -- How many.\na: 1 # @schema {"minimum": 1}\nb:\n  # -- Whether.\n  c: true\n'
    schema = generator.schema(generator.parse(text))
    assert schema["properties"]["a"] == {
        "description": "How many.", "type": "integer", "minimum": 1, "default": 1,
    }  # fmt: skip
    assert schema["properties"]["b"]["additionalProperties"] is False
    assert schema["properties"]["b"]["properties"]["c"]["type"] == "boolean"
