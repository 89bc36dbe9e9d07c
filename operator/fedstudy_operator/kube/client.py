"""The Cluster port over a Kubernetes API: server-side apply under our field managers, and no call where nothing would change.

Each child carries the hash of what was applied last. Where the watch shows a child with the hash of what is wanted now, and all that is
wanted stands in it, applying it again can change nothing, and no request is made: an idle study costs no calls, also after a restart.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.cluster import (
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    Key,
    NotFoundError,
    Object,
)
from fedstudy_operator.kube.api import Api, UnavailableError
from fedstudy_operator.kube.kinds import KINDS, path_of
from fedstudy_operator.kube.memory import Packed, pack, unpack
from fedstudy_operator.kube.pods import Pods
from fedstudy_operator.kube.skew import Undeclared

_APPLY = "application/apply-patch+yaml"
PAGE = 100
"""How many objects a list has at most: they are in memory at the same time, each ten times as large as it is sent."""
APPLIED = f"{GROUP}/applied"
"""Annotation of a child: the hash of what the operator applied last."""


Objects = list[Object]


class NotLeaderError(Exception):
    """This replica may not write: it does not hold the Lease, or has not been able to renew it in time."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A child in which what is wanted stands: the hash of that, the child's version then, and what is kept of it."""

    wanted: bytes
    version: str
    live: bytes

    @classmethod
    def of(cls, wanted: str, live: Object) -> _Known:
        """Of a child as it is now."""
        return cls(bytes.fromhex(wanted), live["metadata"]["resourceVersion"], pack(_essentials(live)))


