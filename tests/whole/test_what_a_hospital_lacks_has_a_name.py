"""Bad input at real pods: each thing that a hospital lacks ends in a typed condition that says what to do, and what is mended goes on by itself.

One study, in which every hospital lacks something else; when the last has mended it, the study comes to its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.whole.api import Object
from tests.whole.charts import Installed
from tests.whole.small import TRAINER_IMAGE, Small, condition, table, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]
NO_IMAGE = "localhost/there-is-no-such-trainer:1"


def quota(lacking: Small, pods: int) -> None:
    """Let so many pods into the namespace of the hospital `quota`."""
    metadata = {"name": "pods", "namespace": lacking.namespace("quota")}
    lacking.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": metadata,
            "spec": {"hard": {"pods": str(pods)}},
        }
    )


@pytest.fixture(scope="module")
def lacking(installed: Installed) -> Iterator[Small]:
    """A study whose hospitals all lack something."""
    made = Small(installed, "lacking", ("claim", "columns", "image", "quota"))
    tables = {site: table(number) for number, site in enumerate(made.sites)}
    made.hospitals({**tables, "columns": table(1, without=["age"])})
    quota(made, 0)
    made.apply(made.study(), *(made.dataset(site) for site in made.sites if site != "claim"))
    made.apply(made.dataset("claim", claim="not-there"), made.participant("image", image=NO_IMAGE))
    made.apply(*(made.participant(site) for site in made.sites if site != "image"))
    yield made
    made.remove()


def says(lacking: Small, site: str, kind: str, reason: str) -> str:
    """Wait until both the condition and Ready have the reason; the message."""
    seen = lacking.until_says(site, kind, reason)
    assert seen["status"] == "False"
    ready = lacking.until_says(site, "Ready", reason)
    assert (ready["status"], ready["message"]) == ("False", seen["message"])
    return str(seen["message"])


def test_data_that_do_not_match_the_plan_are_told_by_column(lacking: Small) -> None:
    """And mended here, at once: a minute later the operator looks again, see below."""
    assert "age" in says(lacking, "columns", "DataAvailable", "ContractMismatch")
    assert condition(lacking.seen("columns"), "Stalled")["reason"] == "ContractMismatch"
    lacking.write({"columns": table(1)})


def test_an_agent_that_no_quota_lets_in_is_let_in_when_it_does(lacking: Small) -> None:
    ready = lacking.until_says("quota", "Ready", "QuotaExceeded")
    assert ready["status"] == "False"
    assert "exceeded quota: pods" in ready["message"]
    quota(lacking, 1)
    lacking.until_says("quota", "HubConnected", "Connected")


def test_a_claim_that_is_not_there_is_named(lacking: Small) -> None:
    assert '"not-there" not found' in says(lacking, "claim", "DataAvailable", "ClaimNotFound")
    dataset = until(
        "the dataset says so",
        lambda: condition(lacking.seen_dataset("claim"), "Readable"),
        lambda entry: entry["reason"] == "ClaimNotFound",
    )
    assert dataset["status"] == "False"
    lacking.apply(lacking.dataset("claim"))
    lacking.until_says("claim", "DataAvailable", "Fits")


def test_an_image_that_cannot_be_pulled_is_named(lacking: Small) -> None:
    assert NO_IMAGE in says(lacking, "image", "DataAvailable", "ImagePullFailed")
    lacking.apply(lacking.participant("image", image=TRAINER_IMAGE))
    lacking.until_says("image", "DataAvailable", "Fits")


def test_a_preflight_that_no_quota_lets_in_is_let_in_when_it_does(lacking: Small) -> None:
    assert "exceeded quota: pods" in says(lacking, "quota", "DataAvailable", "QuotaExceeded")
    quota(lacking, 10)
    lacking.until_says("quota", "DataAvailable", "Fits")


def test_mended_data_are_looked_at_again(lacking: Small) -> None:
    lacking.until_says("columns", "DataAvailable", "Fits")


def test_the_study_that_waited_for_all_of_them_comes_to_its_end(lacking: Small) -> None:
    lacking.until_complete()
    for site in lacking.sites:
        lacking.until_says(site, "Ready", "Completed")


def test_no_container_of_ours_went_round_in_circles(lacking: Small) -> None:
    def restarts(namespace: str) -> dict[str, int]:
        pods: list[Object] = lacking.installed.eyes.list(f"/api/v1/namespaces/{namespace}/pods")
        return {
            one["metadata"]["name"]: container["restartCount"]
            for one in pods
            for container in one["status"].get("containerStatuses") or []
            if container["restartCount"]
        }

    found = {
        name: restarts(name) for name in (lacking.hub, "fedstudy", *map(lacking.namespace, lacking.sites))
    }
    assert not any(found.values()), json.dumps(found)
