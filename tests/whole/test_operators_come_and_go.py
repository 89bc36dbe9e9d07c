"""Checklist 13, and Secrets that somebody deletes: what runs goes on, and what is lacking comes back."""

from __future__ import annotations

import json

import pytest
from tests.whole.api import Object
from tests.whole.charts import NAMESPACE, Installed
from tests.whole.small import Small, condition, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


def life(busy: Small) -> dict[str, tuple[str, int]]:
    """Every pod of the study and its hospitals: who it is, and how often its container has started anew."""
    pods = [*busy.aggregators()]
    for site in busy.sites:
        pods += busy.running(site, "agent") + busy.running(site, "trainer")
    return {
        f"{one['metadata']['namespace']}/{one['metadata']['name']}": (
            one["metadata"]["uid"],
            one["status"]["containerStatuses"][0]["restartCount"],
        )
        for one in pods
    }


def test_uninstalled_and_installed_again_the_charts_take_over_what_goes_on(
    installed: Installed, busy: Small
) -> None:
    """Checklist 13: definitions, resources and pods stay; no trainer starts anew; the new operators are heard from."""
    before = life(busy)
    uids = [obj["metadata"]["uid"] for obj in (busy.seen_study(), *map(busy.seen, busy.sites)) if obj]
    for release in ("fedstudy-hub", "fedstudy-site"):
        installed.helm("uninstall", release, "--wait")
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    until("no operator", lambda: installed.eyes.list(path, component="operator"), lambda pods: not pods)
    assert life(busy) == before
    assert [obj["metadata"]["uid"] for obj in (busy.seen_study(), *map(busy.seen, busy.sites)) if obj] == uids
    lost = f"/api/v1/namespaces/{busy.namespace('north')}/services/busy-agent"
    installed.kubectl("delete", "service", "busy-agent", "-n", busy.namespace("north"))
    installed.install()
    until("the new operator makes what was lost", lambda: installed.eyes.get(lost))
    busy.patch("sitep", busy.namespace("north"), {"metadata": {"annotations": {"example.org/a": "b"}}})
    for site in busy.sites:
        busy.until_trains(site)
    assert life(busy) == before


def delete(busy: Small, namespace: str, *names: str) -> None:
    """Delete Secrets."""
    busy.installed.kubectl("delete", "secret", "-n", namespace, *names)


def uid_of(busy: Small, namespace: str, name: str) -> str:
    """Of a Secret; empty where it is not there."""
    found = busy.installed.eyes.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    return str(found["metadata"]["uid"]) if found else ""


def test_an_aggregator_whose_secret_is_gone_gets_another_when_it_has_to_start(busy: Small) -> None:
    """Bad input, a deleted Secret: the operator may not watch Secrets of all namespaces, but it sees that a pod does not come up."""
    (old,) = busy.aggregators()
    delete(busy, busy.hub, "busy-aggregator-tls")
    busy.installed.kubectl("delete", "pod", "-n", busy.hub, old["metadata"]["name"])
    until("the Secret again", lambda: uid_of(busy, busy.hub, "busy-aggregator-tls"))
    until("the study again", lambda: condition(busy.seen_study(), "AggregatorReady")["status"], "True".__eq__)
    for site in busy.sites:
        busy.until_says(site, "HubConnected", "Connected")
        assert busy.until_trains(site) == f"0001-000-train-{site}"


def test_an_agent_whose_secrets_are_gone_gets_others(busy: Small) -> None:
    """Its certificate, its trainers' and the operator's; the trainer at work is not disturbed."""
    namespace = busy.namespace("south")
    names = ("busy-agent-tls", "busy-trainer-tls", "busy-operator-tls")
    trainer = busy.running("south", "trainer")[0]["metadata"]["uid"]
    delete(busy, namespace, *names)
    (old,) = busy.running("south", "agent")
    busy.installed.kubectl("delete", "pod", "-n", namespace, old["metadata"]["name"])
    for name in names:
        until(f"{name} again", lambda name=name: uid_of(busy, namespace, name))  # type: ignore[misc]
    until("another agent", lambda: new_agent(busy, old), seconds=180)
    busy.until_says("south", "HubConnected", "Connected")
    assert busy.until_trains("south") == "0001-000-train-south"
    assert busy.running("south", "trainer")[0]["metadata"]["uid"] == trainer


def new_agent(busy: Small, old: Object) -> bool:
    """Whether another pod than the old is the agent, and ready."""
    return any(
        one["metadata"]["uid"] != old["metadata"]["uid"]
        and one["status"]["containerStatuses"][0].get("ready")
        for one in busy.running("south", "agent")
    )


def test_after_all_of_that_no_container_has_started_anew(busy: Small) -> None:
    """No crash loop: the pods that were deleted are others now, and none of them has ended by itself."""
    assert all(restarts == 0 for _, restarts in life(busy).values()), json.dumps(life(busy))
