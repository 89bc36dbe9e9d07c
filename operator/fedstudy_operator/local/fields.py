"""Fields of objects as server-side apply sees them: who owns which, and what an apply changes. Pure functions.

An object is flattened to leaves: a path and a value. Lists whose items have an identifying key (conditions by type, containers by
name, …) are walked by that key; all other lists are leaves as a whole, as `x-kubernetes-list-type: atomic` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """A step of a path into a list: the item whose `key` is `value`."""

    key: str
    value: Any


Step = str | Item
Path = tuple[Step, ...]
Leaves = dict[Path, Any]

LIST_KEYS: Mapping[str, str] = {
    "conditions": "type",
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "ports": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "sites": "name",
    "metrics": "name",
}
"""Lists that are merged by key; the name of the list → the key of its items."""


def _list_key(name: Step | None, value: list[Any]) -> str | None:
    key = LIST_KEYS.get(name) if isinstance(name, str) else None
    if key is None or not value or not all(isinstance(item, dict) and key in item for item in value):
        return None
    return key if len({str(item[key]) for item in value}) == len(value) else None


def flatten(value: Any, path: Path = ()) -> Leaves:
    """The leaves of an object, in their order."""
    leaves: Leaves = {}
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            leaves.update(flatten(inner, (*path, name)))
        return leaves
    if isinstance(value, list) and (key := _list_key(path[-1] if path else None, value)):
        for item in value:
            leaves.update(flatten(item, (*path, Item(key, item[key]))))
        return leaves
    return {path: value}


def unflatten(leaves: Leaves) -> dict[str, Any]:
    """The object whose leaves these are; items of keyed lists come in the order of their first leaf."""
    tree: dict[Step, Any] = {}
    for path, value in leaves.items():
        node = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
        if path:
            node[path[-1]] = _Leaf(value)
    built = _build(tree)
    return built if isinstance(built, dict) else {}


@dataclass(frozen=True)
class _Leaf:
    value: Any


def _build(node: Any) -> Any:
    if isinstance(node, _Leaf):
        return node.value
    if node and all(isinstance(step, Item) for step in node):
        return [_build(inner) for inner in node.values()]
    return {step: _build(inner) for step, inner in node.items()}


def _beneath(path: Path, leaves: Leaves) -> bool:
    return any(len(other) > len(path) and other[: len(path)] == path for other in leaves)


def _related(a: Path, b: Path) -> bool:
    """Whether one path is the other, or lies above it."""
    short = min(len(a), len(b))
    return a[:short] == b[:short]


def without(leaves: Leaves, paths: Iterable[Path]) -> Leaves:
    """The leaves that are none of these paths."""
    gone = set(paths)
    return {path: value for path, value in leaves.items() if path not in gone}


def overlay(live: Leaves, wanted: Leaves) -> Leaves:
    """The leaves of `live` with those of `wanted` put over them; what cannot stand beside them goes.

    An empty map or list that is wanted does not clear what others have in it.
    """
    wanted = {p: v for p, v in wanted.items() if v not in ({}, []) or not _beneath(p, live)}
    merged = dict(live)
    fresh = [path for path in wanted if path not in merged]
    if fresh:
        merged = {p: v for p, v in merged.items() if p in wanted or not any(_related(p, f) for f in fresh)}
    merged.update(wanted)
    return merged


@dataclass
class Ownership:
    """Which manager owns which leaves of one object."""

    by_manager: dict[str, set[Path]]

    def apply(self, manager: str, live: Leaves, wanted: Leaves) -> Leaves:
        """What the object becomes when `manager`, by force, wants exactly these leaves; ownership is updated.

        Leaves that the manager owned before, no longer wants, and nobody else owns are removed.
        """
        before = self.by_manager.get(manager, set())
        others: set[Path] = set()
        for name, paths in self.by_manager.items():
            if name != manager:
                others |= paths
        merged = overlay(without(live, before - set(wanted) - others), wanted)
        for name in list(self.by_manager):
            if name != manager:
                kept = {p for p in self.by_manager[name] if p in merged and _unchanged(p, live, merged)}
                self.by_manager[name] = kept
        self.by_manager[manager] = set(wanted)
        return merged

    def to_json(self) -> dict[str, list[list[Any]]]:
        """A form that JSON holds."""
        return {
            name: [[s if isinstance(s, str) else {"key": s.key, "value": s.value} for s in p] for p in paths]
            for name, paths in self.by_manager.items()
        }

    @classmethod
    def from_json(cls, document: Mapping[str, list[list[Any]]]) -> Ownership:
        """The ownership that `to_json` wrote."""
        return cls(
            {
                name: {tuple(s if isinstance(s, str) else Item(**s) for s in p) for p in paths}
                for name, paths in document.items()
            }
        )


def _unchanged(path: Path, live: Leaves, merged: Leaves) -> bool:
    return path in live and live[path] == merged[path]
