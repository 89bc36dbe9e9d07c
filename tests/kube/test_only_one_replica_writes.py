"""Two replicas: one leads by a Lease and writes; a dead leader is replaced, a frozen one writes nothing when it is thawed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.kube.conftest import Kube, Operator, Start, study, until

from fedstudy_operator.cluster import Object
from fedstudy_operator.kube.lease import DURATION_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


async def _holder(kube: Kube) -> str:
    lease = await kube.get("Lease", "fedstudy-operator-both")
    return str(lease["spec"].get("holderIdentity") or "") if lease else ""


async def _led_by(kube: Kube, operator: Operator) -> None:
    async def holds() -> bool:
        return await _holder(kube) == operator.name

    await until(holds, f"{operator.name} leads")


async def test_a_killed_leader_is_replaced(kube: Kube, start: Start) -> None:
    """Checklist G, point 11: kill -9 of the leader; the standby leads and works (the time is printed)."""
    first = await start(name="replica-0")
    second = await start(name="replica-1")  # ready: a standby that could take over
    await _led_by(kube, first)
    assert await first.metric("fedstudy_operator_leader") == 1
    assert await second.metric("fedstudy_operator_leader") == 0
    first.send(signal.SIGKILL)
    began = time.monotonic()
    await _led_by(kube, second)
    print(f"a new leader after {time.monotonic() - began:.1f} s")
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda obj: True)


async def test_a_leader_that_ends_in_order_gives_the_lease_back(kube: Kube, start: Start) -> None:
    """Checklist G, point 11: SIGTERM releases the Lease, so that nobody waits for its end."""
    first = await start(name="replica-0")
    first.send(signal.SIGTERM)
    assert await first.wait() == 0
    assert await _holder(kube) == ""


async def test_a_thawed_leader_writes_nothing(plane: ControlPlane, kube: Kube, start: Start) -> None:
    """Checklist G, point 11: SIGSTOP until another leads, then SIGCONT: not one write of the old leader in the audit log."""
    first_token, second_token = await kube.account("first"), await kube.account("second")
    first = await start(
        name="replica-0", kubeconfig=plane.token_kubeconfig(f"{kube.namespace}-0", first_token)
    )
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda obj: True)
    second = await start(
        name="replica-1", kubeconfig=plane.token_kubeconfig(f"{kube.namespace}-1", second_token)
    )
    first.send(signal.SIGSTOP)
    await _led_by(kube, second)
    at = plane.audit_log.stat().st_size
    for number in range(5):  # work that the frozen one will find in its streams
        await kube.merge("FederatedStudy", "glioma", {"spec": {"title": f"title {number}"}})
        await kube.delete("Service", "glioma-aggregator")
        await kube.until("Service", "glioma-aggregator", lambda obj: True)
    first.send(signal.SIGCONT)
    assert await first.wait() == 75  # try again later, as a new process
    requests = _requests(plane, at, "first")
    writes = [r for r in requests if r["verb"] not in ("get", "list", "watch")]
    assert writes == []
    assert await _holder(kube) == second.name
    assert [r for r in _requests(plane, at, "second") if r["verb"] == "patch"]


def _requests(plane: ControlPlane, at: int, account: str) -> list[dict[str, Any]]:
    with plane.audit_log.open() as log:
        log.seek(at)
        entries: list[Object] = [json.loads(line) for line in log]
    return [e for e in entries if e["user"]["username"].endswith(f":{account}")]


async def test_a_standby_does_not_write(plane: ControlPlane, kube: Kube, start: Start) -> None:
    """Checklist G, point 11: a standby only reads the Lease."""
    await start(name="replica-0")
    token = await kube.account("standby")
    await start(name="replica-1", kubeconfig=plane.token_kubeconfig(f"{kube.namespace}-s", token))
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda obj: True)
    await asyncio.sleep(DURATION_SECONDS / 3)
    assert {(r["verb"], r["objectRef"]["resource"]) for r in _requests(plane, 0, "standby")} == {
        ("get", "leases")
    }
