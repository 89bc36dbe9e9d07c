"""`kubectl explain` has text for each field (checklist 32), and `kubectl get` says how it is going."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

PLURALS = ("federatedstudies", "siteparticipants", "sitedatasets")
KUBERNETES_OWN = {".apiVersion", ".kind", ".metadata"}


def fields(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema with its path."""
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child, f"{path}.{name}")
    if "items" in node:
        yield from fields(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from fields(node["additionalProperties"], f"{path}{{}}")


def version(repository: Path, plural: str) -> dict[str, Any]:
    """The one version of a CRD."""
    text = (repository / "crds" / f"fedstudy.io_{plural}.yaml").read_text(encoding="utf-8")
    (found,) = yaml.safe_load(text)["spec"]["versions"]
    result: dict[str, Any] = found
    return result


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_says_what_it_is(repository: Path, plural: str) -> None:
    found = list(fields(version(repository, plural)["schema"]["openAPIV3Schema"]))
    assert len(found) > 20
    silent = [p for p, node in found if p not in KUBERNETES_OWN and len(node.get("description", "")) < 4]
    assert silent == []


@pytest.mark.parametrize("plural", PLURALS)
def test_the_columns_answer_how_it_is_going(repository: Path, plural: str) -> None:
    columns = version(repository, plural)["additionalPrinterColumns"]
    narrow = [column["name"] for column in columns if not column.get("priority")]
    assert narrow[:2] == ["Ready", "Reason"] and narrow[-1] == "Age"
    assert any(column.get("priority") for column in columns), "-o wide shows more"


@pytest.mark.parametrize("plural", PLURALS)
def test_a_definition_is_small_enough_for_client_side_apply(repository: Path, plural: str) -> None:
    assert (repository / "crds" / f"fedstudy.io_{plural}.yaml").stat().st_size < 200_000
