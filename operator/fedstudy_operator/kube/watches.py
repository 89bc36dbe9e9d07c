"""What kopf does for us: it logs in, and keeps the watch streams; each event only puts its owner's key on the queue.

No timers, daemons, indexes or cause-based handlers: they keep state of their own, write on objects, and miss what falls into a gap of
a watch (docs/decisions/0011). The periodic resync finds what no event told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.cluster import Object
from fedstudy_operator.kube.client import PAGE
from fedstudy_operator.kube.kinds import KINDS

OURS = "app.kubernetes.io/managed-by=fedstudy-operator"
"""Label selector of what the operator makes: the API server sends nothing else."""

_COMMON = ("StatefulSet", "Pod", "Service", "ConfigMap", "NetworkPolicy")
CHILDREN = {"FederatedStudy": (*_COMMON, "PodDisruptionBudget"), "SiteParticipant": (*_COMMON, "Job")}
"""Resource → kinds of its children that are watched; the charts give no right to others. Secrets too, but only where the operator works in named namespaces: it is not to read
all Secrets of a cluster. Elsewhere a lost Secret is made again at the next pass."""

Handler = Callable[[Object, bool, bool], Awaitable[None]]
"""Told of an object, whether it is gone, and whether it was there before we looked."""


def watched_children(kinds: Sequence[str], namespaces: Sequence[str]) -> tuple[str, ...]:
    """The kinds of children of some resources whose changes are heard of."""
    found = dict.fromkeys(child for kind in kinds for child in CHILDREN.get(kind, ()))
    return (*found, "Secret") if namespaces else tuple(found)


def registry(kinds: Sequence[str], handle: Handler) -> kopf.OperatorRegistry:
    """kopf's handlers: an event of one of the kinds is handed over, nothing else."""
    made = kopf.OperatorRegistry()
    for kind in kinds:
        served = KINDS[kind]

        async def _see(body: Any, type: str | None, kind: str = kind, **_: Any) -> None:
            obj: Object = dict(body)
            obj.setdefault("kind", kind)
            await handle(obj, type == "DELETED", type is None)

        where = (served.group, served.version, served.plural)
        kopf.on.event(*where, registry=made, id=f"see-{served.plural}")(_see)

    kopf.on.login(registry=made, id="login")(_login)
    return made


def _login(**known: Any) -> Any:
    """As the kubernetes client logs in: a pod's token, else a kubeconfig."""
    return kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)


class _NoDifferences(kopf.DiffBaseStorage):  # type: ignore[misc]  # kopf is untyped to mypy here
    """Nobody asks kopf what has changed in an object: it copies the whole of it twice to know, at every event."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """Nothing of an object counts."""
        return {}

    def fetch(self, *, body: Any) -> Any:
        """Nothing is remembered."""
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing is written."""


def settings() -> kopf.OperatorSettings:
    """kopf as a mere runner of watches: no events, no peering, no scanning."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.peering.standalone = True
    made.scanning.disabled = True
    made.networking.request_timeout = 30
    made.networking.connect_timeout = 10
    made.networking.enforce_retry_after = True
    made.persistence.diffbase_storage = _NoDifferences()
    made.persistence.finalizer = f"{GROUP}/finalizer"
    made.queueing.idle_timeout = 0.05  # an object's task goes as soon as it has nothing to do
    made.watching.chunk_size = PAGE
    return made


async def watch(
    kinds: Sequence[str],
    handle: Handler,
    *,
    namespaces: Sequence[str],
    ready: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Keep the watch streams until told to stop.

    Args:
        kinds: of the custom resources.
        handle: told of every change.
        namespaces: where; empty: everywhere.
        ready: set once the streams are being opened.
        stop: set it to end.
    """
    await kopf.operator(
        registry=registry(kinds, handle),
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        ready_flag=ready,
        stop_flag=stop,
    )
