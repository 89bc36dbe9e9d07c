"""Conditions and their reasons: one enum, each documented, each reached by a test."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from fedstudy.plan import Model


class Reason(StrEnum):
    """Why a condition is as it is. The text after each is what `docs/conditions.md` says."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # Ready
    RUNNING = "Running", "The study is training."
    PROVISIONING = "Provisioning", "Children are being made: certificates, aggregator, agent."
    WAITING_FOR_SITES = "WaitingForSites", "Fewer sites than the quorum are connected."
    WAITING_FOR_APPROVAL = "WaitingForApproval", "The hospital has not approved the plan's digest."
    PARTICIPATING = "Participating", "The hospital takes part; its agent follows the study."
    IDLE = "Idle", "Connected; there is nothing to do now."
    COMPLETED = "Completed", "The study is over and its results are there."
    FAILED = "Failed", "The study ended without a result; the message says why."
    SUSPENDED_BY_USER = "SuspendedByUser", "spec.suspend is true."
    PAUSED_BY_ANNOTATION = (
        "PausedByAnnotation",
        "The annotation fedstudy.io/paused keeps the operator's hands off.",
    )
    NOT_SUSPENDED = "NotSuspended", "spec.suspend is false."
    INVALID_SPEC = "InvalidSpec", "The spec contradicts itself; the message names the field."
    STUDY_NOT_FOUND = "StudyNotFound", "The named study is not in that namespace."
    DATASET_NOT_FOUND = "DatasetNotFound", "spec.datasetRef names no SiteDataset of this namespace."
    REFUSED_BY_CLUSTER = (
        "RefusedByCluster",
        "The cluster refuses an object that the spec asks for; the message has its words.",
    )
    PROGRESSING = "Progressing", "On the way to what the spec says."
    # CertificatesReady
    ISSUED = "Issued", "The study's authority and server certificate are there."
    ISSUING = "Issuing", "Certificates are being made."
    AUTHORITY_LOST = (
        "AuthorityLost",
        "The Secret with the study's authority is not there any more, or is another's.",
    )
    # AggregatorReady
    AVAILABLE = "Available", "The aggregator answers."
    POD_PENDING = "PodPending", "The pod is not running yet."
    UNSCHEDULABLE = "Unschedulable", "No node fits the pod."
    IMAGE_PULL_FAILED = "ImagePullFailed", "The image cannot be pulled."
    CRASH_LOOPING = "CrashLooping", "The process ends again and again; the message has its last words."
    OUT_OF_MEMORY = "OutOfMemory", "The process was killed for memory."
    QUOTA_EXCEEDED = "QuotaExceeded", "The namespace's quota lets no more pods in."
    WAITING_FOR_QUEUE = "WaitingForQueue", "The Job is suspended until its queue admits it."
    # SitesApproved
    ALL_APPROVED = "AllApproved", "All listed sites are enrolled."
    NO_SITES = "NoSites", "spec.sites is empty."
    # QuorumReached
    ENOUGH_SITES = "EnoughSites", "Enough sites are connected for a round."
    TOO_FEW_SITES = "TooFewSites", "Fewer sites are connected than federation.minSites."
    QUORUM_MISSING = "QuorumMissing", "A stage's deadline passed with too few answers; the study waits."
    # Training
    ROUND_IN_PROGRESS = "RoundInProgress", "A round is under way."
    NOT_STARTED = "NotStarted", "No round has begun."
    NO_SPACE = "NoSpace", "A volume is full; the study goes on when there is room."
    # Complete, Failed
    ROUNDS_COMPLETED = "RoundsCompleted", "All rounds are done."
    TARGET_METRIC_REACHED = "TargetMetricReached", "federation.stopWhen came true."
    NOT_COMPLETE = "NotComplete", "The study is not over."
    NOT_FAILED = "NotFailed", "Nothing has failed for good."
    # Enrolled
    CERTIFICATE_ISSUED = "CertificateIssued", "The agent holds its certificate."
    ENROLLING = "Enrolling", "The agent has asked for its certificate."
    PENDING_HUB_ACCEPTANCE = "PendingHubAcceptance", "The hub has not decided about the enrolment."
    INVITATION_NOT_FOUND = "InvitationNotFound", "The invitation's Secret is not there."
    INVITATION_REFUSED = (
        "InvitationRefused",
        "The hub refused the invitation: used, expired, or not for this site.",
    )
    CERTIFICATE_EXPIRED = "CertificateExpired", "The certificate's time is over."
    REVOKED = "Revoked", "The hub has withdrawn the site from the study."
    # HubConnected
    CONNECTED = "Connected", "The agent's stream to the hub is open."
    DIAL_FAILED = "DialFailed", "The hub cannot be reached."
    NOT_CONNECTED = "NotConnected", "The agent does not follow the study yet."
    # PlanApproved, PolicySatisfied
    APPROVED = "Approved", "The plan's digest is the approved one."
    DIGEST_MISMATCH = (
        "DigestMismatch",
        "The plan is not the one that was approved: it changed, or another was meant.",
    )
    APPROVAL_EXPIRED = "ApprovalExpired", "approval.notAfter has passed."
    POLICY_REFUSED = "PolicyRefused", "The dataset's policy refuses the plan; the message names the fields."
    SATISFIED = "Satisfied", "The policy allows the plan."
    NO_PLAN = "NoPlan", "No plan has been offered yet."
    # DataAvailable
    FITS = "Fits", "The preflight found what the plan needs."
    PREFLIGHT_RUNNING = "PreflightRunning", "The data are being checked against the plan."
    PREFLIGHT_FAILED = "PreflightFailed", "The check itself failed; the message has its last words."
    CONTRACT_MISMATCH = "ContractMismatch", "The data do not fit the plan; the message says where."
    CLAIM_NOT_FOUND = "ClaimNotFound", "The volume claim is not there."
    READABLE = "Readable", "The data were opened."
    PROFILED = "Profiled", "The counts in the profile are of the present data."
    NOT_PROFILED = "NotProfiled", "No preflight has looked at the data yet."
    # ComputeAvailable
    SCHEDULED = "Scheduled", "The trainer runs."
    NO_WORK = "NoWork", "No trainer is needed now."
    TRAINER_FAILED = "TrainerFailed", "The trainer ended with an error; the message has it."
    TRAINER_SILENT = (
        "TrainerSilent",
        "The trainer that has the work shows no sign of life; another takes its place.",
    )


