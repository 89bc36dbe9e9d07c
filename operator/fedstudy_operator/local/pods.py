"""One pod as a process: waits for its volumes and ports, runs its first container, says how it is, and starts it again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstudy_operator.cluster import Cluster, Key, NotFoundError, Object
from fedstudy_operator.local.forks import Forks
from fedstudy_operator.local.mounts import MountError, Volumes
from fedstudy_operator.local.ports import is_free, is_listening
from fedstudy_operator.local.processes import Command, Exit, Process
from fedstudy_operator.local.translate import Places, translate
from fedstudy_operator.local.workloads import now_text

MANAGER = "kubelet"
_LAST_WORDS = 2048
_STEADY = 60.0
"""Seconds of running after which the next failure counts as the first."""
_HOST_ERROR = "HostError"


def _told(error: OSError) -> str:
    return f"{error.filename or 'this machine'}: {error.strerror or error}"


@dataclass(frozen=True)
class Host:
    """What a pod needs of its machine.

    Attributes:
        ports: a pod's container ports → loopback ports.
        service: (Service, namespace, port) → loopback port.
        logs: the folder of logs.
        records: the folder of files that say which processes run.
        forks: starts what it serves, the rest is started as usual.
    """

    cluster: Cluster
    volumes: Volumes
    ports: Callable[[Object], Awaitable[dict[int, int]]]
    service: Callable[[str, str, int], int]
    logs: Path
    records: Path
    forks: Forks | None = None


class PodRunner:
    """Runs a pod until it has ended, or `stop`."""

    def __init__(self, pod: Object, host: Host) -> None:
        self.pod = pod
        metadata = pod["metadata"]
        self.uid: str = metadata["uid"]
        self.key = Key("Pod", metadata["namespace"], metadata["name"])
        self.changed = asyncio.Event()
        """To be set when a ConfigMap or a Secret has changed."""
        self._host = host
        self._container: Mapping[str, Any] = pod["spec"]["containers"][0]
        self._process: Process | None = None
        self._restarts = 0
        self._started = ""
        self._last: dict[str, Any] = {}
        name = f"{self.key.namespace}.{self.key.name}"
        self.log = host.logs / f"{name}.log"
        self._record = host.records / f"{name}.json"

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Run to the end of the pod. Cancelled: ends the process in order, within the pod's grace period."""
        loop = asyncio.get_running_loop()
        policy = self.pod["spec"].get("restartPolicy", "Always")
        failures = 0
        while True:
            command, ports = await self._prepare()
            began = loop.time()
            try:
                ended, words = await self._once(command, ports)
            except OSError as error:
                await self._say("Pending", {"waiting": {"reason": _HOST_ERROR, "message": _told(error)}})
                await asyncio.sleep(5.0)
                continue
            failures = 1 if loop.time() - began > _STEADY else failures + 1
            state = self._terminated(ended, words)
            if policy == "Never" or (policy == "OnFailure" and ended.code == 0):
                await self._say("Succeeded" if ended.code == 0 else "Failed", {"terminated": state})
                return
            self._restarts += 1
            self._last = {"terminated": state}
            await self._say("Running", {"waiting": {"reason": "CrashLoopBackOff", "message": words}})
            await asyncio.sleep(min(10.0, 2.0 ** (failures - 1)))

    async def _prepare(self) -> tuple[Command, dict[int, int]]:
        """Wait until the pod can run."""
        wait = 0.2
        while True:
            try:
                ports = await self._host.ports(self.pod)
                mounts = await self._host.volumes.mounts(self.pod, self._container)
                taken = [port for port in ports.values() if not is_free(port)]
                if not taken:
                    home = self._host.volumes.pod_folder(self.key.namespace, self.key.name) / "home"
                    home.mkdir(parents=True, exist_ok=True, mode=0o700)
                    places = Places(mounts, ports, self._host.service, home)
                    return translate(self._container, places, os.environ), ports
                reason, message = "PortInUse", f"127.0.0.1:{taken[0]} is taken by another process"
            except MountError as error:
                reason, message = error.reason, str(error)
            except OSError as error:  # a full disk, above all: it goes on when there is room
                reason, message = _HOST_ERROR, _told(error)
            await self._say("Pending", {"waiting": {"reason": reason, "message": message}})
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self.changed.wait()
                    self.changed.clear()
            wait = min(5.0, wait * 2)

    async def _once(self, command: Command, ports: Mapping[int, int]) -> tuple[Exit, str]:
        """Run the command once; how it ended, and its last words."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        process = self._process = await Process.start(
            command, log=self.log, record=self._record, forks=self._host.forks
        )
        self._started = now_text()
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(self._report(ports)), group.create_task(self._refresh())]
                ended = await process.wait()
                for helper in helpers:
                    helper.cancel()
            return ended, self._words(offset)
        finally:
            await self._end(process)
            self._process = None

    async def _end(self, process: Process) -> None:
        try:
            await process.stop(float(self.pod["spec"].get("terminationGracePeriodSeconds", 30)))
        except asyncio.CancelledError:
            process.kill()
            raise

    async def _report(self, ports: Mapping[int, int]) -> None:
        """Say that the pod runs, and then that it is ready."""
        running = {"running": {"startedAt": self._started}}
        await self._say("Running", running, ready=not ports)
        while not all(is_listening(port) for port in ports.values()):  # noqa: ASYNC110 - the kernel sends no event
            await asyncio.sleep(0.05)
        await self._say("Running", running, ready=True)

    async def _refresh(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            await self._host.volumes.refresh(self.pod)

    def _words(self, offset: int) -> str:
        with self.log.open("rb") as file:
            file.seek(max(offset, self.log.stat().st_size - _LAST_WORDS))
            return file.read().decode(errors="replace")

    def _terminated(self, ended: Exit, words: str) -> dict[str, Any]:
        return {
            "exitCode": ended.code,
            "signal": ended.signal,
            "reason": ended.reason,
            "message": words if ended.code else "",
            "startedAt": self._started,
            "finishedAt": now_text(),
        }

    async def _say(self, phase: str, state: Mapping[str, Any], *, ready: bool = False) -> None:
        """Write the pod's status."""
        status: dict[str, Any] = {
            "phase": phase,
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {
                    "name": self._container["name"],
                    "ready": ready,
                    "restartCount": self._restarts,
                    "state": dict(state),
                    "lastState": self._last,
                }
            ],
        }
        if self._started:
            status["startTime"] = self._started
        with suppress(NotFoundError):  # deleted meanwhile: `stop` is on its way
            await self._host.cluster.patch_status(self.key, status, manager=MANAGER)
