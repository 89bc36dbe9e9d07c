"""The whole operator on one machine: watches feed the queue, the queue feeds the reconcilers, the kubelet runs what they want.

LocalCluster ──watch──► queue ──► FederatedStudy, SiteParticipant, SiteDataset reconcilers ──apply──► LocalCluster
aggregators, agents ──Watch streams──► queue                                     Kubelet ◄──watch──┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fedstudy_operator.children.common import COMPONENT, PARTICIPANT, STUDY, Settings
from fedstudy_operator.cluster import Cluster, Event, Key, Object
from fedstudy_operator.local.kubelet import Kubelet
from fedstudy_operator.queue import Backoff, WorkQueue
from fedstudy_operator.reconcile.admin import AdminPeers, AnyState
from fedstudy_operator.reconcile.dataset import DatasetReconciler
from fedstudy_operator.reconcile.participant import ParticipantReconciler
from fedstudy_operator.reconcile.study import StudyReconciler

RESOURCES = ("FederatedStudy", "SiteParticipant", "SiteDataset")
CHILDREN = (
    "Secret", "ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Job", "Pod",
)  # fmt: skip
RESYNC_SECONDS = 600.0
PROGRESS_SECONDS = 1.0
"""How long a mere progress of a process may wait for a pass: nothing in a status depends on it."""


class LocalOperator:
    """Operator and kubelet of one machine; `async with` starts and stops them.

    Args:
        cluster: the objects.
        kubelet: runs the workloads.
        folder: for the operator's own certificates; default: in the kubelet's folder.
        settings: of the operator; the default fits one machine.
        on_state: told of every state of an aggregator or an agent, by the resource that owns it; for displays.
    """

    def __init__(
        self,
        cluster: Cluster,
        kubelet: Kubelet,
        *,
        folder: Path | None = None,
        settings: Settings | None = None,
        on_state: Callable[[Key, AnyState], None] | None = None,
    ) -> None:
        settings = settings or Settings(queues=False)
        self._cluster = cluster
        self._kubelet = kubelet
        self._on_state = on_state
        self._queue: WorkQueue[Key] = WorkQueue(backoff=Backoff(base=0.1, limit=10.0))
        self._peers = AdminPeers(
            resolve=kubelet.resolve, on_change=self._changed, folder=folder or kubelet.work / "operator"
        )
        self._essence: dict[Key, object] = {}
        self._reconcilers = {
            "FederatedStudy": StudyReconciler(cluster, self._peers, settings).reconcile,
            "SiteParticipant": ParticipantReconciler(cluster, self._peers, settings).reconcile,
            "SiteDataset": DatasetReconciler(cluster, self._peers).reconcile,
        }
        self._main: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._kubelet.start()
        self._main = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop in order: the reconcilers, then trainers, agents, aggregators. Objects stay as they are."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        await self._kubelet.stop()

    def check(self) -> None:
        """Raise what the operator or the kubelet failed with, if one did."""
        if self._main is not None and self._main.done() and not self._main.cancelled():
            self._main.result()
        self._kubelet.check()

    def state(self, owner: Key) -> AnyState | None:
        """What an owner's aggregator or agent said last: progress, rates and all that no status holds."""
        return self._peers.state(owner)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._peers.run())
            for kind in (*RESOURCES, *CHILDREN):
                group.create_task(self._watch(kind))
            group.create_task(self._queue.run(self._reconcile, workers=4))
            group.create_task(self._resync())

    async def _reconcile(self, key: Key) -> float | None:
        return await self._reconcilers[key.kind](key)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for kind in RESOURCES:
                for obj in await self._cluster.list(kind):
                    self._queue.add(_key(obj))

    async def _watch(self, kind: str) -> None:
        async for event in self._cluster.watch(kind):
            for key in await self._concerned(event):
                self._queue.add(key)

    async def _concerned(self, event: Event) -> list[Key]:
        """Whose pass an event asks for."""
        obj = event.object
        metadata = obj["metadata"]
        namespace, labels = metadata["namespace"], metadata.get("labels") or {}
        if obj["kind"] in RESOURCES:
            return [_key(obj), *await self._neighbours(obj)]
        concerned = []
        if STUDY in labels:
            concerned.append(Key("FederatedStudy", namespace, labels[STUDY]))
            if obj["kind"] == "Secret" and labels.get(COMPONENT) == "invitation":
                concerned += await self._participants(study=(namespace, labels[STUDY]))
        if PARTICIPANT in labels:
            concerned.append(Key("SiteParticipant", namespace, labels[PARTICIPANT]))
        return concerned

    async def _neighbours(self, obj: Object) -> list[Key]:
        """Resources whose status depends on this one."""
        namespace, name, kind = obj["metadata"]["namespace"], obj["metadata"]["name"], obj["kind"]
        if kind == "FederatedStudy":
            return await self._participants(study=(namespace, name), waiting=True)
        if kind == "SiteDataset":
            return await self._participants(dataset=(namespace, name))
        return [Key("SiteDataset", namespace, obj["spec"].get("datasetRef", ""))]

    async def _participants(
        self,
        *,
        study: tuple[str, str] | None = None,
        dataset: tuple[str, str] | None = None,
        waiting: bool = False,
    ) -> list[Key]:
        """Participants of a study, or with a dataset; only those that have no agent yet where `waiting`."""
        found = []
        for participant in await self._cluster.list("SiteParticipant"):
            key, spec = _key(participant), participant["spec"]
            ref = spec.get("study") or {}
            if study is not None and (ref.get("namespace"), ref.get("name")) != study:
                continue
            if dataset is not None and (key.namespace, spec.get("datasetRef")) != dataset:
                continue
            if not waiting or self._peers.state(key) is None:
                found.append(key)
        return found

    def _changed(self, owner: Key) -> None:
        """A process says something new: at once where it matters to a status, else soon."""
        state = self._peers.state(owner)
        if state is not None and self._on_state is not None:
            self._on_state(owner, state)
        essence = (_essence(state), self._peers.problem(owner))
        if self._essence.get(owner) == essence:
            self._queue.add_after(owner, PROGRESS_SECONDS)
        else:
            self._essence[owner] = essence
            self._queue.add(owner)


def _essence(state: AnyState | None) -> object:
    """A state without what moves all the time."""
    if state is None:
        return None
    hidden = {"progress", "seconds_left", "bytes_in", "bytes_out", "bytes_sent", "ledger_head"}
    return state.model_dump(
        exclude={
            **dict.fromkeys(hidden, True),
            "sites": {"__all__": {"progress", "last_seen", "bytes_in", "bytes_out"}},
        }
    )


def _key(obj: Object) -> Key:
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
