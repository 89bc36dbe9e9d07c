"""The documents of the Admin service: what an aggregator and an agent tell their operator, and what it decides."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from fedstudy.plan import Model


class Phase(StrEnum):
    """Where a study is."""

    WAITING_FOR_SITES = "WaitingForSites"
    PROLOGUE = "Prologue"
    TRAINING = "Training"
    EPILOGUE = "Epilogue"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class PendingEnrolment(Model):
    """A CSR that waits for the operator's decision."""

    invitation: str
    key_fingerprint: str = Field(
        description="sha256 of the CSR's public key (DER SubjectPublicKeyInfo), hexadecimal."
    )
    csr_pem: str
    renews: str = Field(
        default="", description="The site whose certificate is to be renewed; empty: a first certificate."
    )


class SiteProgress(Model):
    """What a site is doing now."""

    instruction_id: str = ""
    samples_done: int = 0
    samples_total: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    samples_per_second: float | None = None


class SiteState(Model):
    """One site as the aggregator sees it."""

    name: str
    connected: bool = False
    last_seen: str = Field(default="", description="RFC 3339, empty where never seen.")
    state: str = Field(
        default="Invited",
        description="Invited, Enrolled, Idle, Statistics, Initialising, Training, Evaluating, Done, Late, Failed, Revoked.",
    )
    last_round: int = 0
    samples: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reason: str = ""
    progress: SiteProgress = SiteProgress()
    metrics: dict[str, float] = {}


class AggregatorState(Model):
    """The whole state of a study's aggregator."""

    kind: Literal["aggregator"] = "aggregator"
    phase: Phase
    reason: str = Field(
        default="",
        description="A typed reason of the phase, for example SitesMissing, QuorumReached, RoundTimedOut.",
    )
    message: str = ""
    plan_digest: str
    round: int = 0
    rounds: int
    started: str = ""
    round_started: str = ""
    finished: str = ""
    sites: list[SiteState] = []
    pending: list[PendingEnrolment] = []
    metrics: dict[str, float] = Field(default={}, description="Latest validation metrics over all sites.")
    metrics_round: int = 0
    model_digest: str = ""
    model_round: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds_left: float | None = None
    refusals: int = Field(
        default=0,
        description="Connections and updates refused so far; the table `refused` of the history has them by peer, method and reason.",
    )


class AcceptEnrolment(Model):
    """Sign: the site's certificate for a pending CSR."""

    decision: Literal["AcceptEnrolment"] = "AcceptEnrolment"
    invitation: str
    key_fingerprint: str
    site: str
    certificate_pem: str
    authority_pem: str


class RefuseEnrolment(Model):
    """Do not sign."""

    decision: Literal["RefuseEnrolment"] = "RefuseEnrolment"
    invitation: str
    key_fingerprint: str
    reason: str


class SetSites(Model):
    """The sites that are invited now; a site not named is revoked and its streams are cut."""

    decision: Literal["SetSites"] = "SetSites"
    sites: list[str]
    required: list[str] = Field(default=[], description="Sites without which no stage closes.")


class Suspend(Model):
    """Stop after what is under way, or go on."""

    decision: Literal["Suspend"] = "Suspend"
    suspend: bool


class DatasetPolicy(Model):
    """What may be done with a dataset. Unset means refused, not allowed. Also SiteDataset.spec.policy."""

    purposes: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[], max_length=64, description="Data Use Ontology codes for which the data may be used."
    )
    algorithms: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[], max_length=64, description='Federated algorithms that may run; "*" for all.'
    )
    networks: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[], max_length=256, description='Networks that may be trained; "*" for all of the allow-list.'
    )
    images: list[Annotated[str, Field(max_length=512)]] = Field(
        default=[],
        max_length=64,
        description='Trainer images that may run, by digest (sha256:…) or repository; "*" for all. Not asked where a plan names no image (one machine).',
    )
    min_sites: int = Field(
        default=3,
        ge=1,
        le=256,
        description="Least quorum (federation.minSites) of a study that may use the data.",
    )
    require_secure_aggregation: bool = Field(
        default=True, description="Refuse studies without secure aggregation. True unless said otherwise."
    )
    min_cell_count: int = Field(default=5, ge=1, le=1000, description="Counts below this are not published.")
    max_concurrent_studies: int = Field(
        default=1, ge=1, le=256, description="How many studies may use the dataset at the same time."
    )


class Approval(Model):
    """The hospital's word on a plan."""

    mode: Literal["Digest", "Automatic", "None"] = "None"
    plan_digest: str = ""
    not_after: str = Field(default="", description="RFC 3339; empty: no end.")


class Configure(Model):
    """The hospital's wishes, for its agent: policy and approval. Replaces what was said before."""

    decision: Literal["Configure"] = "Configure"
    policy: DatasetPolicy
    approval: Approval
    suspend: bool = False
    studies_using_dataset: int = 1


class ImageCount(Model):
    """How many cases have an image; unset where fewer than minCellCount."""

    name: str
    cases: int | None


class LabelCount(Model):
    """How many cases have a class; unset where fewer than minCellCount."""

    name: str
    cases: int | None


class DatasetProfile(Model):
    """What a preflight found: counts with small cells suppressed, and what does not fit."""

    plan_digest: str
    fits: bool
    faults: list[str] = Field(
        default=[], description="Each in plain words: row, column, file, expected, found."
    )
    warnings: list[str] = []
    cases: int | None = None
    training: int | None = None
    validation: int | None = None
    test: int | None = None
    images: list[ImageCount] = []
    labels: list[LabelCount] = []
    events: int | None = None


class AgentState(Model):
    """The whole state of a hospital's agent."""

    kind: Literal["agent"] = "agent"
    enrolled: bool = False
    certificate_not_after: str = ""
    certificate_fingerprint: str = ""
    connected: bool = False
    reason: str = Field(
        default="",
        description="Why not: Enrolling, PendingHubAcceptance, InvitationRefused, DialFailed, Revoked, CertificateExpired, …",
    )
    message: str = ""
    plan_digest: str = ""
    plan: str = Field(default="", description="Canonical JSON of the offered plan.")
    approved: bool = False
    approval_reason: str = Field(
        default="",
        description="Approved, WaitingForApproval, DigestMismatch, ApprovalExpired, PolicyRefused.",
    )
    violations: list[str] = Field(default=[], description="What of the plan the policy refuses.")
    profile: DatasetProfile | None = None
    work: str = Field(
        default="", description="Id of the instruction that waits for, or is at, the trainer; empty: no work."
    )
    round: int = 0
    finished: bool = False
    failure: str = Field(default="", description="What the trainer last failed with.")
    trainer_last_seen: str = Field(
        default="", description="Last sign of life of a trainer, RFC 3339; empty: none since the agent began."
    )
    trainer_silent: bool = Field(
        default=False,
        description="The trainer that took the work has shown no sign of life for FEDSTUDY_TRAINER_SILENT seconds.",
    )
    progress: SiteProgress = SiteProgress()
    metrics: dict[str, float] = {}
    ledger_head: str = ""
    bytes_sent: int = 0


State = Annotated[AggregatorState | AgentState, Field(discriminator="kind")]
Decision = Annotated[
    AcceptEnrolment | RefuseEnrolment | SetSites | Suspend | Configure, Field(discriminator="decision")
]

STATE: TypeAdapter[AggregatorState | AgentState] = TypeAdapter(State)
DECISION: TypeAdapter[AcceptEnrolment | RefuseEnrolment | SetSites | Suspend | Configure] = TypeAdapter(
    Decision
)
