"""An API server that goes and comes back, that says "later", that has forgotten history: the operator catches up, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.kube.conftest import Kube, Start, condition, namespace_object, study, until
from tests.kube.proxy import Proxy

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


async def test_deletes_in_a_gap_of_the_watch_are_noticed(
    plane: ControlPlane, kube: Kube, start: Start
) -> None:
    """Checklist G, point 9: children erased while no watch could tell, and history compacted: 410, a new list, and they are back."""
    operator = await start()
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda obj: "status" in obj)
    await asyncio.sleep(3)
    plane.stop("kube-apiserver")
    keys = (
        f"/registry/services/specs/{kube.namespace}/glioma-aggregator",
        f"/registry/configmaps/{kube.namespace}/glioma-plan",
        f"/registry/poddisruptionbudgets/{kube.namespace}/glioma-aggregator",
    )
    assert [plane.erase(key) for key in keys] == [1, 1, 1]
    plane.compact()
    plane.start("kube-apiserver")  # from this thread: it ends with the one that starts it
    began = time.monotonic()
    for kind, name in (
        ("Service", "glioma-aggregator"),
        ("ConfigMap", "glioma-plan"),
        ("PodDisruptionBudget", "glioma-aggregator"),
    ):
        await kube.until(kind, name, lambda obj: True)
    print(f"all are back {time.monotonic() - began:.1f} s after the API server")
    if operator.process is not None and operator.process.returncode is not None:
        pytest.fail(
            "the API server was away for longer than a Lease holds: this machine is too busy for the test"
        )


async def test_a_long_outage_is_no_crash_loop(plane: ControlPlane, kube: Kube, start: Start) -> None:
    """Checklist G, point 10: the API server is away beyond the Lease: the leader ends once; started again, it waits and then works."""
    first = await start()
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda obj: True)
    plane.stop("kube-apiserver")
    try:
        assert await first.wait() == 75  # it could not renew its Lease
        second = await start(name="operator-1", ready=False)  # as the kubelet would

        async def serves() -> bool:
            return (await second.ask("/healthz"))[0] == 200

        await until(serves, "the operator lives")
        await asyncio.sleep(5)
        assert second.process is not None
        assert second.process.returncode is None
        assert await serves()
        assert (await second.ask("/readyz"))[0] == 503
    finally:
        plane.start("kube-apiserver")  # from this thread: it ends with the one that starts it
    began = time.monotonic()
    await until(second.is_ready, "the operator leads again")
    await kube.delete("Service", "glioma-aggregator")
    await kube.until("Service", "glioma-aggregator", lambda obj: True)
    print(f"works {time.monotonic() - began:.1f} s after the API server is back")


async def test_an_overloaded_api_server_is_obeyed(
    plane: ControlPlane, kube: Kube, start: Start, tmp_path: Path
) -> None:
    """Checklist G, point 10: 429 with Retry-After: the request is repeated after that time, and the study comes all the same."""
    token = await kube.account("throttled")
    async with Proxy(plane) as proxy:
        config = plane.token_kubeconfig(f"{kube.namespace}-429", token, url=proxy.url)
        await start(kubeconfig=config)
        proxy.refuse(("PATCH", "services"), times=3, retry_after=1)
        await kube.create(study())
        await kube.until("Service", "glioma-aggregator", lambda obj: True)
        gaps = [later - earlier for earlier, later in zip(proxy.refused, proxy.refused[1:], strict=False)]
        assert len(proxy.refused) == 3
        assert all(gap >= 0.9 for gap in gaps)


async def test_a_namespace_that_is_deleted_goes(kube: Kube, start: Start) -> None:
    """Checklist G, point 12: with the operator at work the namespace is gone soon, and the operator lives on."""
    operator = await start(everywhere=True)
    other = Kube(kube.api, f"{kube.namespace}-x")
    await kube.api.request("POST", "/api/v1/namespaces", body=namespace_object(other.namespace))
    await other.create(study())
    await other.until("StatefulSet", "glioma-aggregator", lambda obj: True)
    await kube.api.request("DELETE", f"/api/v1/namespaces/{other.namespace}")
    began = time.monotonic()
    await until(lambda: _gone(kube, other.namespace), "the namespace is gone")
    print(f"the namespace is gone after {time.monotonic() - began:.1f} s")
    assert await operator.is_ready()
    assert await operator.metric('workqueue_depth{name="fedstudy"}') == 0


async def test_a_namespace_goes_without_an_operator_too(kube: Kube, start: Start) -> None:
    """Checklist G, point 12: no finalizer holds it."""
    operator = await start(everywhere=True)
    other = Kube(kube.api, f"{kube.namespace}-y")
    await kube.api.request("POST", "/api/v1/namespaces", body=namespace_object(other.namespace))
    await other.create(study())
    await other.until("StatefulSet", "glioma-aggregator", lambda obj: True)
    operator.send(signal.SIGKILL)
    await kube.api.request("DELETE", f"/api/v1/namespaces/{other.namespace}")
    await until(lambda: _gone(kube, other.namespace), "the namespace is gone")


async def _gone(kube: Kube, namespace: str) -> bool:
    items = (await kube.api.request("GET", "/api/v1/namespaces"))["items"]
    return namespace not in [item["metadata"]["name"] for item in items]


async def test_a_full_quota_is_a_typed_reason(kube: Kube, start: Start) -> None:
    """Bad input: the namespace lets no pod in; the status says QuotaExceeded, and when there is room again it goes on."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    root = f"/api/v1/namespaces/{kube.namespace}/resourcequotas"
    await kube.api.request("POST", root, body=quota)
    await start()
    await kube.create(study())
    full = await kube.until(
        "FederatedStudy",
        "glioma",
        lambda obj: condition(obj, "AggregatorReady").get("reason") == "QuotaExceeded",
    )
    assert "exceeded quota" in condition(full, "AggregatorReady")["message"]
    await kube.api.request("DELETE", f"{root}/none")
    await kube.until(
        "FederatedStudy",
        "glioma",
        lambda obj: (
            condition(obj, "AggregatorReady")["reason"] == "Unschedulable"
            or condition(obj, "AggregatorReady")["reason"] == "PodPending"
        ),
    )
