"""crds/ is generated; what is committed is what the models say, and it is fit for an API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedstudy_operator.api.crd import NAMES, definition, write_all

MODELS = list(NAMES)
SPEC_AND_STATUS = [(model, part) for model in MODELS for part in ("spec", "status")]


def test_regenerating_changes_nothing(repository: Path, tmp_path: Path) -> None:
    fresh = {path.name: path.read_text() for path in write_all(tmp_path)}
    committed = {path.name: path.read_text() for path in (repository / "crds").glob("*.yaml")}
    assert committed == fresh, "run `make crds` and commit the result"


@pytest.mark.parametrize("model", MODELS)
def test_a_crd_is_small_enough_for_client_side_apply(model: Any) -> None:
    assert len(yaml.safe_dump(definition(model))) < 200_000


@pytest.mark.parametrize("model", MODELS)
def test_a_schema_is_structural(model: Any) -> None:
    for path, node in nodes(schema(model), ""):
        assert not {"$ref", "anyOf", "oneOf", "allOf", "not", "const", "$defs", "nullable"} & set(node), path
        typed = (
            "type" in node
            or "x-kubernetes-preserve-unknown-fields" in node
            or "x-kubernetes-int-or-string" in node
        )
        assert typed, f"{path} has no type"


@pytest.mark.parametrize("model", MODELS)
def test_only_arguments_and_parameters_hold_any_value(model: Any) -> None:
    free = [path for path, node in nodes(schema(model), "") if "x-kubernetes-preserve-unknown-fields" in node]
    assert set(free) <= {".spec.model.network.arguments.*", ".spec.federation.algorithm.parameters.*"}


@pytest.mark.parametrize(("model", "part"), SPEC_AND_STATUS)
def test_every_field_is_described(model: Any, part: str) -> None:
    silent = [
        path
        for path, node in nodes(schema(model)["properties"][part], part)
        if named(path) and not node.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize(("model", "part"), SPEC_AND_STATUS)
def test_every_string_list_and_map_is_bounded(model: Any, part: str) -> None:
    """Without bounds the API server cannot bound the cost of a CEL rule, and refuses it."""
    unbounded = []
    for path, node in nodes(schema(model)["properties"][part], part):
        if node.get("type") == "string" and not {"maxLength", "enum"} & set(node):
            unbounded.append(path)
        if node.get("type") == "array" and "maxItems" not in node:
            unbounded.append(path)
        if node.get("type") == "object" and "additionalProperties" in node and "maxProperties" not in node:
            unbounded.append(path)
    assert [path for path in unbounded if not path.endswith(("columns.*", "nodeSelector.*"))] == []


@pytest.mark.parametrize("model", MODELS)
def test_lists_of_named_things_are_maps(model: Any) -> None:
    for path, node in nodes(schema(model), ""):
        if node.get("type") == "array" and path.endswith(
            (".conditions", ".sites", ".metrics", ".covariates")
        ):
            assert node["x-kubernetes-list-type"] == "map", path


@pytest.mark.parametrize("model", MODELS)
def test_status_is_a_subresource_and_ready_is_a_column(model: Any) -> None:
    version = definition(model)["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    assert [column["name"] for column in version["additionalPrinterColumns"]][:2] == ["Ready", "Reason"]


def schema(model: Any) -> dict[str, Any]:
    """The OpenAPI schema of a kind."""
    found: dict[str, Any] = definition(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All nodes of a schema with their paths."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        if path or name in ("spec", "status"):
            yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}.*")


def named(path: str) -> bool:
    """Whether a path is a field, rather than an entry of a list or map."""
    return not path.endswith(("[]", "*"))
