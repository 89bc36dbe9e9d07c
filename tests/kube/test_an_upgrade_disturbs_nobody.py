"""Checklist G, point 14, as far as it goes without nodes: operators of another release take over many live studies, and give them back.

Helm and real trainers are elsewhere (tests/whole/test_operators_come_and_go.py); here it is the number that counts.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.kube.conftest import Kube, Operator, Start, dataset, participant, study, until
from tests.kube.paper import paper_nodes
from tests.kube.test_a_hundred_studies_begin_at_once import requests

from fedstudy_operator.cluster import Object

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STUDIES = int(os.environ.get("FEDSTUDY_LIVE_STUDIES", "12"))
"""The checklist says 100; to make those takes minutes on a small machine."""
OLD, NEW = "localhost/fedstudy:test", "localhost/fedstudy:next"
OURS = {"app.kubernetes.io/managed-by": "fedstudy-operator"}
QUIET = {"leases", "federatedstudies", "siteparticipants", "events"}
"""What an operator may write where all children are as they should be: its Lease, and what it has heard, or cannot hear, from whom."""


async def test_another_release_rolls_what_has_its_image_and_never_a_trainer(
    plane: ControlPlane, kube: Kube, start: Start
) -> None:
    config = plane.token_kubeconfig(kube.namespace, await kube.account("operator"))
    async with paper_nodes(kube, 2):
        operator = await start(name="first", kubeconfig=config)
        await _live(kube)
        before = await _versions(kube, "Job", "Secret", "Service", "ConfigMap", "NetworkPolicy")

        async def taken_over(name: str, image: str) -> Operator:
            """As a Deployment rolls: the next replica is there before this one goes."""
            following = await start(name=name, kubeconfig=config, image=image, ready=False)
            await operator.stop()
            await until(following.is_ready, f"{name} leads", following.log.read_text)
            await _images(kube, image)
            assert await _versions(kube, *{key.split("/")[0] for key in before}) == before
            return following

        at = plane.audit_log.stat().st_size
        operator = await taken_over("same", OLD)
        await _every_study_is_passed(kube)
        written = requests(plane, at, f"system:serviceaccount:{kube.namespace}:operator")
        assert _written(written) <= QUIET
        operator = await taken_over("next", NEW)
        await taken_over("back", OLD)


async def _live(kube: Kube) -> None:
    """Studies with an aggregator each, a hospital that takes part in all of them, and its trainers at work."""
    await kube.create(dataset())
    for number in range(STUDIES):
        await kube.create(study(f"study-{number:03d}"))
        await kube.create(participant(kube.namespace, name=f"study-{number:03d}"))

    async def ready() -> set[str]:
        found = await kube.list("StatefulSet", **OURS)
        return {one["metadata"]["name"] for one in found if (one.get("status") or {}).get("readyReplicas")}

    seen: set[str] = set()

    async def all_ready() -> bool:
        seen.update(await ready())
        return len(seen) == 2 * STUDIES

    await until(all_ready, "every aggregator and every agent is ready", lambda: sorted(seen))
    for number in range(STUDIES):
        job = await kube.create(_trainer(f"study-{number:03d}-north"))
        await kube.until(
            "Job", job["metadata"]["name"], lambda o: bool((o.get("status") or {}).get("conditions"))
        )


def _trainer(participant: str) -> Object:
    """A trainer's Job, held back so that it needs no node."""
    labels = {
        **OURS,
        "fedstudy.io/participant": participant,
        "app.kubernetes.io/component": "trainer",
        "fedstudy.io/work": "w",
        "fedstudy.io/spec": "s",
    }
    container = {"name": "trainer", "image": "localhost/fedstudy-trainer:test"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": f"{participant}-trainer", "labels": labels}
    spec = {"suspend": True, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


async def _images(kube: Kube, image: str) -> None:
    """Wait until all workloads are of this image."""

    async def all_of_it() -> bool:
        found = await kube.list("StatefulSet", **OURS)
        return {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in found} == {image}

    await until(all_of_it, f"all StatefulSets have {image}")


async def _every_study_is_passed(kube: Kube) -> None:
    """Wait until the operator has seen an edit of each study: what it found before is then dealt with."""
    for number in range(STUDIES):
        await kube.merge("FederatedStudy", f"study-{number:03d}", {"spec": {"suspend": True}})
    for number in range(STUDIES):
        await kube.until(
            "FederatedStudy",
            f"study-{number:03d}",
            lambda o: o["status"]["observedGeneration"] == o["metadata"]["generation"],
        )


async def _versions(kube: Kube, *kinds: str) -> dict[str, str]:
    """Of all objects of these kinds."""
    return {
        f"{kind}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for kind in kinds
        for one in await kube.list(kind, **OURS)
    }


def _written(calls: Counter[str]) -> set[str]:
    """What was written, by resource."""
    return {call.split()[1] for call in calls if call.split()[0] not in ("get", "list", "watch")}
