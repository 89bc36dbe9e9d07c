"""The port through which reconcilers see a cluster: Kubernetes in a hospital, an object store in memory on one machine.

Objects are plain dictionaries in the form of the Kubernetes API (apiVersion, kind, metadata, spec, status, …).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Object = dict[str, Any]


@dataclass(frozen=True, order=True)
class Key:
    """Which object: kind, namespace, name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Event:
    """Something happened to an object."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object


class NotFoundError(Exception):
    """There is no such object."""


class ConflictError(Exception):
    """The object changed in between, or a field belongs to another manager."""


class InvalidObjectError(Exception):
    """The cluster refuses the object; the message names the field."""


class Cluster(Protocol):
    """What a reconciler may do."""

    async def get(self, key: Key) -> Object:
        """The object. Raises NotFoundError."""
        ...

    async def list(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """Objects of a kind, of one or all namespaces, with all of these labels; in order of namespace and name."""
        ...

    async def apply(self, obj: Object, *, manager: str) -> Object:
        """Server-side apply, forced: create, or own exactly these fields. Nothing is written where nothing changes.

        Raises InvalidObjectError.
        """
        ...

    async def patch_status(self, key: Key, status: Object, *, manager: str) -> Object:
        """Replace the status subresource by server-side apply under its own manager. Raises NotFoundError."""
        ...

    async def delete(self, key: Key, *, uid: str | None = None) -> None:
        """Delete in the background, with all that it owns; no error where it is gone already."""
        ...

    def watch(self, kind: str) -> AsyncIterator[Event]:
        """All present objects as ADDED, then changes, for ever."""
        ...
