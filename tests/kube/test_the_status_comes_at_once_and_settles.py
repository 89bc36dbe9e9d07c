"""A resource is told how it goes from its first second on, and nothing is written where nothing changes."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.kube.conftest import Kube, Start, condition, dataset, participant, study, until

from fedstudy_operator.cluster import Object

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


async def test_every_kind_has_a_status_at_once(kube: Kube, start: Start) -> None:
    """Checklist G, point 4: observedGeneration, Ready Unknown or False and Reconciling from the first write on."""
    await start()
    began = time.monotonic()
    made = await kube.create(study())
    first = await kube.until("FederatedStudy", "glioma", lambda o: condition(o, "Ready") != {})
    print(f"first status after {time.monotonic() - began:.2f} s")
    assert first["status"]["observedGeneration"] == made["metadata"]["generation"] == 1
    assert condition(first, "Ready")["status"] in ("Unknown", "False")
    assert condition(first, "Reconciling")["status"] == "True"
    await kube.create(dataset())
    await kube.create(participant(kube.namespace))
    seen = await kube.until("SiteParticipant", "glioma-north", lambda o: condition(o, "Ready") != {})
    assert condition(seen, "Ready")["status"] in ("Unknown", "False")
    await kube.until("SiteDataset", "scans", lambda o: condition(o, "Ready") != {})


async def test_an_idle_study_costs_no_write_and_no_patch(kube: Kube, start: Start) -> None:
    """Checklist G, point 3: applied twice, nothing changes; at rest, not one resource version moves."""
    operator = await start()
    await kube.create(study())
    await kube.create(dataset())
    await kube.create(participant(kube.namespace))
    await kube.until("StatefulSet", "glioma-north-agent", lambda o: "status" in o)
    before = await _settled(kube)
    body = {"spec": study()["spec"]}
    await kube.merge("FederatedStudy", "glioma", body)
    await asyncio.sleep(10)
    assert await _versions(kube) == before
    assert await operator.is_ready()


async def test_the_operator_asks_nothing_while_idle(plane: ControlPlane, kube: Kube, start: Start) -> None:
    """Checklist G, point 3: no request to write in the audit log, but for the Lease."""
    token = await kube.account("idle")
    await start(kubeconfig=plane.token_kubeconfig(kube.namespace, token))
    await kube.create(study())
    await kube.until("StatefulSet", "glioma-aggregator", lambda o: "status" in o)
    await _settled(kube)
    at = plane.audit_log.stat().st_size
    await asyncio.sleep(10)
    with plane.audit_log.open() as log:
        log.seek(at)
        requests = [json.loads(line) for line in log]
    ours = [r for r in requests if kube.namespace in r["user"]["username"]]
    writes = [r for r in ours if r["verb"] not in ("get", "list", "watch")]
    assert {r["objectRef"]["resource"] for r in writes} == {"leases"}  # and it has renewed that one


async def _versions(kube: Kube) -> dict[str, str]:
    kinds = (
        "FederatedStudy", "SiteParticipant", "SiteDataset", "Secret", "ConfigMap", "Service", "StatefulSet", "NetworkPolicy",
        "PodDisruptionBudget",
    )  # fmt: skip
    found: list[Object] = [o | {"kind": kind} for kind in kinds for o in await kube.list(kind)]
    return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}


async def _settled(kube: Kube) -> dict[str, str]:
    """The versions, once they have stood still for three seconds."""
    seen = {"versions": await _versions(kube)}

    async def still() -> bool:
        before = seen["versions"]
        await asyncio.sleep(3)
        seen["versions"] = await _versions(kube)
        return before == seen["versions"]

    await until(still, "all objects stand still")
    return seen["versions"]
