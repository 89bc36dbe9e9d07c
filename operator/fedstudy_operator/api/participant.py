"""SiteParticipant: we take part in that study with that dataset. Applying it joins; deleting it leaves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from fedstudy.plan import Model
from fedstudy_operator.api.conditions import Condition
from fedstudy_operator.api.meta import (
    API_VERSION,
    Digest,
    DNSLabel,
    DNSName,
    GroupId,
    Metadata,
    Quantity,
    Resources,
    Status,
    Time,
    is_device,
)


class Invitation(Model):
    """The invitation that the hub sent."""

    secret_name: DNSName = Field(
        description="Secret of this namespace with tls.crt, tls.key and ca.crt, as `fedstudy invite` prints it."
    )


class Hub(Model):
    """A study in another cluster."""

    endpoint: Annotated[str, StringConstraints(max_length=300, pattern=r"^[A-Za-z0-9.\-]+:[0-9]{1,5}$")] = (
        Field(description="host:port of the study's aggregator.")
    )
    server_name: DNSName = Field(
        default="aggregator", description="The name in the aggregator's certificate."
    )
    invitation: Invitation = Field(description="The invitation that the hub sent.")


class StudyRef(Model):
    """The study: by namespace in this cluster, or by hub in another."""

    name: DNSLabel = Field(description="Name of the study.")
    namespace: DNSLabel | None = Field(
        default=None,
        description="Namespace of a study in this cluster. Exactly one of namespace and hub is set.",
    )
    hub: Hub | None = Field(default=None, description="A study in another cluster.")


class ApprovalMode(StrEnum):
    """How plans are approved without naming one."""

    AUTOMATIC = "Automatic"


class ApprovalSpec(Model):
    """The steward's word: this plan, or whatever the dataset's policy allows."""

    plan_digest: Digest | None = Field(
        default=None, description="The approved plan. Exactly one of planDigest and mode is set."
    )
    approved_by: str | None = Field(default=None, max_length=256, description="Who approved it.")
    not_after: Time | None = Field(default=None, description="When the approval ends (RFC 3339).")
    mode: ApprovalMode | None = Field(
        default=None, description="Automatic: whatever the dataset's policy allows."
    )


class Release(StrEnum):
    """When the trainer gives its GPU back."""

    BETWEEN_ROUNDS = "BetweenRounds"
    NEVER = "Never"


class Toleration(Model):
    """A Kubernetes toleration."""

    key: str | None = Field(default=None, max_length=253, description="Key of the taint.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="Exists or Equal.")
    value: str | None = Field(default=None, max_length=253, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint."
    )


class ScratchSpec(Model):
    """The trainer's own folder."""

    claim_name: DNSName | None = Field(
        default=None,
        description="PersistentVolumeClaim of this namespace that survives a trainer, so that volumes are preprocessed once and not in each round. Unset: an empty folder that goes with the pod.",
    )
    size_limit: Quantity | None = Field(
        default=None,
        description="Largest size of the folder that goes with the pod, for example 50Gi; a pod that exceeds it is evicted. Not with claimName, which has its own size.",
    )


