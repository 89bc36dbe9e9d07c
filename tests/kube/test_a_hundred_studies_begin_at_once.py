"""Checklist G, point 29: 100 studies are created in one go, on fake nodes; the bar is the deadline."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.kube.conftest import Kube, Start, study
from tests.kube.paper import paper_nodes

from fedstudy_operator.cluster import Object

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STUDIES, SECONDS = 100, 60.0
SITES = ("site-0", "site-1", "site-2", "site-3")
CHILDREN = {
    "Secret": 3 + len(SITES),
    "ConfigMap": 1,
    "Service": 1,
    "NetworkPolicy": 1,
    "PodDisruptionBudget": 1,
    "StatefulSet": 1,
    "Pod": 1,
}
"""Of each study."""


async def test_all_children_of_a_hundred_studies_exist_within_a_minute(
    plane: ControlPlane, kube: Kube, start: Start, tmp_path: Path
) -> None:
    """Checklist G, point 29: all children, each study's pod on a node; the requests that it took are printed."""
    config = plane.token_kubeconfig(f"{kube.namespace}-operator", await kube.account("operator"))
    await start(kubeconfig=config, role="hub")
    at = plane.audit_log.stat().st_size
    async with paper_nodes(kube, 4):
        began = time.monotonic()
        async with asyncio.timeout(SECONDS):
            await create(kube, STUDIES)
            created = time.monotonic() - began
            await all_there(kube, STUDIES)
        print(f"created in {created:.1f} s, all children after {time.monotonic() - began:.1f} s")
    calls = requests(plane, at, f"system:serviceaccount:{kube.namespace}:operator")
    print(f"{sum(calls.values()) / STUDIES:.1f} requests for each study: {calls.most_common()}")


async def create(kube: Kube, count: int) -> None:
    """So many studies at once."""
    await asyncio.gather(*(kube.create(study(f"study-{number:04d}", SITES)) for number in range(count)))


async def all_there(kube: Kube, studies: int) -> None:
    """Wait until every child of every study exists."""
    for kind, each in CHILDREN.items():
        while await number(kube, kind) < each * studies:  # noqa: ASYNC110 - asked, as a person would
            await asyncio.sleep(0.25)


async def number(kube: Kube, kind: str) -> int:
    """How many children of a kind are there."""
    return len(await kube.list(kind, **{"app.kubernetes.io/managed-by": "fedstudy-operator"}))


def requests(plane: ControlPlane, at: int, account: str) -> Counter[str]:
    """What an account asked for since a place in the audit log: verb and resource, but for the Lease and streams."""
    with plane.audit_log.open("rb") as log:
        log.seek(at)
        entries: list[Object] = [json.loads(line) for line in log]
    entries = [entry for entry in entries if "objectRef" in entry]  # not what kopf asks to discover
    return Counter(
        f"{entry['verb']} {entry['objectRef']['resource']}"
        for entry in entries
        if entry["user"]["username"] == account
        and entry["verb"] != "watch"
        and entry["objectRef"]["resource"] != "leases"
    )
