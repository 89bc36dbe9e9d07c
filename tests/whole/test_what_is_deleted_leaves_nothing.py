"""Bad input at real pods: participant, study and namespaces deleted in the middle of a round. What stays is what docs/upgrade.md says: volumes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.whole.charts import Installed
from tests.whole.small import ENDLESS, Small, condition, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]
COLLECTIONS = (
    "/api/v1/{}/pods", "/api/v1/{}/services", "/api/v1/{}/configmaps", "/api/v1/{}/secrets",
    "/apis/apps/v1/{}/statefulsets", "/apis/batch/v1/{}/jobs", "/apis/networking.k8s.io/v1/{}/networkpolicies",
    "/apis/policy/v1/{}/poddisruptionbudgets",
)  # fmt: skip
NAMESPACE_SECONDS = 60.0
"""Checklist 12's bar, as the deadline."""


def begun(installed: Installed, name: str, sites: tuple[str, ...], hub: str = "hub") -> Small:
    """A study in the middle of a round."""
    made = Small(installed, name, sites, hub)
    made.hospitals()
    made.apply(made.study(steps=ENDLESS))
    for site in sites:
        made.apply(made.dataset(site), made.participant(site))
    for site in sites:
        made.until_trains(site)
    return made


def children(installed: Installed, namespace: str, **label: str) -> list[str]:
    """All that the operator made for a study or a participant, and the pods of that; volumes apart."""
    return [
        f"{path.rpartition('/')[2]}/{one['metadata']['name']}"
        for path in COLLECTIONS
        for one in installed.eyes.list(path.format(f"namespaces/{namespace}"), **label)
    ]


def volumes(installed: Installed, namespace: str, **label: str) -> list[str]:
    """Claims that are left, by the labels that docs/upgrade.md deletes them by."""
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    return [one["metadata"]["name"] for one in installed.eyes.list(path, **label)]


@pytest.fixture(scope="module")
def torn(installed: Installed) -> Iterator[Small]:
    """A study of two hospitals, to be deleted piece by piece."""
    made = begun(installed, "torn", ("leaves", "stays"))
    yield made
    made.remove()


def test_a_participant_deleted_in_mid_round_takes_all_along_but_its_volume(torn: Small) -> None:
    """The study goes on without it: it waits for its quorum, and says who is missing."""
    namespace = torn.namespace("leaves")
    assert children(torn.installed, namespace, participant=torn.name)
    torn.installed.kubectl("delete", "sitep", torn.name, "-n", namespace, "--wait=false")
    until(
        "nothing left",
        lambda: children(torn.installed, namespace, participant=torn.name),
        lambda left: not left,
    )
    assert volumes(torn.installed, namespace, participant=torn.name) == ["state-torn-agent-0"]
    until(
        "the study misses it",
        lambda: sites_of(torn),
        lambda sites: sites["leaves"]["connected"] is False and sites["stays"]["connected"] is True,
    )
    assert condition(torn.seen_study(), "Failed")["status"] == "False"


def sites_of(torn: Small) -> dict[str, dict[str, object]]:
    """The study's sites by name, as its status has them."""
    return {
        site["name"]: {"connected": False, **site} for site in (torn.seen_study() or {})["status"]["sites"]
    }


def test_a_study_deleted_in_mid_round_takes_all_along_but_its_volume(torn: Small) -> None:
    """Nothing of it comes again; the hospital that is still there is told, and its trainer holds no GPU for an answer that nobody waits for."""
    assert children(torn.installed, torn.hub, study=torn.name)
    torn.installed.kubectl("delete", "fstudy", torn.name, "-n", torn.hub, "--wait=false")
    until("nothing left", lambda: children(torn.installed, torn.hub, study=torn.name), lambda left: not left)
    ready = torn.until_says("stays", "Ready", "StudyNotFound")
    assert ready["status"] == "False"
    assert torn.name in ready["message"]
    until("no trainer", lambda: torn.jobs("stays") or torn.pods("stays", "trainer"), lambda left: not left)
    assert children(torn.installed, torn.hub, study=torn.name) == []
    assert volumes(torn.installed, torn.hub, study=torn.name) == ["state-torn-aggregator-0"]


def test_namespaces_deleted_in_mid_round_are_gone_within_a_minute(installed: Installed) -> None:
    """Checklist 12, with the operator up: hospital and hub at once; no finalizer of ours holds them up."""
    doomed = begun(installed, "doomed", ("north",), "doomed-hub")
    names = (doomed.hub, doomed.namespace("north"))
    installed.kubectl("delete", "namespace", *names, "--wait=false")
    for name in names:
        path = f"/api/v1/namespaces/{name}"
        until(
            f"the end of {name}",
            lambda path=path: installed.eyes.get(path),  # type: ignore[misc]
            lambda seen: seen is None,
            NAMESPACE_SECONDS,
        )
    everywhere = [path.format("").replace("//", "/") for path in COLLECTIONS]
    assert not [one for path in everywhere for one in installed.eyes.list(path, study=doomed.name)]
    volumes_left = installed.eyes.list("/api/v1/persistentvolumes")
    assert not {
        v["spec"]["claimRef"]["namespace"] for v in volumes_left if v["status"]["phase"] == "Bound"
    } & set(names)