class TrainerSpec(Model):
    """How the trainer Job runs at this hospital."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Trainer image. Unset: the plan's, or the operator's own.",
    )
    resources: Resources = Field(
        default=Resources(),
        description="CPU, memory and GPUs of the trainer. Of a device such as nvidia.com/gpu, request and limit are one: either is enough. A trainer computes on one GPU.",
    )
    node_selector: dict[str, str] = Field(
        default={}, max_length=32, description="Labels of nodes that may run it."
    )
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Taints that it tolerates.")
    runtime_class_name: DNSName | None = Field(default=None, description="Runtime class of its pod.")
    priority_class_name: DNSName | None = Field(default=None, description="Priority class of its pod.")
    scheduler_name: DNSName | None = Field(
        default=None, description="Scheduler of its pod. Unset: the cluster's own."
    )
    image_pull_secrets: list[DNSName] = Field(
        default=[],
        max_length=16,
        description="Secrets of this namespace with which its image is pulled, beside the operator's own.",
    )
    supplemental_groups: list[GroupId] = Field(
        default=[],
        max_length=16,
        description="Groups that its process belongs to beside its own, for data that only a group may read (NFS).",
    )
    shared_memory: Quantity | None = Field(
        default=None,
        description="Largest size of /dev/shm, for example 2Gi; it counts as memory. Unset: as much as the memory limit lets.",
    )
    scratch: ScratchSpec = Field(
        default=ScratchSpec(), description="Where preprocessed volumes and models in use are kept."
    )
    queue_name: DNSLabel | None = Field(default=None, description="Kueue queue of its Job.")
    release: Release = Field(
        default=Release.BETWEEN_ROUNDS,
        description="BetweenRounds: the trainer ends when it has handed its update over, and the GPU is free. Never: it stays until the study is over.",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="CPU threads of a trainer; results are the same bits only for the same number.",
    )


class SiteParticipantSpec(Model):
    """What the hospital writes."""

    study: StudyRef = Field(description="The study that we take part in.")
    site_name: DNSLabel = Field(description="Our name in the study, as the hub lists it.")
    dataset_ref: DNSLabel = Field(description="The SiteDataset of this namespace that we take part with.")
    approval: ApprovalSpec | None = Field(
        default=None,
        description="The steward's word on the plan. Unset: nothing is approved; the plan is shown, the data are checked, and nothing is trained.",
    )
    trainer: TrainerSpec = Field(default=TrainerSpec(), description="How the trainer Job runs here.")
    suspend: bool = Field(default=False, description="Stop taking part; false goes on.")

    @model_validator(mode="after")
    def _parts_fit(self) -> SiteParticipantSpec:
        faults = participant_faults(self)
        if faults:
            raise ValueError("; ".join(f"{path}: {what}" for path, what in faults))
        return self


def participant_faults(spec: Any) -> list[tuple[str, str]]:
    """Faults of a spec that no single field shows, as (field path within the spec, what is wrong)."""
    faults = []
    if (spec.study.namespace is None) == (spec.study.hub is None):
        faults.append(("study", "needs exactly one of namespace and hub"))
    if spec.approval is not None and (spec.approval.plan_digest is None) == (spec.approval.mode is None):
        faults.append(("approval", "needs exactly one of planDigest and mode"))
    scratch = spec.trainer.scratch
    if scratch.claim_name is not None and scratch.size_limit is not None:
        faults.append(("trainer.scratch", "at most one of claimName and sizeLimit is allowed"))
    requests, limits = spec.trainer.resources.requests, spec.trainer.resources.limits
    faults += [
        (
            f"trainer.resources.requests.{name}",
            f"is {amount}, but its limit is {limits[name]}: devices are not shared",
        )
        for name, amount in requests.items()
        if is_device(name) and name in limits and str(limits[name]) != str(amount)
    ]
    return faults


class OfferedPlan(Status):
    """The plan that the hub offers."""

    digest: str = Field(default="", max_length=71, description="sha256 of the plan; approve this.")
    config_map: str = Field(
        default="", max_length=253, description="ConfigMap of this namespace with the plan."
    )


class CertificateStatus(Status):
    """The agent's certificate."""

    not_after: str = Field(default="", max_length=40, description="When it ends.")
    fingerprint: str = Field(default="", max_length=71, description="sha256 of the certificate.")


class SiteParticipantStatus(Status):
    """What the hospital reads."""

    observed_generation: int = Field(
        default=0, description="The generation of the spec that this status is about."
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=32,
        description="Ready, Enrolled, HubConnected, PlanApproved, PolicySatisfied, DataAvailable, ComputeAvailable, Training, Complete.",
    )
    offered_plan: OfferedPlan = Field(default=OfferedPlan(), description="The plan that the hub offers.")
    certificate: CertificateStatus = Field(
        default=CertificateStatus(), description="The agent's certificate."
    )
    round: int = Field(default=0, description="The round that we are in.")
    job_name: str = Field(default="", max_length=63, description="The trainer Job, where there is one.")
    last_metrics: dict[str, float] = Field(
        default={}, max_length=64, description="Metrics of the last evaluation here."
    )
    ledger_head: str = Field(
        default="",
        max_length=71,
        description="Hash of the ledger's last entry: all that has left the hospital.",
    )
    summary: str = Field(default="", max_length=256, description="How it is going, in a few words.")


class SiteParticipant(Model):
    """A hospital's part in a study."""

    api_version: Literal["fedstudy.io/v1alpha1"] = API_VERSION
    kind: Literal["SiteParticipant"] = "SiteParticipant"
    metadata: Metadata
    spec: SiteParticipantSpec = Field(description="What the hospital wants.")
    status: SiteParticipantStatus = Field(default=SiteParticipantStatus(), description="What is.")


__all__ = ["SiteParticipant", "SiteParticipantSpec", "SiteParticipantStatus", "participant_faults"]
