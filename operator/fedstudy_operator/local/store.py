"""The cluster's object store in memory: resource versions, server-side apply, owner garbage collection, watches."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedstudy_operator.cluster import Event, InvalidObjectError, Key, NotFoundError, Object
from fedstudy_operator.local.fields import Leaves, Ownership, flatten, unflatten

_SYSTEM_FIELDS = ("resourceVersion", "generation", "uid", "creationTimestamp", "managedFields")
_FILE = "objects.json"


def key_of(obj: Object) -> Key:
    """Which object this is. Raises InvalidObjectError where it does not say."""
    metadata = obj.get("metadata") or {}
    kind, name = obj.get("kind"), metadata.get("name")
    if not kind or not name or not obj.get("apiVersion"):
        raise InvalidObjectError("apiVersion, kind and metadata.name are required")
    return Key(str(kind), str(metadata.get("namespace") or "default"), str(name))


def has_labels(obj: Object, labels: Mapping[str, str]) -> bool:
    """Whether the object has all of these labels."""
    present = obj["metadata"].get("labels") or {}
    return all(present.get(name) == value for name, value in labels.items())


@dataclass
class _Entry:
    """One object: what the user sees, and who owns which field of it."""

    body: Leaves
    system: dict[str, Any]
    ownership: Ownership = field(default_factory=lambda: Ownership({}))
    applied: dict[str, Object] = field(default_factory=dict)
    """What each manager wanted last, so that an apply which repeats it costs nothing."""
    view: Object = field(default_factory=dict)
    """The object put together; never given away without a copy."""
    _saved: str = ""
    """The entry as JSON; empty since it changed."""

    def build(self) -> None:
        obj = unflatten(self.body)
        obj["metadata"] = {**obj.get("metadata", {}), **self.system}
        self.view = obj
        self.touch()

    def touch(self) -> None:
        """Something of it changed."""
        self._saved = ""

    def to_json(self) -> str:
        """The object and its ownership; made again only after a change, since it is saved far more often."""
        if not self._saved:
            self._saved = json.dumps({"object": self.view, "ownership": self.ownership.to_json()})
        return self._saved


class _Watcher:
    """Pending events of one watch: at most one for each object and life, so that a slow reader never costs memory."""

    def __init__(self) -> None:
        self._pending: dict[tuple[Key, str], Event] = {}
        self._wake = asyncio.Event()

    def put(self, key: Key, event: Event) -> None:
        slot = (key, event.object["metadata"]["uid"])
        earlier = self._pending.get(slot)
        if earlier is not None and earlier.type == "ADDED" and event.type == "MODIFIED":
            event = Event("ADDED", event.object)
        self._pending[slot] = event
        self._wake.set()

    async def get(self) -> Event:
        while not self._pending:
            self._wake.clear()
            await self._wake.wait()
        slot = next(iter(self._pending))
        return self._pending.pop(slot)


class LocalCluster:
    """The Cluster port in memory, for one asyncio loop.

    Args:
        validate: looks at each object before it is stored, and raises InvalidObjectError.
        now: the clock of creationTimestamp.
        uid: the uid of a new custom resource; where given, the same manifests make the same plans. Default, and for all other objects: random.
    """

    def __init__(
        self,
        *,
        validate: Callable[[Object], None] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        uid: Callable[[Object], str] | None = None,
    ) -> None:
        self._entries: dict[str, dict[Key, _Entry]] = {}
        self._watchers: dict[str, set[_Watcher]] = {}
        self._version = 0
        self._validate = validate
        self._now = now
        self._uid = uid

    # Reading

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    async def get(self, key: Key) -> Object:
        """The object. Raises NotFoundError."""
        return _copied(self._entry(key).view)

    async def list(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """Objects of a kind, of one or all namespaces, with all of these labels; in order of namespace and name."""
        entries = self._entries.get(kind, {})
        return [
            _copied(entries[key].view)
            for key in sorted(key for key in entries if namespace is None or key.namespace == namespace)
            if has_labels(entries[key].view, labels or {})
        ]

    async def keys(self, kind: str) -> Sequence[Key]:
        """Which objects of a kind are there."""
        return sorted(self._entries.get(kind, {}))

    async def watch(self, kind: str) -> AsyncIterator[Event]:
        """All present objects as ADDED, then changes, for ever. Changes that nobody has read yet are merged by object."""
        watcher = _Watcher()
        entries = self._entries.get(kind, {})
        for key in sorted(entries):
            watcher.put(key, Event("ADDED", _copied(entries[key].view)))
        self._watchers.setdefault(kind, set()).add(watcher)
        try:
            while True:
                yield await watcher.get()
        finally:
            self._watchers[kind].discard(watcher)

    # Writing

    async def apply(self, obj: Object, *, manager: str) -> Object:
        """Server-side apply, forced: create, or own exactly these fields. Nothing is written where nothing changes.

        Raises:
            InvalidObjectError: the object is refused by the validation, or does not say what it is.
        """
        key = key_of(obj)
        wanted = {name: value for name, value in obj.items() if name != "status"}
        metadata = {n: v for n, v in (obj.get("metadata") or {}).items() if n not in _SYSTEM_FIELDS}
        wanted["metadata"] = {**metadata, "namespace": key.namespace}
        entry = self._entries.get(key.kind, {}).get(key)
        if entry is not None and entry.applied.get(manager) == wanted:
            return _copied(entry.view)
        wanted = _copied(wanted)
        created = entry is None
        base = self._blank(wanted) if entry is None else entry
        owners = Ownership({name: set(paths) for name, paths in base.ownership.by_manager.items()})
        merged = owners.apply(manager, base.body, flatten(wanted))
        if self._validate is not None:
            self._validate(unflatten(merged))
        if not created and merged == base.body:
            base.ownership, base.applied[manager] = owners, wanted
            base.touch()
            return _copied(base.view)
        if not created and _spec(merged) != _spec(base.body):
            base.system["generation"] += 1
        base.body, base.ownership, base.applied = merged, owners, {manager: wanted}
        self._entries.setdefault(key.kind, {})[key] = base
        self._publish(key, base, "ADDED" if created else "MODIFIED")
        result = _copied(base.view)
        if self._is_orphan(base.view):
            await self.delete(key)
        return result

    async def make(self, obj: Object, *, manager: str) -> None:
        """Create an object that is written once; one that is there stays as others have made it. Raises InvalidObjectError."""
        if key_of(obj) not in self._entries.get(obj["kind"], {}):
            await self.apply(obj, manager=manager)

    async def patch_status(self, key: Key, status: Object, *, manager: str) -> Object:
        """Replace the status subresource by server-side apply under its own manager. Raises NotFoundError."""
        entry = self._entry(key)
        manager = f"{manager}/status"
        if entry.applied.get(manager) == status:
            return _copied(entry.view)
        status = _copied(status)
        merged = entry.ownership.apply(manager, entry.body, flatten({"status": status}))
        changed = merged != entry.body
        entry.body = merged
        entry.applied = {n: v for n, v in entry.applied.items() if not changed or not n.endswith("/status")}
        entry.applied[manager] = status
        entry.touch()
        if changed:
            self._publish(key, entry, "MODIFIED")
        return _copied(entry.view)

    async def delete(self, key: Key, *, uid: str | None = None) -> None:
        """Delete, with all that it owns; no error where it is gone already, or has another uid."""
        entry = self._entries.get(key.kind, {}).get(key)
        if entry is None or (uid is not None and entry.system["uid"] != uid):
            return
        del self._entries[key.kind][key]
        self._publish(key, entry, "DELETED")
        for dependent in [k for k, e in self._all() if self._owned_only_by(e.view, entry.system["uid"])]:
            await self.delete(dependent)

    async def warnings(self, obj: Object) -> Sequence[str]:
        """Nobody complains here: the kubelet says in a pod's status what is wrong."""
        return ()

    # Keeping

    def save(self, folder: Path) -> None:
        """Write all objects to a folder, for the owner's eyes only (Secrets are among them)."""
        folder.mkdir(parents=True, exist_ok=True)
        objects = ",".join(entry.to_json() for _, entry in self._all())
        temporary = folder / f"{_FILE}.new"
        temporary.touch(mode=0o600)
        temporary.write_text(f'{{"version": {self._version}, "objects": [{objects}]}}')
        temporary.replace(folder / _FILE)

    def load(self, folder: Path) -> None:
        """Take over the objects that `save` wrote; the store must be empty.

        Raises:
            FileNotFoundError: nothing was saved there.
        """
        if any(True for _ in self._all()):
            raise ValueError("objects can only be loaded into an empty store")
        document = json.loads((folder / _FILE).read_text())
        self._version = document["version"]
        for saved in document["objects"]:
            obj = saved["object"]
            system = {n: obj["metadata"].pop(n) for n in _SYSTEM_FIELDS if n in obj["metadata"]}
            entry = _Entry(flatten(obj), system, Ownership.from_json(saved["ownership"]))
            entry.build()
            self._entries.setdefault(obj["kind"], {})[key_of(obj)] = entry

    # Within

    def _entry(self, key: Key) -> _Entry:
        entry = self._entries.get(key.kind, {}).get(key)
        if entry is None:
            raise NotFoundError(f"{key} is not there")
        return entry

    def _blank(self, obj: Object) -> _Entry:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        custom = str(obj["apiVersion"]).startswith("fedstudy.io/")
        uid = self._uid(obj) if custom and self._uid is not None else str(uuid.uuid4())
        return _Entry({}, {"uid": uid, "generation": 1, "creationTimestamp": stamp})

    def _all(self) -> Iterator[tuple[Key, _Entry]]:
        for kind in list(self._entries):
            yield from list(self._entries[kind].items())

    def _publish(self, key: Key, entry: _Entry, kind: Any) -> None:
        self._version += 1
        entry.system["resourceVersion"] = str(self._version)
        entry.build()
        for watcher in self._watchers.get(key.kind, ()):
            watcher.put(key, Event(kind, _copied(entry.view)))

    def _owned_only_by(self, obj: Object, uid: str) -> bool:
        owners = [reference["uid"] for reference in obj["metadata"].get("ownerReferences") or []]
        return uid in owners and not (set(owners) & {e.system["uid"] for _, e in self._all()})

    def _is_orphan(self, obj: Object) -> bool:
        owners = {reference["uid"] for reference in obj["metadata"].get("ownerReferences") or []}
        return bool(owners) and not (owners & {e.system["uid"] for _, e in self._all()})


def _copied(obj: Object) -> Object:
    """A copy of an object. With many sites, half of the operator's time went into copy.deepcopy's memo of shared parts."""
    return {name: _part(value) if isinstance(value, (dict, list)) else value for name, value in obj.items()}


def _part(value: Any) -> Any:
    if isinstance(value, dict):
        return _copied(value)
    return [_part(inner) if isinstance(inner, (dict, list)) else inner for inner in value]


def _spec(leaves: Leaves) -> Leaves:
    return {path: value for path, value in leaves.items() if path[0] not in ("metadata", "status")}
