"""Checklist 20 with real pods: suspend stops a hospital's trainer within its grace, and takes it up again in the same round."""

from __future__ import annotations

import json

import pytest
from tests.whole.small import Small, condition, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]
GRACE = 30.0
"""Of a trainer's pod."""


def suspend(busy: Small, value: bool, site: str = "north") -> None:
    """Set spec.suspend of a hospital's part."""
    busy.patch("sitep", busy.namespace(site), {"spec": {"suspend": value}})


def test_a_hospital_that_suspends_has_no_trainer_and_takes_up_the_same_round(busy: Small) -> None:
    """Its neighbour's trainer is not touched; what was trained until the last checkpoint is not trained again."""
    work = busy.until_trains("north")
    until_checkpoint(busy, "north")
    neighbour = busy.running("south", "trainer")[0]["metadata"]["uid"]
    before = busy.running("north", "trainer")[0]["metadata"]["uid"]
    suspend(busy, True)
    try:
        until("no trainer", lambda: all_pods(busy, "north"), lambda pods: not pods, 2 * GRACE)
        assert busy.jobs("north") == []
        busy.until_says("north", "Training", "SuspendedByUser")
        assert condition(busy.seen("north"), "Ready")["reason"] == "SuspendedByUser"
    finally:
        suspend(busy, False)
    assert busy.until_trains("north") == work
    (again,) = busy.running("north", "trainer")
    assert again["metadata"]["uid"] != before
    until("what the trainer says", lambda: busy.logs(again), lambda text: "goes on from a checkpoint" in text)
    assert busy.running("south", "trainer")[0]["metadata"]["uid"] == neighbour


def all_pods(busy: Small, site: str) -> list[str]:
    """Names of a hospital's trainer pods, also of those that are ending."""
    path = f"/api/v1/namespaces/{busy.namespace(site)}/pods"
    return [one["metadata"]["name"] for one in busy.installed.eyes.list(path, component="trainer")]


def until_checkpoint(busy: Small, site: str) -> None:
    """Wait until a trainer has saved its place; the first is saved after a minute."""
    code = "import glob, json; print(json.dumps(glob.glob('/scratch/*/state/round.checkpoint')))"
    until(
        "a checkpoint", lambda: json.loads(busy.python(busy.running(site, "trainer")[0], code)), seconds=180
    )


@pytest.mark.parametrize("last", [True, False], ids=["suspended", "resumed"])
def test_after_many_flips_the_last_word_holds(busy: Small, last: bool) -> None:
    """Ten flips as fast as kubectl writes them: one trainer in the end, or none, and the same round."""
    for value in [not last, last] * 5:
        suspend(busy, value)
    until(
        "the last word is seen",
        lambda: busy.seen("north") or {},
        lambda obj: obj["status"]["observedGeneration"] == obj["metadata"]["generation"],
    )
    if last:
        until("no trainer", lambda: all_pods(busy, "north"), lambda pods: not pods)
        busy.until_says("north", "Training", "SuspendedByUser")
        return
    assert busy.until_trains("north") == "0001-000-train-north"
    until("one trainer", lambda: all_pods(busy, "north"), lambda pods: len(pods) == 1)
    assert [job["metadata"]["name"] for job in busy.jobs("north")] == [
        condition_job(busy, "north"),
    ]


def condition_job(busy: Small, site: str) -> str:
    """The Job that a participant's status names."""
    return str(((busy.seen(site) or {}).get("status") or {}).get("jobName"))


def test_a_study_that_is_suspended_and_resumed_in_mid_round_loses_no_trainer(busy: Small) -> None:
    """A study is suspended after what is under way; resumed before that, nothing has happened to its trainers."""
    uids = {site: busy.running(site, "trainer")[0]["metadata"]["uid"] for site in busy.sites}
    for value in [True, False] * 5:
        busy.patch("fstudy", busy.hub, {"spec": {"suspend": value}})
        wanted = "True" if value else "False"
        until(
            "the study says so",
            lambda: condition(busy.seen_study(), "Suspended")["status"],
            wanted.__eq__,
        )
    assert condition(busy.seen_study(), "Training")["reason"] == "RoundInProgress"
    assert {site: busy.running(site, "trainer")[0]["metadata"]["uid"] for site in busy.sites} == uids
