"""The hospital's half: the agent, the preflight, and a trainer exactly while it may train and there is work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests import small_study
from tests.operator.hub import FakePeers

from fedstudy.agent.presence import SILENT_SECONDS
from fedstudy.wire.admin import AgentState, Configure, DatasetProfile, LabelCount
from fedstudy_operator.api import Reason
from fedstudy_operator.api.participant import Release
from fedstudy_operator.children.common import Settings
from fedstudy_operator.children.trainer import short_hash
from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.local.store import LocalCluster
from fedstudy_operator.reconcile.causes import last_words
from fedstudy_operator.reconcile.dataset import DatasetReconciler
from fedstudy_operator.reconcile.participant import (
    ATTEMPT,
    UNINVITED_SECONDS,
    ParticipantReconciler,
    plan_jobs,
)
from fedstudy_operator.reconcile.study import StudyReconciler

STUDY = Key("FederatedStudy", "hub", "glioma")
KEY = Key("SiteParticipant", "north", "glioma")
DATASET = Key("SiteDataset", "north", "scans")
DIGEST = "sha256:" + "a" * 64


def resource(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "fedstudy.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


STUDY_SPEC = small_study.spec(sites=[{"name": "north"}])


class Hospital:
    """One cluster with a study and a hospital, reconciled by hand."""

    def __init__(self) -> None:
        self.cluster = LocalCluster()
        self.peers = FakePeers()
        self.study = StudyReconciler(self.cluster, self.peers, Settings())
        self.participant = ParticipantReconciler(self.cluster, self.peers, Settings(queues=False))
        self.dataset = DatasetReconciler(self.cluster, self.peers)

    async def apply(self, **spec: Any) -> None:
        wanted = {
            "study": {"name": "glioma", "namespace": "hub"},
            "siteName": "north",
            "datasetRef": "scans",
            "approval": {"planDigest": DIGEST},
            **spec,
        }
        await self.cluster.apply(resource("SiteParticipant", "north", "glioma", wanted), manager="user")

    async def set_up(self, **spec: Any) -> None:
        await self.cluster.apply(resource("FederatedStudy", "hub", "glioma", STUDY_SPEC), manager="user")
        await self.study.reconcile(STUDY)
        data = {"volume": {"persistentVolumeClaim": "scans"}, "policy": {"purposes": ["DUO:0000007"]}}
        await self.cluster.apply(resource("SiteDataset", "north", "scans", data), manager="user")
        await self.apply(**spec)
        await self.step()

    async def step(self) -> dict[str, Any]:
        await self.participant.reconcile(KEY)
        status: dict[str, Any] = (await self.cluster.get(KEY))["status"]
        return status

    def says(self, **fields: Any) -> None:
        plan = {"plan_digest": DIGEST, "enrolled": True, "connected": True}
        self.peers.states[KEY] = AgentState(**{**plan, **fields})

    def fits(self, **fields: Any) -> DatasetProfile:
        return DatasetProfile(plan_digest=DIGEST, fits=True, **fields)

    async def jobs(self, component: str) -> list[Object]:
        return await self.cluster.list("Job", "north", {"app.kubernetes.io/component": component})

    async def end(self, job: Object, kind: str) -> None:
        key = Key("Job", "north", job["metadata"]["name"])
        ended = {"conditions": [{"type": kind, "status": "True", "reason": "X"}]}
        await self.cluster.patch_status(key, ended, manager="kubelet")

    def silence(self, since: str) -> None:
        """The trainer has not spoken since, says the agent."""
        state, change = self.peers.states[KEY], {"trainer_last_seen": since, "trainer_silent": True}
        self.peers.states[KEY] = state.model_copy(update=change)

    async def ready_to_train(self, **fields: Any) -> None:
        """The preflight has succeeded, and the plan is approved."""
        self.says()
        await self.step()
        (job,) = await self.jobs("preflight")
        await self.end(job, "Complete")
        self.says(approved=True, approval_reason="Approved", profile=self.fits(), **fields)


@pytest.fixture
def hospital() -> Hospital:
    return Hospital()


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next((c for c in status["conditions"] if c["type"] == kind), {"status": "absent", "reason": ""})
    return found["status"], found["reason"]


async def test_a_participant_gets_its_agent_and_the_invitation_of_the_same_cluster(
    hospital: Hospital,
) -> None:
    await hospital.set_up()
    secrets = [o["metadata"]["name"] for o in await hospital.cluster.list("Secret", "north")]
    assert secrets == [
        "glioma-agent-tls",
        "glioma-authority",
        "glioma-invitation",
        "glioma-operator-tls",
        "glioma-trainer-tls",
    ]
    copied = await hospital.cluster.get(Key("Secret", "north", "glioma-invitation"))
    sent = await hospital.cluster.get(Key("Secret", "hub", "glioma-invitation-north"))
    assert copied["data"] == sent["data"]
    agent = await hospital.cluster.get(Key("StatefulSet", "north", "glioma-agent"))
    environment = {e["name"]: e["value"] for e in agent["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["FEDSTUDY_UPSTREAM"] == "glioma-aggregator.hub.svc:443"
    assert condition(await hospital.step(), "Ready") == ("Unknown", Reason.PROVISIONING)


async def test_an_agent_is_dialled_once_its_pod_is_ready_and_not_before(hospital: Hospital) -> None:
    await hospital.set_up()
    assert hospital.peers.endpoints == {}
    agent = Key("StatefulSet", "north", "glioma-agent")
    await hospital.cluster.patch_status(agent, {"readyReplicas": 1}, manager="kubelet")
    await hospital.step()
    assert hospital.peers.endpoints[KEY].address == "glioma-agent.north.svc:8443"


async def test_a_second_pass_writes_nothing(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    await hospital.step()
    kinds = ("Secret", "ConfigMap", "Service", "NetworkPolicy", "StatefulSet", "Job", "SiteParticipant")
    before = {kind: await hospital.cluster.list(kind) for kind in kinds}
    await hospital.step()
    assert {kind: await hospital.cluster.list(kind) for kind in kinds} == before


async def test_what_is_missing_is_said_and_nothing_is_made(hospital: Hospital) -> None:
    await hospital.apply()
    status = await hospital.step()
    assert condition(status, "Ready") == ("False", Reason.DATASET_NOT_FOUND)
    assert condition(status, "Enrolled") == ("False", Reason.INVITATION_NOT_FOUND)
    assert await hospital.cluster.list("StatefulSet") == []


async def test_a_study_that_comes_later_is_looked_for(hospital: Hospital) -> None:
    """A hospital's operator is not told of the hub's objects: it looks again before long."""
    await hospital.apply()
    assert await hospital.participant.reconcile(KEY) == UNINVITED_SECONDS
    await hospital.set_up()
    assert await hospital.cluster.list("StatefulSet", "north")


async def test_an_invitation_from_another_cluster_is_used_where_it_lies(hospital: Hospital) -> None:
    data = {"volume": {"persistentVolumeClaim": "scans"}}
    await hospital.cluster.apply(resource("SiteDataset", "north", "scans", data), manager="user")
    hub = {"endpoint": "hub.example.org:443", "invitation": {"secretName": "sent"}}
    await hospital.apply(study={"name": "glioma", "hub": hub})
    assert condition(await hospital.step(), "Ready") == ("False", Reason.INVITATION_NOT_FOUND)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sent", "namespace": "north"},
        "data": {},
    }
    await hospital.cluster.apply(secret, manager="user")
    await hospital.step()
    agent = await hospital.cluster.get(Key("StatefulSet", "north", "glioma-agent"))
    volumes = {v["name"]: v for v in agent["spec"]["template"]["spec"]["volumes"]}
    assert volumes["invitation"]["secret"]["secretName"] == "sent"


async def test_the_agent_is_told_policy_and_approval_once(hospital: Hospital) -> None:
    await hospital.set_up()
    hospital.says()
    await hospital.step()
    await hospital.step()
    (told,) = hospital.peers.told
    assert isinstance(told, Configure)
    assert told.policy.purposes == ["DUO:0000007"]
    assert (told.approval.mode, told.approval.plan_digest) == ("Digest", DIGEST)
    await hospital.apply(approval={"mode": "Automatic"}, suspend=True)
    await hospital.step()
    assert isinstance(hospital.peers.told[-1], Configure)
    assert hospital.peers.told[-1].approval.mode == "Automatic"
    assert hospital.peers.told[-1].suspend


async def test_the_plan_is_shown_and_checked_before_anybody_approves(hospital: Hospital) -> None:
    await hospital.set_up(approval=None)
    hospital.says(approval_reason="WaitingForApproval", work="w1")
    status = await hospital.step()
    assert len(await hospital.jobs("preflight")) == 1
    assert await hospital.jobs("trainer") == []
    assert condition(status, "PlanApproved") == ("False", Reason.WAITING_FOR_APPROVAL)
    assert status["offeredPlan"]["digest"] == DIGEST


async def test_one_preflight_for_each_plan(hospital: Hospital) -> None:
    await hospital.set_up()
    hospital.says()
    await hospital.step()
    (first,) = await hospital.jobs("preflight")
    hospital.says(plan_digest="sha256:" + "b" * 64)
    await hospital.step()
    (second,) = await hospital.jobs("preflight")
    assert first["metadata"]["name"] != second["metadata"]["name"]


async def test_a_trainer_is_there_exactly_while_it_may_train_and_there_is_work(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train()
    status = await hospital.step()
    assert await hospital.jobs("trainer") == []
    assert condition(status, "Ready") == ("True", Reason.IDLE)
    await hospital.ready_to_train(work="0001-000-train-north")
    await hospital.step()
    (job,) = await hospital.jobs("trainer")
    status = await hospital.step()
    assert status["jobName"] == job["metadata"]["name"]
    assert condition(status, "Ready") == ("True", Reason.PARTICIPATING)
    assert condition(status, "Training") == ("True", Reason.ROUND_IN_PROGRESS)


FORBIDDEN: list[dict[str, Any]] = [
    {"approved": False, "approval_reason": "DigestMismatch"},
    {"violations": ["federation.minSites is 1"]},
    {"profile": DatasetProfile(plan_digest=DIGEST, fits=False, faults=["row 3: no label"])},
    {"profile": None},
    {"finished": True},
]


@pytest.mark.parametrize("change", FORBIDDEN)
async def test_no_trainer_sees_the_data_without_every_consent(
    hospital: Hospital, change: dict[str, Any]
) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    assert len(await hospital.jobs("trainer")) == 1
    good = hospital.peers.states[KEY]
    hospital.peers.states[KEY] = good.model_copy(update=change)
    await hospital.step()
    assert await hospital.jobs("trainer") == []


async def test_suspending_ends_the_trainer_and_resuming_begins_again(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    await hospital.apply(suspend=True)
    status = await hospital.step()
    assert await hospital.jobs("trainer") == []
    assert condition(status, "Ready") == ("True", Reason.SUSPENDED_BY_USER)
    await hospital.apply(suspend=False)
    await hospital.step()
    assert len(await hospital.jobs("trainer")) == 1


STATES: list[tuple[dict[str, Any], dict[str, tuple[str, Reason]]]] = [
    (
        {"enrolled": False, "connected": False, "plan_digest": "", "reason": "PendingHubAcceptance"},
        {
            "Enrolled": ("False", Reason.PENDING_HUB_ACCEPTANCE),
            "Ready": ("False", Reason.PENDING_HUB_ACCEPTANCE),
            "PlanApproved": ("Unknown", Reason.NO_PLAN),
        },
    ),
    (
        {"enrolled": False, "connected": False, "plan_digest": "", "reason": "InvitationRefused"},
        {"Enrolled": ("False", Reason.INVITATION_REFUSED), "Stalled": ("True", Reason.INVITATION_REFUSED)},
    ),
    ({"connected": False, "reason": "DialFailed"}, {"HubConnected": ("False", Reason.DIAL_FAILED)}),
    ({"connected": False, "reason": "Revoked"}, {"Enrolled": ("False", Reason.REVOKED)}),
    (
        {"violations": ["purpose"], "approval_reason": "PolicyRefused"},
        {"PolicySatisfied": ("False", Reason.POLICY_REFUSED), "Stalled": ("True", Reason.POLICY_REFUSED)},
    ),
    ({"approval_reason": "ApprovalExpired"}, {"PlanApproved": ("False", Reason.APPROVAL_EXPIRED)}),
    ({}, {"DataAvailable": ("Unknown", Reason.PREFLIGHT_RUNNING)}),
    ({"finished": True}, {"Complete": ("True", Reason.COMPLETED), "Ready": ("True", Reason.COMPLETED)}),
]


@pytest.mark.parametrize(("fields", "expected"), STATES)
async def test_what_the_agent_says_becomes_conditions(
    hospital: Hospital, fields: dict[str, Any], expected: dict[str, tuple[str, str]]
) -> None:
    await hospital.set_up()
    hospital.says()
    await hospital.step()
    hospital.says(**fields)
    status = await hospital.step()
    assert {kind: condition(status, kind) for kind in expected} == expected


async def test_data_that_do_not_fit_are_said_in_plain_words(hospital: Hospital) -> None:
    await hospital.set_up()
    hospital.says()
    await hospital.step()
    (job,) = await hospital.jobs("preflight")
    await hospital.end(job, "Failed")
    status = await hospital.step()
    assert condition(status, "DataAvailable") == ("False", Reason.PREFLIGHT_FAILED)
    profile = DatasetProfile(plan_digest=DIGEST, fits=False, faults=["row 3, column idh: unknown class 'x'"])
    hospital.says(profile=profile)
    status = await hospital.step()
    assert condition(status, "DataAvailable") == ("False", Reason.CONTRACT_MISMATCH)
    assert "row 3, column idh" in str(status["conditions"])


async def test_a_failed_trainer_is_said_with_what_the_agent_heard_and_not_tried_for_ever(
    hospital: Hospital,
) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1", failure="row 7: the image is truncated")
    await hospital.step()
    (job,) = await hospital.jobs("trainer")
    await hospital.end(job, "Failed")
    status = await hospital.step()
    assert condition(status, "ComputeAvailable") == ("False", Reason.TRAINER_FAILED)
    assert condition(status, "Stalled") == ("True", Reason.TRAINER_FAILED)
    assert "row 7" in str(status["conditions"])
    assert await hospital.jobs("trainer") == [
        await hospital.cluster.get(Key("Job", "north", job["metadata"]["name"]))
    ]
    await hospital.ready_to_train(work="w2")
    await hospital.step()
    (other,) = await hospital.jobs("trainer")
    assert other["metadata"]["name"] != job["metadata"]["name"]


async def test_a_trainer_that_is_tried_again_has_not_failed_yet(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    (job,) = await hospital.jobs("trainer")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": job["metadata"]["uid"]}
    labels = job["spec"]["template"]["metadata"]["labels"]
    metadata = {"name": "p", "namespace": "north", "labels": labels, "ownerReferences": [owner]}
    await hospital.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, manager="kubelet")
    ended = {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    pod = Key("Pod", "north", "p")
    await hospital.cluster.patch_status(
        pod, {"phase": "Failed", "containerStatuses": [ended]}, manager="kubelet"
    )
    assert condition(await hospital.step(), "ComputeAvailable") == ("Unknown", Reason.OUT_OF_MEMORY)
    await hospital.end(job, "Failed")
    status = await hospital.step()
    assert condition(status, "ComputeAvailable") == ("False", Reason.OUT_OF_MEMORY)
    assert condition(status, "Ready") == ("False", Reason.OUT_OF_MEMORY)


async def runs(hospital: Hospital, job: Object, began: datetime) -> None:
    """The Job's pod runs since then."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": job["metadata"]["uid"]}
    labels = job["spec"]["template"]["metadata"]["labels"]
    name = f"pod-of-{job['metadata']['name']}"
    metadata = {"name": name, "namespace": "north", "labels": labels, "ownerReferences": [owner]}
    await hospital.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, manager="kubelet")
    running = {"state": {"running": {"startedAt": began.strftime("%Y-%m-%dT%H:%M:%SZ")}}}
    ran = {"phase": "Running", "containerStatuses": [running]}
    await hospital.cluster.patch_status(Key("Pod", "north", name), ran, manager="kubelet")


