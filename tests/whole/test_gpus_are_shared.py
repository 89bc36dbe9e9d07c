"""Three hospitals of one cluster want a GPU each where the node has two: nobody is refused, and nobody holds one without work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.whole.charts import Installed
from tests.whole.small import Small, condition, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]
GPU = "nvidia.com/gpu"
STEPS = 4_000
"""Enough that two trainers are seen at work while the third waits."""


@pytest.fixture(scope="module")
def shared(installed: Installed) -> Iterator[Small]:
    """Three hospitals, each trainer with a GPU, on the node's two."""
    made = Small(installed, "gpus", ("east", "north", "south"))
    made.hospitals()
    made.apply(made.study(rounds=2, steps=STEPS))
    wants = {"limits": {GPU: 1}, "requests": {"cpu": "100m"}}
    for site in made.sites:
        made.apply(made.dataset(site), made.participant(site, release="BetweenRounds", resources=wants))
    yield made
    made.remove()


def holders(shared: Small) -> set[str]:
    """Hospitals whose trainers hold a GPU: on a node, and not over."""
    return {
        site for site in shared.sites for one in shared.pods(site, "trainer") if one["spec"].get("nodeName")
    }


def waiting(shared: Small) -> dict[str, str]:
    """Hospitals whose trainer no node takes, with the reason that their status gives."""
    seen = {site: condition(shared.seen(site), "ComputeAvailable") for site in shared.sites}
    return {site: c["message"] for site, c in seen.items() if c["reason"] == "Unschedulable"}


def test_the_node_has_two_gpus(installed: Installed) -> None:
    (node,) = installed.eyes.list("/api/v1/nodes")
    assert node["status"]["allocatable"][GPU] == "2"


def test_two_train_and_the_third_waits_and_says_why(shared: Small) -> None:
    until("round 1", shared.seen_study, lambda s: condition(s, "Training")["message"] == "round 1 of 2")
    until("two at work", lambda: len(holders(shared)), (2).__eq__)
    seen = until("one waits", lambda: waiting(shared))
    assert len(seen) == 1
    ((site, message),) = seen.items()
    assert f"Insufficient {GPU}" in message
    ready = condition(shared.seen(site), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Unschedulable")
    assert len(holders(shared)) <= 2


def test_the_third_gets_the_gpu_that_another_gives_back_within_the_round(shared: Small) -> None:
    (late,) = waiting(shared) or {"": ""}
    if late:
        until(f"{late} trains", lambda: late in holders(shared))
    assert condition(shared.seen_study(), "Training")["message"] == "round 1 of 2"


def test_no_gpu_is_held_while_there_is_no_work(shared: Small) -> None:
    """Checklist 20, the study's side: suspended, it ends the round under way and stops; all GPUs are free."""
    shared.patch("fstudy", shared.hub, {"spec": {"suspend": True}})
    until(
        "the study stands still",
        shared.seen_study,
        lambda s: condition(s, "Training")["reason"] == "SuspendedByUser",
    )
    until("all GPUs are free", lambda: holders(shared), lambda held: not held)
    for site in shared.sites:
        shared.until_says(site, "Training", "Idle")
        until(
            f"{site} has no Job under way",
            lambda site=site: [job for job in shared.jobs(site) if not job["status"].get("succeeded")],  # type: ignore[misc]
            lambda jobs: not jobs,
        )
    assert (shared.seen_study() or {})["status"]["round"]["current"] == 1


def test_resumed_it_goes_on_and_comes_to_its_end(shared: Small) -> None:
    shared.patch("fstudy", shared.hub, {"spec": {"suspend": False}})
    shared.until_complete(600)
    assert (shared.seen_study() or {})["status"]["round"]["completed"] == 2
    until("all GPUs are free", lambda: holders(shared), lambda held: not held)
    for site in shared.sites:
        until(f"{site} has no Job", lambda site=site: shared.jobs(site), lambda jobs: not jobs)  # type: ignore[misc]
