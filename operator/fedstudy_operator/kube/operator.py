"""One leading replica: the watches, the controller with its queue, and the recorder of Events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from fedstudy_operator.api.conditions import Reason, condition, replaced
from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.cluster import ForbiddenError, Key, NotFoundError, Object
from fedstudy_operator.controller import RESOURCES, Controller, key_of
from fedstudy_operator.kube.api import Api
from fedstudy_operator.kube.client import KubernetesCluster
from fedstudy_operator.kube.environment import Environment
from fedstudy_operator.kube.events import Recorder
from fedstudy_operator.kube.informer import Informers
from fedstudy_operator.kube.lease import Elector
from fedstudy_operator.kube.memory import give_back
from fedstudy_operator.kube.metrics import Metrics
from fedstudy_operator.kube.states import States
from fedstudy_operator.kube.watches import OURS, watch, watched_children
from fedstudy_operator.reconcile.passes import STATUS_MANAGER, Pass

PAUSED = f"{GROUP}/paused"
"""Annotation: "true" keeps the operator's hands off a resource and its children."""
WORKERS = 8
_KOPF_SECONDS = 0.5
"""kopf says that it runs shortly before it takes the signals' handlers."""
_TIDY_SECONDS = 10.0
_PROGRESS_SECONDS = 5.0
"""How often a mere progress is looked at: a status that moved every second would be a write every second for each study."""


async def _tidy() -> None:
    """Keep the memory small that is not in use, until cancelled."""
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        give_back()


class Operator:
    """What a replica does while it leads.

    Args:
        environment: its set-up.
        api: the API server.
        elector: says whether it leads.
        metrics: where it counts.
        folder: for its client certificates; its own eyes only.
    """

    def __init__(
        self, environment: Environment, api: Api, elector: Elector, metrics: Metrics, folder: Path
    ) -> None:
        self._environment = environment
        self._elector = elector
        self._metrics = metrics
        children = watched_children(environment.kinds, environment.namespaces)
        self._cluster = KubernetesCluster(
            api,
            may_write=lambda: elector.leads,
            namespaces=environment.namespaces,
            on_status=self._wrote,
            watched=children,
        )
        self._recorder = Recorder(self._cluster, environment.identity)
        self.controller = Controller(
            self._cluster,
            resolve=self._cluster.resolve if environment.cluster_ips else lambda address: address,
            folder=folder,
            settings=environment.settings,
            kinds=environment.kinds,
            workers=WORKERS,
            progress_seconds=_PROGRESS_SECONDS,
            around=self._around,
        )
        metrics.watch_queue(self.controller.queue)
        metrics.registry.register(States(self._cluster.ours))
        metrics.leader.set_function(lambda: float(elector.leads))
        self._informers = Informers(
            api,
            children,
            environment.namespaces,
            OURS,
            self._saw,
            restarted=lambda kind: metrics.restarts.labels(kind).inc(),
        )
        self._listed = False
        """Whether all children that were there have been told. Before, none wakes its owner: each owner is told too, and once suffices."""
        self._paused: set[Key] = set()
        metrics.paused.set_function(lambda: float(len(self._paused)))
        self._watching = asyncio.Event()

    def stuck(self, seconds: float) -> str:
        """Why the process is to be restarted; empty where it is not."""
        if not self._watching.is_set():
            return ""
        longest = self.controller.queue.figures().longest_seconds
        if longest > seconds:
            return f"a pass has taken {longest:.0f} s"
        if kind := self._informers.silent(seconds):
            return f"the watch of {kind} is silent"
        if name := self._cluster.deaf(seconds):
            return f"the watch has not shown the status of {name}"
        return ""

    def unready(self) -> str:
        """Why this replica cannot be relied on; empty where it can."""
        if self._elector.leads:
            return "" if self._watching.is_set() else "the watches are not open yet"
        return "" if self._elector.heard else "the Lease cannot be read"

    async def run(self, on_signal: Callable[[], None], on_watching: Callable[[], None]) -> None:
        """Work until cancelled.

        Args:
            on_signal: called where kopf ended because the process was told to.
            on_watching: called when kopf runs, which has taken the signals' handlers for its own.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informers.run())
            group.create_task(self._recorder.run())
            await self._informers.listed()  # a pass then knows which children are as they should be
            self._listed = True
            group.create_task(self.controller.run())
            group.create_task(self._watch(on_signal))
            group.create_task(_tidy())
            await self._watching.wait()
            await asyncio.sleep(_KOPF_SECONDS)
            on_watching()

    async def _watch(self, on_signal: Callable[[], None]) -> None:
        stop = asyncio.Event()
        try:
            await watch(
                self._environment.kinds,
                self._saw,
                namespaces=self._environment.namespaces,
                ready=self._watching,
                stop=stop,
            )
        finally:
            stop.set()
        on_signal()  # whatever else ends kopf is raised by it

    async def _saw(self, obj: Object, gone: bool, before: bool = False) -> None:
        """An event: whom it concerns is due, unless it only shows what we wrote ourselves.

        Args:
            before: it was there before we looked: no haste, so that what people do meanwhile comes first.
        """
        self._metrics.events.labels(obj["kind"]).inc()
        if obj["kind"] in RESOURCES:
            self._note_pause(obj, gone=gone)
        news = self._cluster.saw(obj, gone=gone)
        if news and (self._listed or obj["kind"] in RESOURCES):
            await self.controller.happened(obj, gone=gone, haste=not before)

    def _wrote(self, before: Object, now: Object) -> None:
        """A status was written: events tell of it, and whoever depends on it is due."""
        self._recorder.changed(before, now)
        self.controller.wrote(before, now)

    def _note_pause(self, obj: Object, *, gone: bool) -> None:
        annotations = obj["metadata"].get("annotations") or {}
        paused = not gone and annotations.get(PAUSED) == "true"
        (self._paused.add if paused else self._paused.discard)(key_of(obj))

    async def _around(self, key: Key, work: Pass) -> float | None:
        """A pass: measured, not for what is paused, and in peace where a namespace is on its way out."""
        if key in self._paused:
            await self._say_paused(key)
            return None
        try:
            return await self._metrics.measured(key, work)
        except ForbiddenError as error:
            if "being terminated" in str(error):  # all of it will be gone; a retry would fail for ever
                return None
            raise

    async def _say_paused(self, key: Key) -> None:
        try:
            obj = await self._cluster.get(key)
        except NotFoundError:
            self._paused.discard(key)
            return
        status = obj.get("status") or {}
        before = status.get("conditions") or []
        wanted = condition("Paused", True, Reason.PAUSED_BY_ANNOTATION)
        generation = int(obj["metadata"].get("generation", 1))
        conditions = replaced(before, [wanted], generation=generation)
        await self._cluster.patch_status(key, {**status, "conditions": conditions}, manager=STATUS_MANAGER)
