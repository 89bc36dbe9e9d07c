"""The control loop, wherever it runs: events and the words of our own processes feed the queue, the queue feeds the reconcilers.

Kubernetes or the store in memory ──events──► queue ──► FederatedStudy, SiteParticipant, SiteDataset reconcilers ──► Cluster port
aggregators, agents ──Watch streams──► queue          time (resync, "look again in …") ──► queue
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedstudy.wire.admin import AgentState
from fedstudy_operator.children.common import COMPONENT, PARTICIPANT, STUDY, Settings
from fedstudy_operator.cluster import Cluster, Key, Object
from fedstudy_operator.queue import Backoff, WorkQueue
from fedstudy_operator.reconcile.admin import AdminPeers, AnyState
from fedstudy_operator.reconcile.dataset import DatasetReconciler
from fedstudy_operator.reconcile.participant import ParticipantReconciler
from fedstudy_operator.reconcile.passes import Pass, guarded
from fedstudy_operator.reconcile.study import StudyReconciler

RESOURCES = ("FederatedStudy", "SiteParticipant", "SiteDataset")
CHILDREN = (
    "Secret", "ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Job", "Pod",
)  # fmt: skip
RESYNC_SECONDS = 600.0
PROGRESS_SECONDS = 1.0
"""How long a mere progress of a process may wait for a pass: nothing in a status depends on it."""


@dataclass(frozen=True)
class _Refs:
    """What a participant names: a study of this cluster, if it does, and a dataset; each by namespace and name."""

    study: tuple[str, str] | None
    dataset: tuple[str, str]


class Controller:
    """The queue with all that fills and empties it, for one role.

    Args:
        cluster: where resources and children are.
        resolve: a Service's address → the address to dial.
        folder: for the operator's own certificates.
        kinds: the resources that are ours: those of the hub, of a site, or both.
        backoff: after a pass that failed.
        workers: passes at a time.
        progress_seconds: how long a mere progress may wait for its pass.
        on_state: told of every state of an aggregator or an agent, by the resource that owns it; for displays.
        around: wraps each pass; for measurement and for fencing.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        resolve: Callable[[str], str],
        folder: Path,
        settings: Settings,
        kinds: Sequence[str] = RESOURCES,
        backoff: Backoff | None = None,
        workers: int = 4,
        progress_seconds: float = PROGRESS_SECONDS,
        on_state: Callable[[Key, AnyState], None] | None = None,
        around: Callable[[Key, Pass], Awaitable[float | None]] | None = None,
    ) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(backoff=backoff)
        self.peers = AdminPeers(resolve=resolve, on_change=self._changed, folder=folder)
        self.kinds = tuple(kinds)
        self._cluster = cluster
        self._workers = workers
        self._progress_seconds = progress_seconds
        self._on_state = on_state
        self._around = around
        self._essence: dict[Key, object] = {}
        self._profiles: dict[Key, object] = {}
        self._refs: dict[Key, _Refs] = {}
        """What participants refer to, as the events told it: whom to wake, and nothing more."""
        self._studies = StudyReconciler(cluster, self.peers, settings)
        every: dict[str, Pass] = {
            "FederatedStudy": self._studies.reconcile,
            "SiteParticipant": ParticipantReconciler(cluster, self.peers, settings).reconcile,
            "SiteDataset": DatasetReconciler(cluster, self.peers).reconcile,
        }
        self._passes = {kind: guarded(cluster, every[kind]) for kind in self.kinds}

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.peers.run())
            group.create_task(self.queue.run(self._pass, workers=self._workers))
            group.create_task(self._resync())

    async def happened(self, obj: Object, *, gone: bool = False, haste: bool = True) -> None:
        """An object is new, has changed, or is gone: those whom it concerns are due.

        Args:
            haste: before all that is waiting without it.
        """
        if obj["kind"] == "SiteParticipant":
            self._refer(obj, gone=gone)
        for key in self.concerned(obj):
            self.add(key, haste=haste)

    def wrote(self, before: Object, now: Object) -> None:
        """We wrote a status ourselves: a dataset's shows what participants say of it."""
        if now["kind"] == "SiteParticipant" and _of_data(before) != _of_data(now):
            self._wake_dataset(key_of(now), PROGRESS_SECONDS)  # lists come from a cache, which has to follow

    def add(self, key: Key, *, haste: bool = True) -> None:
        """A resource is due, if it is one of ours."""
        if key.kind in self._passes:
            self.queue.add(key, haste=haste)

    def concerned(self, obj: Object) -> list[Key]:
        """Whose pass an event asks for."""
        metadata = obj["metadata"]
        namespace, labels = metadata["namespace"], metadata.get("labels") or {}
        if obj["kind"] in RESOURCES:
            return [key_of(obj), *self._neighbours(obj)]
        concerned = []
        if STUDY in labels:
            key = Key("FederatedStudy", namespace, labels[STUDY])
            concerned.append(key)
            if obj["kind"] == "Secret":
                self._studies.doubt(key)
            if obj["kind"] == "Secret" and labels.get(COMPONENT) == "invitation":
                concerned += self._participants(study=(namespace, labels[STUDY]))
        if PARTICIPANT in labels:
            concerned.append(Key("SiteParticipant", namespace, labels[PARTICIPANT]))
        return concerned

    async def resync(self) -> None:
        """Every resource is due: what no event told is found, and what is gone is forgotten."""
        for kind in self.kinds:
            for key in await self._cluster.keys(kind):
                self.queue.add(key, haste=False)

    async def _pass(self, key: Key) -> float | None:
        work = self._passes[key.kind]
        return await (self._around(key, work) if self._around else work(key))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            await self.resync()

    def _neighbours(self, obj: Object) -> list[Key]:
        """Resources whose status depends on this one."""
        namespace, name, kind = obj["metadata"]["namespace"], obj["metadata"]["name"], obj["kind"]
        if kind == "FederatedStudy":
            waiting = self._participants(study=(namespace, name))
            return [key for key in waiting if self.peers.state(key) is None]
        if kind == "SiteDataset":
            return self._participants(dataset=(namespace, name))
        return [Key("SiteDataset", namespace, obj["spec"].get("datasetRef", ""))]

    def _participants(
        self, *, study: tuple[str, str] | None = None, dataset: tuple[str, str] | None = None
    ) -> list[Key]:
        """Participants of a study of this cluster, or with a dataset."""
        return [
            key
            for key, refs in self._refs.items()
            if (study is not None and refs.study == study)
            or (dataset is not None and refs.dataset == dataset)
        ]

    def _refer(self, participant: Object, *, gone: bool) -> None:
        key = key_of(participant)
        if gone:
            self._refs.pop(key, None)
            self._profiles.pop(key, None)
            return
        spec = participant["spec"]
        ref = spec.get("study") or {}
        study = None if ref.get("hub") else (ref.get("namespace") or key.namespace, ref.get("name", ""))
        self._refs[key] = _Refs(study, (key.namespace, spec.get("datasetRef", "")))

    def _changed(self, owner: Key) -> None:
        """A process says something new: at once where it matters to a status, else soon."""
        state = self.peers.state(owner)
        if state is not None and self._on_state is not None:
            self._on_state(owner, state)
        if isinstance(state, AgentState) and self._profiles.get(owner) != state.profile:
            self._profiles[owner] = state.profile
            self._wake_dataset(owner)
        essence = (_essence(state), self.peers.problem(owner))
        if self._essence.get(owner) == essence:
            self.queue.add_after(owner, self._progress_seconds)
        else:
            self._essence[owner] = essence
            self.queue.add(owner)

    def _wake_dataset(self, participant: Key, after: float = 0.0) -> None:
        """The dataset of a participant is due."""
        if refs := self._refs.get(participant):
            self.queue.add_after(Key("SiteDataset", *refs.dataset), after)


def _of_data(participant: Object) -> Object:
    """What a participant's status says of its data."""
    conditions = (participant.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == "DataAvailable"), {})


def _essence(state: AnyState | None) -> object:
    """A state without what moves all the time."""
    if state is None:
        return None
    hidden = {
        "progress", "seconds_left", "bytes_in", "bytes_out", "bytes_sent", "ledger_head", "trainer_last_seen",
    }  # fmt: skip
    return state.model_dump(
        exclude={
            **dict.fromkeys(hidden, True),
            "sites": {"__all__": {"progress", "last_seen", "bytes_in", "bytes_out"}},
        }
    )


def key_of(obj: Object) -> Key:
    """Which object this is."""
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
