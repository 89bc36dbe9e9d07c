"""A child that the cluster refuses becomes a condition, and a resource that is deleted meanwhile ends the pass in peace."""

from __future__ import annotations

import pytest
from tests.operator.hub import KEY, Hub

from fedstudy_operator.api import Reason
from fedstudy_operator.cluster import InvalidObjectError, Key, NotFoundError, Object
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.reconcile.passes import REFUSED_SECONDS, guarded


class _Strict(LocalCluster):
    """A cluster that refuses an object of one kind, as an admission webhook does."""

    refuses = ""

    async def apply(self, obj: Object, *, manager: str) -> Object:
        if obj["kind"] == self.refuses:
            raise InvalidObjectError(f"{self.refuses}: spec.replicas: refused by policy")
        return await super().apply(obj, manager=manager)


class _StrictHub(Hub):
    def __init__(self) -> None:
        super().__init__()
        self.cluster: _Strict = _Strict()
        self.reconciler._cluster = self.cluster


def _ready(obj: Object) -> Object:
    (found,) = [entry for entry in obj["status"]["conditions"] if entry["type"] == "Ready"]
    return dict(found)


async def test_a_refused_child_is_a_condition_with_the_clusters_words_until_it_is_let_in() -> None:
    hub = _StrictHub()
    await hub.apply()
    run = guarded(hub.cluster, hub.reconciler.reconcile)
    await run(KEY)
    before = (await hub.cluster.get(KEY))["status"]
    hub.cluster.refuses = "StatefulSet"
    assert await run(KEY) == REFUSED_SECONDS
    status = (await hub.cluster.get(KEY))["status"]
    ready = _ready(await hub.cluster.get(KEY))
    assert (ready["status"], ready["reason"]) == ("False", Reason.REFUSED_BY_CLUSTER)
    assert ready["message"] == "StatefulSet: spec.replicas: refused by policy"
    types = {entry["type"]: entry["status"] for entry in status["conditions"]}
    assert types["Stalled"] == "True" and "Reconciling" not in types
    assert status["planDigest"] == before["planDigest"], "what is known stays"
    hub.cluster.refuses = ""
    await run(KEY)
    assert _ready(await hub.cluster.get(KEY))["reason"] != Reason.REFUSED_BY_CLUSTER
    assert "Stalled" not in {entry["type"] for entry in (await hub.cluster.get(KEY))["status"]["conditions"]}


async def test_a_resource_that_is_deleted_within_a_pass_is_no_failure() -> None:
    hub = _StrictHub()
    await hub.apply()
    passes = 0

    async def work(key: Key) -> float | None:
        nonlocal passes
        passes += 1
        if passes == 1:
            await hub.cluster.delete(key)
            await hub.cluster.patch_status(key, {}, manager="test")
        return await hub.reconciler.reconcile(key)

    assert await guarded(hub.cluster, work)(KEY) is None
    assert passes == 2, "it is asked once more, so that it forgets what it knew"


async def test_another_thing_that_is_missing_is_a_failure() -> None:
    hub = _StrictHub()
    await hub.apply()

    async def work(_: Key) -> float | None:
        raise NotFoundError("another thing")

    with pytest.raises(NotFoundError, match="another thing"):
        await guarded(hub.cluster, work)(KEY)
