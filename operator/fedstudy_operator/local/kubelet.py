"""Controllers and kubelet of one machine: StatefulSets, Deployments and Jobs become pods, and pods become processes.

workloads ──watch──► queue ──► workloads.py (pure) ──► Pod objects ──watch──► queue ──► a PodRunner each ──► a process
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from fedstudy.logs import log
from fedstudy_operator.cluster import Key, NotFoundError, Object, WatchedCluster
from fedstudy_operator.local import workloads
from fedstudy_operator.local.forks import Forks
from fedstudy_operator.local.memory import Memory
from fedstudy_operator.local.mounts import Volumes
from fedstudy_operator.local.pods import MANAGER, Host, PodRunner
from fedstudy_operator.local.ports import PortTable
from fedstudy_operator.local.processes import kill_left_behind
from fedstudy_operator.local.store import has_labels
from fedstudy_operator.local.translate import resolve
from fedstudy_operator.queue import Backoff, WorkQueue

_logger = logging.getLogger(__name__)
_WORKLOADS = ("StatefulSet", "Deployment", "Job")
COMPONENT = "app.kubernetes.io/component"
STOP_ORDER = ("trainer", "preflight", "agent", "aggregator")
"""Components in the order in which they are stopped: who depends on others first."""


class Kubelet:
    """Runs the workloads of a cluster as processes of this machine.

    Args:
        cluster: where workloads and pods are.
        work: a folder for volumes, ports and records of processes; it survives.
        logs: a folder for one log file for each pod, `<namespace>.<pod>.log`.
        claims: (namespace, claim) → an existing folder.
        forks: starts what it serves; it is the caller's to close, after `stop`.
    """

    def __init__(
        self,
        cluster: WatchedCluster,
        work: Path,
        *,
        logs: Path,
        claims: Mapping[tuple[str, str], Path],
        forks: Forks | None = None,
    ) -> None:
        self._cluster = cluster
        self.work = work
        self._records = work / "processes"
        self._ports = PortTable(work / "ports.json")
        self._volumes = Volumes(cluster, work, claims)
        self._host = Host(cluster, self._volumes, self._pod_ports, self._service, logs, self._records, forks)
        self._queue: WorkQueue[Key] = WorkQueue(backoff=Backoff(base=0.1, limit=5.0))
        self._runners: dict[Key, tuple[PodRunner, asyncio.Task[None]]] = {}
        self._fault: asyncio.Queue[BaseException] = asyncio.Queue()
        self._memory = Memory()
        self._main: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """End what an earlier run has left behind, forget its pods, and begin."""
        if self._records.exists():
            for pid in kill_left_behind(sorted(self._records.glob("*.json"))):
                log(_logger, logging.WARNING, "Ended a process that an earlier run left behind.", pid=pid)
        for pod in await self._cluster.list("Pod"):
            if workloads.phase(pod) not in ("Succeeded", "Failed"):
                await self._cluster.delete(_key(pod))
        self._main = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raise what it failed with, if it did."""
        if self._main is not None and self._main.done() and not self._main.cancelled():
            self._main.result()

    async def stop(self, order: Sequence[str] = STOP_ORDER) -> None:
        """Stop everything, component by component, and wait for it. The objects stay as they are."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        for component in (*order, None):
            keys = [
                key
                for key, (runner, _) in self._runners.items()
                if component is None
                or (runner.pod["metadata"].get("labels") or {}).get(COMPONENT) == component
            ]
            await asyncio.gather(*(self._stop_runner(key) for key in keys))

    # What others ask

    def resolve(self, address: str) -> str:
        """The loopback address of a Service's address."""
        return resolve(address, self._service)

    def peaks(self) -> dict[str, int]:
        """The largest resident memory of each process so far, in bytes, by `component/namespace`."""
        return self._memory.peaks()

    @property
    def peak_total(self) -> int:
        """The largest memory of all processes together that was seen at one time, in bytes."""
        return self._memory.total

    def processes(self) -> dict[str, int]:
        """The pods that run now, `namespace/pod` → process id."""
        return {f"{k.namespace}/{k.name}": r.pid for k, (r, _) in self._runners.items() if r.pid is not None}

    # Within

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in (*_WORKLOADS, "Pod"):
                group.create_task(self._watch(kind))
            for kind in ("ConfigMap", "Secret"):
                group.create_task(self._watch_sources(kind))
            group.create_task(self._queue.run(self._sync, workers=8))
            group.create_task(self._supervise())
            group.create_task(self._sample())

    async def _watch(self, kind: str) -> None:
        async for event in self._cluster.watch(kind):
            self._queue.add(_key(event.object))
            if kind == "Pod":
                for owner in event.object["metadata"].get("ownerReferences") or []:
                    self._queue.add(Key(owner["kind"], event.object["metadata"]["namespace"], owner["name"]))

    async def _watch_sources(self, kind: str) -> None:
        async for _ in self._cluster.watch(kind):
            for runner, _ in self._runners.values():
                runner.changed.set()

    async def _sync(self, key: Key) -> float | None:
        if key.kind == "Pod":
            await self._sync_pod(key)
            return None
        if key.kind not in _WORKLOADS:
            return None
        try:
            workload = await self._cluster.get(key)
        except NotFoundError:
            return None
        pods = [
            pod
            for pod in await self._cluster.list("Pod", key.namespace)
            if any(
                o["uid"] == workload["metadata"]["uid"] for o in pod["metadata"].get("ownerReferences") or []
            )
        ]
        step = (
            workloads.job(workload, pods, datetime.now(UTC))
            if key.kind == "Job"
            else workloads.replicas(workload, pods)
        )
        for pod in step.delete:
            await self._cluster.delete(_key(pod), uid=pod["metadata"]["uid"])
        for pod in step.create:
            await self._cluster.apply(pod, manager=MANAGER)
        with suppress(NotFoundError):  # deleted meanwhile
            await self._cluster.patch_status(key, step.status, manager=MANAGER)
        return step.again

    async def _sync_pod(self, key: Key) -> None:
        pod: Object | None
        try:
            pod = await self._cluster.get(key)
        except NotFoundError:
            pod = None
        present = self._runners.get(key)
        if present is not None and (pod is None or pod["metadata"]["uid"] != present[0].uid):
            await self._stop_runner(key)
            await asyncio.to_thread(
                shutil.rmtree, self._volumes.pod_folder(key.namespace, key.name), ignore_errors=True
            )
            self._queue.add(key)
        elif present is None and pod is not None and workloads.phase(pod) not in ("Succeeded", "Failed"):
            runner = PodRunner(pod, self._host)
            task = asyncio.create_task(runner.run(), name=str(key))
            task.add_done_callback(self._ended)
            self._runners[key] = (runner, task)

    async def _stop_runner(self, key: Key) -> None:
        runner, task = self._runners[key]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._runners.get(key, (None,))[0] is runner:
            del self._runners[key]

    async def _supervise(self) -> None:
        """Fail loudly where a runner has failed: that is a fault of ours or of this machine, not of the container."""
        raise await self._fault.get()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._fault.put_nowait(error)

    async def _sample(self) -> None:
        while True:
            named = [("operator", os.getpid())]
            named += [("forkserver", pid) for pid in (self._host.forks.pids if self._host.forks else ())]
            for key, (runner, _) in list(self._runners.items()):
                if runner.pid is not None:
                    labels = runner.pod["metadata"].get("labels") or {}
                    named.append((f"{labels.get(COMPONENT, key.name)}/{key.namespace}", runner.pid))
            await asyncio.to_thread(self._memory.sample, named)
            await asyncio.sleep(0.5)

    def _service(self, name: str, namespace: str, port: int) -> int:
        return self._ports.port(f"{namespace}/{name}:{port}")

    async def _pod_ports(self, pod: Object) -> dict[int, int]:
        """Loopback ports of a pod's container ports: those of the Services that select it, else ports of its own."""
        namespace, labels = pod["metadata"]["namespace"], pod["metadata"].get("labels") or {}
        result: dict[int, int] = {}
        services = [
            service
            for service in await self._cluster.list("Service", namespace)
            if service["spec"].get("selector")
            and has_labels({"metadata": {"labels": labels}}, service["spec"]["selector"])
        ]
        for declared in pod["spec"]["containers"][0].get("ports") or []:
            number = int(declared["containerPort"])
            for service in services:
                for offered in service["spec"]["ports"]:
                    if offered.get("targetPort", offered["port"]) in (number, declared.get("name")):
                        name = f"{namespace}/{service['metadata']['name']}:{offered['port']}"
                        if number in result:
                            self._ports.alias(name, result[number])
                        else:
                            result[number] = self._ports.port(name)
            if number not in result:
                result[number] = self._ports.port(f"{namespace}/pod/{pod['metadata']['name']}:{number}")
        return result


def _key(obj: Object) -> Key:
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