class Condition(Model):
    """One aspect of an object, in the form of the Kubernetes API conventions."""

    type: str = Field(max_length=63, description="Which aspect.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=63, description="Why, as one word of the documented reasons.")
    message: str = Field(default="", max_length=4096, description="Why, in a sentence.")
    last_transition_time: str = Field(default="", max_length=40, description="When the status last changed.")
    observed_generation: int = Field(default=0, description="The generation of the spec that this is about.")


def condition(kind: str, status: bool | None, reason: Reason, message: str = "") -> Condition:
    """A condition; None is Unknown. Without a message it says what its reason means, so that nobody has to look that up."""
    word: Literal["True", "False", "Unknown"] = "Unknown" if status is None else "True" if status else "False"
    return Condition(type=kind, status=word, reason=reason.value, message=(message or reason.meaning)[:4096])


def merge(
    previous: Iterable[dict[str, Any]],
    wanted: Iterable[Condition],
    *,
    generation: int,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """Conditions for a status: the transition time moves only where the status changed. In order of type."""
    before = {entry.get("type"): entry for entry in previous}
    stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    result = []
    for item in sorted(wanted, key=lambda c: c.type):
        old = before.get(item.type, {})
        same = old.get("status") == item.status and old.get("lastTransitionTime")
        result.append(
            {
                "type": item.type,
                "status": item.status,
                "reason": item.reason,
                "message": item.message,
                "lastTransitionTime": old["lastTransitionTime"] if same else stamp,
                "observedGeneration": generation,
            }
        )
    return result


def replaced(
    previous: Iterable[dict[str, Any]],
    wanted: Iterable[Condition],
    *,
    generation: int,
    gone: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Conditions of a status with these in the place of those of their types, and all others as they are; in order of type.

    Args:
        gone: types that are left out.
    """
    before, ours = list(previous), list(wanted)
    types = {item.type for item in ours} | set(gone)
    kept = [entry for entry in before if entry["type"] not in types]
    return sorted([*kept, *merge(before, ours, generation=generation)], key=lambda entry: str(entry["type"]))
