"""What may come between any pass and its resource: it is deleted meanwhile, or the cluster refuses what its spec asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fedstudy_operator.api.conditions import Reason, condition, replaced
from fedstudy_operator.cluster import Cluster, InvalidObjectError, Key, NotFoundError, Object
from fedstudy_operator.reconcile.certificates import get

STATUS_MANAGER = "fedstudy-operator-status"
"""Owns the statuses of our resources, and nothing else."""
REFUSED_SECONDS = 60.0
"""After how long the cluster is asked again: what refused may be a quota or a policy, which others change."""

Pass = Callable[[Key], Awaitable[float | None]]


def guarded(cluster: Cluster, work: Pass) -> Pass:
    """A pass that ends in a condition where the cluster refuses a child, and in peace where its resource is gone."""

    async def run(key: Key) -> float | None:
        try:
            return await work(key)
        except InvalidObjectError as error:
            obj = await get(cluster, key)
            if obj is None:
                return None
            await cluster.patch_status(key, refused(obj, str(error)), manager=STATUS_MANAGER)
            return REFUSED_SECONDS
        except NotFoundError:
            if await get(cluster, key) is not None:
                raise
            return await work(key)  # it then forgets what it knew

    return run


def refused(obj: Object, message: str) -> Object:
    """A status that says so, and keeps what it said of everything else."""
    status = obj.get("status") or {}
    generation = int(obj["metadata"].get("generation", 1))
    before = status.get("conditions") or []
    wanted = [
        condition(kind, kind == "Stalled", Reason.REFUSED_BY_CLUSTER, message)
        for kind in ("Ready", "Stalled")
    ]
    conditions = replaced(before, wanted, generation=generation, gone=("Reconciling",))
    return {**status, "observedGeneration": generation, "conditions": conditions}