LONG_AGO, JUST_NOW = timedelta(hours=1), timedelta(seconds=5)


async def test_a_silent_trainer_is_said_and_replaced_once_for_each_silence(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    (job,) = await hospital.jobs("trainer")
    await runs(hospital, job, datetime.now(UTC) - LONG_AGO)
    hospital.silence("2026-01-01T00:00:00Z")
    status = await hospital.step()
    assert condition(status, "ComputeAvailable") == ("False", Reason.TRAINER_SILENT)
    assert condition(status, "Ready") == ("False", Reason.TRAINER_SILENT)
    (other,) = await hospital.jobs("trainer")
    assert other["metadata"]["name"] != job["metadata"]["name"]
    await runs(hospital, other, datetime.now(UTC) - LONG_AGO)
    status = await hospital.step()  # the silence is still that of the first: the second has not spoken yet
    assert condition(status, "ComputeAvailable") == ("True", Reason.SCHEDULED)
    assert await hospital.jobs("trainer") == [other]
    hospital.silence("2026-01-01T00:05:00Z")
    await hospital.step()  # it has spoken, and is silent now
    (third,) = await hospital.jobs("trainer")
    assert third["metadata"]["name"] not in (job["metadata"]["name"], other["metadata"]["name"])


async def test_a_trainer_that_has_only_just_begun_is_not_blamed_for_a_silence(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1", trainer_last_seen="2026-01-01T00:00:00Z", trainer_silent=True)
    await hospital.step()
    (job,) = await hospital.jobs("trainer")
    await hospital.step()
    assert await hospital.jobs("trainer") == [job]  # it has no pod yet
    await runs(hospital, job, datetime.now(UTC) - JUST_NOW)
    again = await hospital.participant.reconcile(KEY)
    assert await hospital.jobs("trainer") == [job]
    assert again is not None and again <= SILENT_SECONDS  # and is looked at again when it should have spoken


async def test_a_study_that_is_deleted_leaves_no_trainer_behind(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    await hospital.cluster.delete(STUDY)
    status = await hospital.step()
    assert await hospital.jobs("trainer") == []
    assert condition(status, "Ready") == ("False", Reason.STUDY_NOT_FOUND)


async def test_a_job_that_its_queue_holds_back_is_said_and_left_alone(hospital: Hospital) -> None:
    hospital.participant = ParticipantReconciler(hospital.cluster, hospital.peers, Settings())
    await hospital.set_up(trainer={"queueName": "gpus"})
    hospital.says()
    await hospital.step()
    (preflight,) = await hospital.jobs("preflight")
    assert preflight["spec"]["suspend"] is True
    status = await hospital.step()
    assert condition(status, "DataAvailable") == ("Unknown", Reason.WAITING_FOR_QUEUE)
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    status = await hospital.step()
    assert condition(status, "ComputeAvailable") == ("False", Reason.WAITING_FOR_QUEUE)
    assert condition(status, "Ready") == ("False", Reason.WAITING_FOR_QUEUE)
    (trainer,) = await hospital.jobs("trainer")
    await hospital.cluster.apply({**trainer, "spec": {**trainer["spec"], "suspend": False}}, manager="kueue")
    await hospital.step()
    (trainer,) = await hospital.jobs("trainer")
    assert trainer["spec"]["suspend"] is False


async def test_deleting_a_participant_leaves(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.ready_to_train(work="w1")
    await hospital.step()
    await hospital.cluster.delete(KEY)
    await hospital.participant.reconcile(KEY)
    for kind in ("Job", "Secret", "StatefulSet", "ConfigMap"):
        assert await hospital.cluster.list(kind, "north") == []


async def test_a_dataset_shows_what_the_preflight_counted_and_keeps_it(hospital: Hospital) -> None:
    await hospital.set_up()
    await hospital.dataset.reconcile(DATASET)
    status = (await hospital.cluster.get(DATASET))["status"]
    assert condition(status, "Profiled") == ("False", Reason.NOT_PROFILED)
    labels = [LabelCount(name="mutant", cases=None), LabelCount(name="wildtype", cases=30)]
    hospital.says(profile=hospital.fits(cases=33, labels=labels))
    await hospital.dataset.reconcile(DATASET)
    hospital.peers.states.clear()
    await hospital.dataset.reconcile(DATASET)
    status = (await hospital.cluster.get(DATASET))["status"]
    assert condition(status, "Readable") == ("True", Reason.READABLE)
    assert status["profile"]["cases"] == 33
    assert status["profile"]["labels"] == [{"name": "mutant"}, {"name": "wildtype", "cases": 30}]
    assert status["studies"] == ["glioma"]


def _job(work: str, end: str = "", spec: str = "s") -> Object:
    conditions = [{"type": end, "status": "True"}] if end else []
    labels = {"fedstudy.io/work": short_hash(work), "fedstudy.io/spec": spec}
    return {"metadata": {"labels": labels}, "status": {"conditions": conditions}}


def _plan(present: list[Object], **changes: Any) -> Any:
    usual: dict[str, Any] = {
        "allowed": True,
        "work": "w",
        "made_of": "s",
        "release": Release.BETWEEN_ROUNDS,
        "idle": 0.0,
        "settled": True,
    }
    return plan_jobs(present, **{**usual, **changes})


def test_when_a_trainer_is_made() -> None:
    assert _plan([]).make == 0
    assert _plan([_job("w")]).make is None
    assert _plan([_job("w", "Complete")]).make == 1
    assert _plan([_job("w", "Complete")], settled=False).make is None
    assert _plan([_job("w", "Failed")]).make is None
    assert _plan([_job("w", "Failed", spec="before")]).make == 1
    assert _plan([_job("old", "Failed")]).make == 0
    assert _plan([_job("w", "Complete")] * 5).make is None
    assert _plan([], work="").make is None
    assert _plan([], allowed=False).make is None


def test_silent_trainers_are_not_replaced_for_ever() -> None:
    def silent(attempt: int) -> Object:
        job = _job("w")
        job["metadata"]["annotations"] = {ATTEMPT: str(attempt)}
        return job

    first = _job("w")
    assert _plan([first], silent=True).make == 1
    assert _plan([first], silent=True).delete == (first,)
    assert _plan([silent(1)], silent=True).make == 2
    assert _plan([_job("older")], silent=True).make == 0
    assert _plan([silent(4)], silent=True).make is None
    assert _plan([silent(4)], silent=True).delete == ()


def test_a_trainer_without_work_ends_by_itself_and_is_ended_when_it_does_not() -> None:
    job = _job("w")
    assert _plan([job], work="").delete == ()
    assert _plan([job], work="", idle=60.0).delete == (job,)
    assert _plan([job], work="", idle=60.0, release=Release.NEVER).delete == ()
    assert _plan([job], allowed=False).delete == (job,)


def test_last_words_are_the_last_error_of_a_log() -> None:
    log = '{"level":"info","event":"start"}\n{"level":"error","event":"No label.","remedy":"Add it."}\n{"level":"info","event":"bye"}\n'
    assert last_words(log) == "No label. Add it."
    assert last_words("Traceback\nValueError: x\n") == "ValueError: x"
    assert last_words("") == ""