class KubernetesCluster:
    """Implements `fedstudy_operator.cluster.Cluster`.

    Args:
        api: how to ask.
        may_write: the fence; asked before every write.
        namespaces: where the operator works; empty: everywhere.
        on_status: told of each status that was written: the object before, and the object now.
        watched: kinds whose changes `saw` is told of: only their applies may be left out.
    """

    def __init__(
        self,
        api: Api,
        *,
        may_write: Callable[[], bool] = lambda: True,
        namespaces: Sequence[str] = (),
        on_status: Callable[[Object, Object], None] = lambda before, now: None,
        watched: Sequence[str] = (),
    ) -> None:
        self._api = api
        self._may_write = may_write
        self._namespaces = tuple(namespaces)
        self._on_status = on_status
        self._watched = frozenset(watched)
        self._known: dict[Key, _Known] = {}
        self._shown = Packed()
        """Children as the watch showed them since they were looked at last; at start that is all of them."""
        self._spoilt: set[Key] = set()
        """Children that are there, but not as wanted."""
        self._first = Packed()
        """Our resources as the watch showed them before they were read for the first time: the pass that they ask for need not ask again."""
        self._pods = Pods()
        self._live = Packed()
        """Our resources as last read or written, for as long as they are there: what a status is compared with."""
        self._written: dict[Key, str] = {}
        """The version that our last status made of a resource, or our last apply of a Secret, where these are watched."""
        self._unseen: dict[Key, float] = {}
        """Statuses that the watch has not shown yet, and since when."""
        self._undeclared = Undeclared()
        self.addresses: dict[str, str] = {}
        """Service `name.namespace.svc` → its cluster IP, for an operator outside the cluster's DNS."""

    # Reading

    async def get(self, key: Key) -> Object:
        """The object. Raises NotFoundError."""
        if (shown := self._first.pop(key)) is not None:
            self._live.put(key, _essentials(shown))
            return shown
        try:
            obj = _complete(key.kind, await self._api.request("GET", path_of(key)))
        except NotFoundError:
            self._live.drop(key)
            raise
        if key.kind in _OURS:
            self._live.put(key, _essentials(obj))
        return obj

    async def list(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """Objects of a kind, of one namespace or of all of ours, with all of these labels; in order of namespace and name."""
        if kind == "Pod" and kind in self._watched and namespace and labels:
            shown = self._pods.find(namespace, labels)
            if shown is not None:
                return shown
        wanted: Sequence[str | None] = [namespace] if namespace else (self._namespaces or [None])
        found: list[Object] = []
        for one in wanted:
            found += await self._pages(kind, one, labels or {})
        return sorted(found, key=lambda o: (o["metadata"].get("namespace", ""), o["metadata"]["name"]))

    async def keys(self, kind: str) -> Sequence[Key]:
        """Which objects of a kind are there, without keeping them all in memory."""
        found: list[Key] = []
        for one in self._namespaces or (None,):
            async for obj in self._each(kind, one, {"limit": str(PAGE)}):
                found.append(Key(kind, obj["metadata"]["namespace"], obj["metadata"]["name"]))
        return found

    async def _pages(self, kind: str, namespace: str | None, labels: Mapping[str, str]) -> Objects:
        query = {"labelSelector": ",".join(f"{name}={value}" for name, value in labels.items())}
        query |= {"limit": str(PAGE)} if namespace is None else {"resourceVersion": "0"}
        return [_complete(kind, obj) async for obj in self._each(kind, namespace, query)]

    async def _each(self, kind: str, namespace: str | None, query: dict[str, str]) -> AsyncIterator[Object]:
        while True:
            page = await self._api.request("GET", KINDS[kind].path(namespace), query=query)
            for obj in page.get("items") or []:
                yield obj
            if not (more := page["metadata"].get("continue")):
                return
            query = {**query, "continue": more}

    # Writing

    async def apply(self, obj: Object, *, manager: str) -> Object:
        """Server-side apply, forced: create, or own exactly these fields. No request where it could change nothing.

        Raises:
            InvalidObjectError: the API server refuses the object; the message names the field.
            NotLeaderError: another replica leads.
        """
        key = Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        wanted = _hash(obj)
        if (there := self._stands(key, obj, wanted)) is not None:
            return there
        marked = obj if key.kind == "Secret" else _marked(obj, wanted)
        applied = _complete(key.kind, await self._put(key, marked, manager))
        shown = self._shown.pop(key)
        if shown is not None and _version(shown) > _version(applied):
            self._shown.put(
                key, shown
            )  # the watch was quicker than the answer: a status came after our write
        self._spoilt.discard(key)
        if key.kind == "Secret":  # its data are read by who applies it, and are not kept in memory
            if key.kind in self._watched:
                self._written[key] = applied["metadata"]["resourceVersion"]
        else:
            self._known[key] = _Known.of(wanted, applied)
        if key.kind == "Service":
            self.addresses[f"{key.name}.{key.namespace}.svc"] = applied["spec"].get("clusterIP", "")
        return applied

    async def make(self, obj: Object, *, manager: str) -> None:
        """Create an object that is written once. A list may not show it yet: it is the API server that knows whether it is there."""
        with suppress(ConflictError):
            await self.create(obj, manager=manager)

    def _stands(self, key: Key, obj: Object, wanted: str) -> Object | None:
        """The child, where nothing of what is wanted differs from it; None where that is not known for sure."""
        if key.kind not in self._watched:
            return None
        live = self._shown.pop(key)
        if live is None:
            known = self._known.get(key)
            same = known is not None and known.wanted == bytes.fromhex(wanted)
            return unpack(known.live) if known is not None and same else None
        self._known.pop(key, None)
        self._spoilt.add(key)
        mark = (live["metadata"].get("annotations") or {}).get(APPLIED)
        if mark != wanted or not contains(live, obj):
            return None
        self._spoilt.discard(key)
        self._known[key] = _Known.of(wanted, live)
        return live

    async def patch_status(self, key: Key, status: Object, *, manager: str) -> Object:
        """Replace the status under its own manager. No request where it stands so already. Raises NotFoundError."""
        live = self._live.get(key) or _essentials(await self.get(key))
        status = self._undeclared.without(key.kind, status)
        if live["status"] == status:
            return live
        served = KINDS[key.kind]
        body = {
            "apiVersion": served.api_version,
            "kind": key.kind,
            # with its uid, so that a deleted object is not made again by its status
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": live["metadata"]["uid"]},
            "status": status,
        }
        try:
            written = _essentials(await self._patch(path_of(key, "status"), body, manager))
        except ConflictError as error:  # another object of that name now
            self._live.drop(key)
            raise NotFoundError(f"{key} was deleted and made again") from error
        except UnavailableError as error:
            if self._undeclared.learn(key.kind, str(error)):
                return await self.patch_status(key, status, manager=manager)
            raise
        self._live.put(key, written)
        version = written["metadata"]["resourceVersion"]
        if version != live["metadata"]["resourceVersion"]:
            self._written[key] = version
            self._unseen.setdefault(key, time.monotonic())
        self._on_status(live, written)
        return written

    async def delete(self, key: Key, *, uid: str | None = None) -> None:
        """Delete in the background, with all that it owns; no error where it is gone already, or is another by now."""
        self._fence()
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        with suppress(NotFoundError, ConflictError):
            await self._api.request("DELETE", path_of(key), body=body)
        self._forget(key)

    async def warnings(self, obj: Object) -> Sequence[str]:
        """What controllers complain of about an object, the latest last; a full quota keeps a pod from being made at all."""
        metadata = obj["metadata"]
        query = {"fieldSelector": f"involvedObject.uid={metadata['uid']},type=Warning", "limit": str(PAGE)}
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        try:
            found = (await self._api.request("GET", path, query=query)).get("items") or []
        except ForbiddenError:  # a cause less, and no more
            return ()
        found.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return [f"{event.get('reason')}: {event.get('message', '')}" for event in found]

    async def create(self, obj: Object, *, manager: str = "") -> Object:
        """Create an object that is not ours to keep in shape: an Event. Raises ConflictError where it is there."""
        self._fence()
        path = KINDS[obj["kind"]].path(obj["metadata"]["namespace"])
        query = {"fieldManager": manager} if manager else {}
        return await self._api.request("POST", path, query=query, body=obj)

    async def merge(self, key: Key, patch: Object) -> Object:
        """Merge a few fields into an object. Raises NotFoundError."""
        self._fence()
        return await self._api.request(
            "PATCH", path_of(key), body=patch, content_type="application/merge-patch+json"
        )

    # What the watch tells

    def saw(self, obj: Object, *, gone: bool) -> bool:
        """The watch shows an object. Returns whether a pass could find something new in it."""
        key = Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        if key.kind == "Pod":
            (self._pods.gone if gone else self._pods.saw)(obj)
            return True
        if gone:
            self._forget(key)
            return True
        version = obj["metadata"]["resourceVersion"]
        if key.kind in _OURS:
            self._unseen.pop(key, None)
            if not self._live.has(key):
                metadata = dict(obj["metadata"])  # kopf's own is left as it is
                self._first.put(key, _complete(key.kind, {**obj, "metadata": metadata}))
            observed = (obj.get("status") or {}).get("observedGeneration")
            return bool(version != self._written.get(key) or observed != obj["metadata"].get("generation"))
        if key.kind == "Service":
            self.addresses[f"{key.name}.{key.namespace}.svc"] = obj["spec"].get("clusterIP", "")
        known = self._known.get(key)
        if version == (known.version if known is not None else self._written.get(key)):
            return False
        if key.kind in _APPLIED:
            obj["metadata"].pop("managedFields", None)
            self._shown.put(key, obj)
        return True

    def deaf(self, seconds: float) -> str:
        """A resource whose status we wrote so long ago without the watch showing it; empty where there is none."""
        limit = time.monotonic() - seconds
        return next((str(key) for key, since in self._unseen.items() if since < limit), "")

    def ours(self) -> Iterator[Object]:
        """Our resources as last read or written: who they are, and their statuses; for metrics."""
        return self._live.objects()

    def resolve(self, address: str) -> str:
        """A Service's address → its cluster IP and port, where we know it."""
        host, _, port = address.rpartition(":")
        known = self.addresses.get(host)
        return f"{known}:{port}" if known else address

    async def _put(self, key: Key, obj: Object, manager: str) -> Object:
        """Server-side apply; where somebody's edit of a list stands against it (two ports of one name), our lists replace theirs first."""
        try:
            return await self._patch(path_of(key), obj, manager)
        except InvalidObjectError:
            if key not in self._spoilt:
                raise
            with suppress(InvalidObjectError, NotFoundError):
                await self.merge(key, {name: part for name, part in obj.items() if name != "status"})
            return await self._patch(path_of(key), obj, manager)

    async def _patch(self, path: str, body: Object, manager: str) -> Object:
        self._fence()
        query = {"fieldManager": manager, "force": "true"}
        return await self._api.request("PATCH", path, query=query, body=body, content_type=_APPLY)

    def _fence(self) -> None:
        if not self._may_write():
            raise NotLeaderError("this replica does not hold the Lease, and writes nothing")

    def _forget(self, key: Key) -> None:
        for memory in (self._known, self._written, self._unseen):
            memory.pop(key, None)
        for packed in (self._shown, self._first, self._live):
            packed.drop(key)
        self._spoilt.discard(key)
        if key.kind == "Service":
            self.addresses.pop(f"{key.name}.{key.namespace}.svc", None)


_OURS = ("FederatedStudy", "SiteParticipant", "SiteDataset")
_WITH_STATUS = (*_OURS, "StatefulSet")
"""Kinds whose status a pass asks for; those of other children are not kept."""
_APPLIED = ("StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget")
"""Kinds of children whose state is compared with what is wanted. Secrets are read each time; a Job is made once."""


def _complete(kind: str, obj: Object) -> Object:
    """Lists leave out what their items are."""
    obj.setdefault("kind", kind)
    obj.setdefault("apiVersion", KINDS[kind].api_version)
    obj["metadata"].pop("managedFields", None)
    return obj


def _essentials(obj: Object) -> Object:
    """What of an object is worth keeping in memory: who it is, and its status."""
    metadata = {
        name: value
        for name, value in obj["metadata"].items()
        if name in ("name", "namespace", "uid", "resourceVersion", "generation")
    }
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": metadata,
        "status": (obj.get("status") or {}) if obj["kind"] in _WITH_STATUS else {},
    }


def _version(obj: Object) -> int:
    """Versions of one object grow."""
    return int(obj["metadata"]["resourceVersion"])


def _hash(obj: Object) -> str:
    return hashlib.sha256(json.dumps(obj, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _marked(obj: Object, wanted: str) -> Object:
    metadata = obj["metadata"]
    return {
        **obj,
        "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), APPLIED: wanted}},
    }


def contains(live: Any, wanted: Any) -> bool:
    """Whether all that is wanted stands in a live object, which may have more. Pure.

    The API server leaves out what is empty, and adds defaults to the objects in a list, but never objects to a list of ours.
    """
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(
            contains(live[name], value) if name in live else not value for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(contains, live, wanted))
    return bool(live == wanted)
