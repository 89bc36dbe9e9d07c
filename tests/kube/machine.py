"""A machine for the pods of a control plane without nodes: Kubernetes' own controllers make them, they run as processes here.

The process kubelet of `fedstudy run` starts them, told of pods by the API server; Services are loopback addresses, behind which a
forwarder finds the process, as kube-proxy would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane
from tests.kube.conftest import Kube

from fedstudy_operator.cluster import Event, Key, NotFoundError, Object
from fedstudy_operator.kube.kinds import KINDS, path_of
from fedstudy_operator.kube.watches import OURS
from fedstudy_operator.local.kubelet import COMPONENT, Kubelet

_CONTROLLED = ("StatefulSet", "Deployment", "Job")
_WITHOUT_TORCH = {"trainer": "run", "preflight": "preflight"}


class LoopbackPlane(ControlPlane):
    """Its Services have addresses of this machine alone, on which anybody may listen."""

    services = "127.96.0.0/16"


class PodsOf:
    """A namespace's pods, and what they mount, as the process kubelet wants to see them.

    Workloads are hidden from it: the real controllers look after them.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def get(self, key: Key) -> Object:
        """The object; a pod that is to end counts as gone, and a trainer's runs without torch."""
        if key.kind in _CONTROLLED:
            raise NotFoundError(f"{key} is not for the kubelet")
        return _seen(key.kind, await self._kube.api.request("GET", path_of(key)))

    async def list(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """All of a kind."""
        return await self._kube.list(kind, **(labels or {}))

    async def keys(self, kind: str) -> tuple[Key, ...]:
        """Never asked for."""
        raise NotImplementedError(kind)

    async def apply(self, obj: Object, *, manager: str) -> Object:
        """Never asked for."""
        raise NotImplementedError(obj["kind"])

    async def make(self, obj: Object, *, manager: str) -> None:
        """Never asked for."""
        raise NotImplementedError(obj["kind"])

    async def patch_status(self, key: Key, status: Object, *, manager: str) -> Object:
        """How a pod is."""
        told = {
            name: value for name, value in status.items() if name != "podIP"
        }  # a real one is never loopback
        return await self._kube.merge(key.kind, key.name, {"status": told}, subresource="status")

    async def delete(self, key: Key, *, uid: str | None = None) -> None:
        """Never asked for, since a machine starts empty."""
        raise NotImplementedError(str(key))

    async def warnings(self, obj: Object) -> tuple[str, ...]:
        """Nobody complains."""
        return ()

    async def watch(self, kind: str) -> AsyncIterator[Event]:
        """What is there, then changes, for ever."""
        if kind in _CONTROLLED:
            await asyncio.Event().wait()
        path, selector = KINDS[kind].path(self._kube.namespace), {"labelSelector": OURS}
        page = await self._kube.api.request("GET", path, query=selector)
        for obj in page["items"]:
            yield Event("ADDED", {**obj, "kind": kind})
        query = {**selector, "watch": "true", "resourceVersion": page["metadata"]["resourceVersion"]}
        async for line in self._kube.api.stream(path, query=query, silence=3600):
            event = json.loads(line)
            yield Event(event["type"], event["object"])


def _seen(kind: str, obj: Object) -> Object:
    obj.setdefault("kind", kind)
    if kind == "Pod":
        if obj["metadata"].get("deletionTimestamp"):
            raise NotFoundError(f"{obj['metadata']['name']} is to end")
        action = _WITHOUT_TORCH.get(obj["metadata"]["labels"].get(COMPONENT, ""))
        if action:
            obj["spec"]["containers"][0]["command"] = ["python", "-m", "bare_trainer", action]
    return obj


class Folders(Mapping[tuple[str, str], Path]):
    """A folder for every claim of the namespace, made when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __getitem__(self, claim: tuple[str, str]) -> Path:
        folder = self._root / "-".join(claim)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Forwarders:
    """Listens on the addresses of Services, and passes connections on to the processes behind them."""

    def __init__(self, pods: PodsOf, kubelet: Kubelet) -> None:
        self._pods = pods
        self._kubelet = kubelet
        self._servers: dict[tuple[str, int], asyncio.Server] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with AsyncExitStack() as stack:
            async for event in self._pods.watch("Service"):
                if event.type != "DELETED":
                    await self._serve(event.object, stack)

    async def _serve(self, service: Object, stack: AsyncExitStack) -> None:
        metadata, spec = service["metadata"], service["spec"]
        for offered in spec["ports"]:
            here = (spec["clusterIP"], int(offered["port"]))
            address = f"{metadata['name']}.{metadata['namespace']}.svc:{offered['port']}"
            if here not in self._servers:
                self._servers[here] = await asyncio.start_server(self._passing(address), *here)
                stack.callback(self._servers[here].close)

    def _passing(self, address: str) -> Any:
        async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, _, port = self._kubelet.resolve(address).rpartition(":")
            try:
                onward, back = await asyncio.open_connection(host, int(port))
            except OSError:
                writer.close()
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(onward, writer))

        return passed


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def machine(kube: Kube, folder: Path) -> AsyncIterator[Kubelet]:
    """Runs the pods of a namespace while it is open."""
    pods = PodsOf(kube)
    kubelet = Kubelet(pods, folder / "work", logs=folder / "logs", claims=Folders(folder / "claims"))
    await kubelet.start()
    forwarding = asyncio.create_task(Forwarders(pods, kubelet).run())
    try:
        yield kubelet
    finally:
        forwarding.cancel()
        await asyncio.gather(forwarding, return_exceptions=True)
        await kubelet.stop()
