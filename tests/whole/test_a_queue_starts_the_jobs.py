"""Checklist 21, against a real Job controller: a Job with a queue's name is born suspended, and then it is Kueue's. The test plays Kueue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.whole.api import Object
from tests.whole.charts import NAMESPACE, Installed
from tests.whole.small import Small, condition, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]
SITE = "north"
QUEUE = "gpus"
WRITES = ("create", "update", "patch")
OPERATOR = f"system:serviceaccount:{NAMESPACE}:fedstudy-site"


@dataclass(frozen=True)
class Audited:
    """An audit log from here on: the cluster's folder may hold that of an earlier one."""

    log: Path
    start: int

    def jobs(self, namespace: str) -> list[tuple[str, str, int]]:
        """Name, verb and HTTP status of each write of a Job of a namespace that the operator asked for."""
        found = []
        with self.log.open("rb") as lines:
            lines.seek(self.start)
            for entry in map(json.loads, lines):
                what = entry.get("objectRef") or {}
                mine = entry["user"]["username"] == OPERATOR and what.get("resource") == "jobs"
                if mine and what.get("namespace") == namespace and entry["verb"] in WRITES:
                    found.append((what["name"], entry["verb"], entry["responseStatus"]["code"]))
        return found


@pytest.fixture(scope="module")
def audited(installed: Installed) -> Audited | None:
    """The log before there is a study; None where this cluster's cannot be read."""
    log = installed.cluster.audit_log
    return None if log is None else Audited(log, log.stat().st_size)


@pytest.fixture(scope="module")
def queued(installed: Installed, audited: Audited | None) -> Iterator[Small]:
    """A study of one hospital that has its Jobs queued."""
    made = Small(installed, "queued", (SITE,))
    made.hospitals()
    made.apply(made.study(rounds=1, steps=8_000), made.dataset(SITE), made.participant(SITE, queueName=QUEUE))
    yield made
    made.remove()


def the_job(queued: Small, component: str) -> Object:
    """The one Job of a component, as soon as it is there."""
    (job,) = until(f"a {component}", lambda: queued.jobs(SITE, component))
    return job


def admit(queued: Small, job: Object, *, suspend: bool = False) -> None:
    """What Kueue does when there is room, and undoes when it takes the room back."""
    name = job["metadata"]["name"]
    patch = {"spec": {"suspend": suspend}}
    queued.patch("job", queued.namespace(SITE), patch, name, "--field-manager=kueue")


def disturb(queued: Small) -> None:
    """Make the operator look at everything again, and wait until it has."""
    (
        queued.installed.kubectl(
            "annotate",
            "sitep",
            queued.name,
            "-n",
            queued.namespace(SITE),
            "example.org/looked=again",
            "--overwrite",
        )
    )
    queued.patch(
        "sdata",
        queued.namespace(SITE),
        {"spec": {"policy": {"minSites": 1, "maxConcurrentStudies": 5}}},
        "patients",
    )
    until(
        "the dataset is seen",
        lambda: queued.seen_dataset(SITE) or {},
        lambda obj: obj["status"]["observedGeneration"] == obj["metadata"]["generation"],
    )


def test_a_preflight_waits_for_its_queue_and_says_so(queued: Small) -> None:
    job = the_job(queued, "preflight")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == QUEUE
    seen = queued.until_says(SITE, "DataAvailable", "WaitingForQueue")
    assert QUEUE in seen["message"]
    assert condition(queued.seen(SITE), "Ready")["reason"] == "WaitingForQueue"
    assert not queued.pods(SITE, "preflight")


def test_admitted_it_runs_and_the_trainer_waits_in_its_turn(queued: Small) -> None:
    admit(queued, the_job(queued, "preflight"))
    queued.until_says(SITE, "DataAvailable", "Fits")
    job = the_job(queued, "trainer")
    assert job["spec"]["suspend"] is True
    queued.until_says(SITE, "ComputeAvailable", "WaitingForQueue")
    admit(queued, job)
    queued.until_trains(SITE)


def test_taken_off_in_mid_round_it_stays_off_until_the_queue_says_so(queued: Small) -> None:
    """The operator has every reason to look at the Job again, and leaves spec.suspend as it is."""
    job = the_job(queued, "trainer")
    admit(queued, job, suspend=True)
    until("no trainer", lambda: queued.pods(SITE, "trainer"), lambda pods: not pods)
    queued.until_says(SITE, "ComputeAvailable", "WaitingForQueue")
    disturb(queued)
    assert the_job(queued, "trainer")["spec"]["suspend"] is True
    admit(queued, job)
    queued.until_complete()


def test_the_operator_has_written_each_job_once(audited: Audited | None, queued: Small) -> None:
    """From the audit log: created, and never patched or updated. A create that is refused, since the Job is there, changes nothing."""
    if audited is None:
        pytest.skip("the audit log of this cluster cannot be read")
    done = audited.jobs(queued.namespace(SITE))
    assert {verb for _, verb, _ in done} == {"create"}
    assert {code for _, _, code in done} <= {201, 409}
    born = [name for name, _, code in done if code == 201]
    assert len(born) == len(set(born)) >= 2
    assert {name for name, _, _ in done} == set(born)
