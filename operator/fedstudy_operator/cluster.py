"""The port through which reconcilers see a cluster: Kubernetes in a hospital, an object store in memory on one machine.

Objects are plain dictionaries in the form of the Kubernetes API (apiVersion, kind, metadata, spec, status, …).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Object = dict[str, Any]


@dataclass(frozen=True, order=True, slots=True)
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


class ForbiddenError(Exception):
    """The cluster does not let us: a right is missing, or the namespace is being deleted; the message says which."""


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

    async def keys(self, kind: str) -> Sequence[Key]:
        """Which objects of a kind are there, in all of our namespaces."""
        ...

    async def apply(self, obj: Object, *, manager: str) -> Object:
        """Server-side apply, forced: create, or own exactly these fields. Nothing is written where nothing changes.

        Raises InvalidObjectError.
        """
        ...

    async def make(self, obj: Object, *, manager: str) -> None:
        """Create an object that is written once, as a Job; one that is there stays as others have made it.

        Raises InvalidObjectError.
        """
        ...

    async def patch_status(self, key: Key, status: Object, *, manager: str) -> Object:
        """Replace the status subresource by server-side apply under its own manager. Raises NotFoundError."""
        ...

    async def delete(self, key: Key, *, uid: str | None = None) -> None:
        """Delete in the background, with all that it owns; no error where it is gone already."""
        ...

    async def warnings(self, obj: Object) -> Sequence[str]:
        """What the cluster's own controllers complain of about an object, the latest last; empty where nobody does."""
        ...


class WatchedCluster(Cluster, Protocol):
    """A cluster that tells of changes itself; in Kubernetes that is kopf's work."""

    def watch(self, kind: str) -> AsyncIterator[Event]:
        """All present objects as ADDED, then changes, for ever."""
        ...
