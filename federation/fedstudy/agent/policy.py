"""What a hospital allows: a plan held against the dataset's policy and the steward's approval. Pure functions.

Unset means refused, not allowed, and the policy always wins: an approval of any kind, also an automatic one, counts only
for a plan that the policy allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fedstudy.plan import StudyPlan
from fedstudy.wire.admin import Approval, DatasetPolicy

ANY = "*"
"""The entry of a list that allows everything of its kind."""


class ApprovalReason(StrEnum):
    """Why a plan may run, or may not."""

    APPROVED = "Approved"
    WAITING = "WaitingForApproval"
    MISMATCH = "DigestMismatch"
    EXPIRED = "ApprovalExpired"
    POLICY = "PolicyRefused"


@dataclass(frozen=True)
class Violation:
    """One field of a plan that the policy refuses.

    Attributes:
        field: path of the field in the plan.
        reason: a word for machines, for example `PurposeRefused`.
        message: a sentence for people.
    """

    field: str
    reason: str
    message: str


@dataclass(frozen=True)
class ApprovalVerdict:
    """Whether a plan may run now, and why (not)."""

    approved: bool
    reason: ApprovalReason


def evaluate(plan: StudyPlan, policy: DatasetPolicy, *, studies_using_dataset: int) -> list[Violation]:
    """Everything of a plan that the policy refuses; empty when it may run.

    Args:
        studies_using_dataset: how many studies use the dataset, this one included.
    """
    found = [
        _listed("purpose", "PurposeRefused", plan.purpose, policy.purposes, "purposes", wildcard=False),
        _listed(
            "federation.algorithm.name",
            "AlgorithmRefused",
            plan.federation.algorithm.name,
            policy.algorithms,
            "algorithms",
        ),
        _listed("model.network.name", "NetworkRefused", plan.model.network.name, policy.networks, "networks"),
        _image(plan, policy),
        _sites(plan, policy),
        _secure_aggregation(policy),
        _concurrent(policy, studies_using_dataset),
    ]
    return [violation for violation in found if violation is not None]


def approval(
    plan: StudyPlan,
    approval: Approval,
    policy: DatasetPolicy,
    now: datetime,
    *,
    studies_using_dataset: int = 1,
) -> ApprovalVerdict:
    """Whether a plan may run now.

    Args:
        now: an aware time; an approval ends at its `notAfter`. One that cannot be read has ended.
    """
    reason = _approval_reason(plan, approval, policy, now, studies_using_dataset)
    return ApprovalVerdict(reason is ApprovalReason.APPROVED, reason)


def _approval_reason(
    plan: StudyPlan, approval: Approval, policy: DatasetPolicy, now: datetime, studies: int
) -> ApprovalReason:
    if evaluate(plan, policy, studies_using_dataset=studies):
        return ApprovalReason.POLICY
    if approval.mode == "None" or (approval.mode == "Digest" and not approval.plan_digest):
        return ApprovalReason.WAITING
    if approval.mode == "Digest" and approval.plan_digest != plan.digest():
        return ApprovalReason.MISMATCH
    if approval.not_after and _ended(approval.not_after, now):
        return ApprovalReason.EXPIRED
    return ApprovalReason.APPROVED


def _ended(not_after: str, now: datetime) -> bool:
    try:
        end = datetime.fromisoformat(not_after)
    except ValueError:
        return True
    return end.tzinfo is None or now >= end


def _listed(
    field: str, reason: str, value: str, allowed: Sequence[str], name: str, *, wildcard: bool = True
) -> Violation | None:
    if value in allowed or (wildcard and ANY in allowed):
        return None
    return Violation(field, reason, f"{field} is {value!r}, but policy.{name} allows {_spoken(allowed)}.")


def _image(plan: StudyPlan, policy: DatasetPolicy) -> Violation | None:
    image = plan.trainer_image
    if not image:
        return None
    reference, _, digest = image.rpartition("@")
    head, _, last = reference.rpartition("/")
    repository = f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]
    names = {image, digest, reference, repository, ANY} - {""}
    if names & set(policy.images):
        return None
    message = f"trainerImage is {image!r}, but policy.images allows {_spoken(policy.images)}."
    return Violation("trainerImage", "ImageRefused", message)


def _sites(plan: StudyPlan, policy: DatasetPolicy) -> Violation | None:
    if plan.federation.min_sites >= policy.min_sites:
        return None
    message = (
        f"federation.minSites is {plan.federation.min_sites}, but policy.minSites asks for at least {policy.min_sites}: "
        "with fewer sites in a round, more of what one of them sends shows."
    )
    return Violation("federation.minSites", "TooFewSites", message)


def _secure_aggregation(policy: DatasetPolicy) -> Violation | None:
    if not policy.require_secure_aggregation:
        return None
    message = "The plan has no secure aggregation, but policy.requireSecureAggregation asks for it (it does unless set to false)."
    return Violation("privacy.secureAggregation", "SecureAggregationRequired", message)


def _concurrent(policy: DatasetPolicy, studies: int) -> Violation | None:
    if studies <= policy.max_concurrent_studies:
        return None
    message = f"{studies} studies use the dataset, but policy.maxConcurrentStudies allows {policy.max_concurrent_studies}."
    return Violation("study", "TooManyStudies", message)


def _spoken(allowed: Sequence[str]) -> str:
    return ", ".join(map(repr, allowed)) if allowed else "none (unset means refused)"
