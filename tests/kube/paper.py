"""Fake nodes: objects that say they are ready, and a kubelet that only ever writes that their pods are.

What it costs a hundred studies to begin is then the work of the API server, of Kubernetes' controllers and of the operator, not of containers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle

from tests.kube.conftest import Kube

from fedstudy_operator.cluster import ConflictError, Key, NotFoundError, Object
from fedstudy_operator.kube.informer import Informer
from fedstudy_operator.kube.kinds import path_of
from fedstudy_operator.kube.watches import OURS

_READY = {"type": "Ready", "status": "True"}
_CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "500"}


class PaperKubelet:
    """Binds each pod to one of the nodes, says that it is ready, and lets it go when it is to end.

    Args:
        kube: in whose namespace the pods are.
        nodes: names.
    """

    def __init__(self, kube: Kube, nodes: list[str]) -> None:
        self._kube = kube
        self._nodes = cycle(nodes)

    async def run(self) -> None:
        """Until cancelled."""
        await Informer(self._kube.api, "Pod", self._kube.namespace, OURS, self._saw).run()

    async def _saw(self, pod: Object, gone: bool) -> None:
        if gone:
            return
        metadata = pod["metadata"]
        path = path_of(Key("Pod", metadata["namespace"], metadata["name"]))
        with suppress(NotFoundError, ConflictError):
            if metadata.get("deletionTimestamp"):
                await self._kube.api.request("DELETE", path, query={"gracePeriodSeconds": "0"})
            elif not pod["spec"].get("nodeName"):
                target = {"apiVersion": "v1", "kind": "Node", "name": next(self._nodes)}
                body = {
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": metadata["name"]},
                    "target": target,
                }
                await self._kube.api.request("POST", f"{path}/binding", body=body)
                status = {"phase": "Running", "conditions": [_READY]}
                await self._kube.merge("Pod", metadata["name"], {"status": status}, subresource="status")


@asynccontextmanager
async def paper_nodes(kube: Kube, count: int) -> AsyncIterator[None]:
    """So many nodes, while it is open."""
    names = [f"{kube.namespace}-node-{number}" for number in range(count)]
    for name in names:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "status": {"capacity": _CAPACITY, "allocatable": _CAPACITY, "conditions": [_READY]},
        }
        await kube.api.request("POST", "/api/v1/nodes", body=node)
    kubelet = asyncio.create_task(PaperKubelet(kube, names).run())
    try:
        yield
    finally:
        kubelet.cancel()
        await asyncio.gather(kubelet, return_exceptions=True)
        for name in names:
            await kube.api.request("DELETE", f"/api/v1/nodes/{name}")
