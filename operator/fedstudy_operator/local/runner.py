"""The whole operator on one machine: the controller over the store in memory, and the kubelet that runs what it wants.

LocalCluster ──watch──► Controller ──apply──► LocalCluster ──watch──► Kubelet
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fedstudy_operator.children.common import Settings
from fedstudy_operator.cluster import Key, WatchedCluster
from fedstudy_operator.controller import CHILDREN, RESOURCES, Controller
from fedstudy_operator.local.kubelet import Kubelet
from fedstudy_operator.queue import Backoff
from fedstudy_operator.reconcile.admin import AnyState


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
        cluster: WatchedCluster,
        kubelet: Kubelet,
        *,
        folder: Path | None = None,
        settings: Settings | None = None,
        on_state: Callable[[Key, AnyState], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._kubelet = kubelet
        self._controller = Controller(
            cluster,
            resolve=kubelet.resolve,
            folder=folder or kubelet.work / "operator",
            settings=settings or Settings(queues=False, rechecks=False),
            backoff=Backoff(base=0.1, limit=10.0),
            on_state=on_state,
        )
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
        return self._controller.peers.state(owner)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._controller.run())
            for kind in (*RESOURCES, *CHILDREN):
                group.create_task(self._watch(kind))

    async def _watch(self, kind: str) -> None:
        async for event in self._cluster.watch(kind):
            await self._controller.happened(event.object, gone=event.type == "DELETED")
