"""FederatedStudy: the hub's resource. Most of its spec is the plan; the rest says who may come and where it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, model_validator

from fedstudy.plan import (
    Augmentation,
    Cohort,
    Federation,
    Model,
    ModelSpec,
    Preprocessing,
    StudyPlan,
    Task,
    Training,
    plan_faults,
)
from fedstudy_operator.api.conditions import Condition
from fedstudy_operator.api.meta import API_VERSION, DNSLabel, DNSName, Metadata, Quantity, Resources, Status


class StudySite(Model):
    """A hospital that is invited."""

    name: DNSLabel = Field(description="Name of the site in the study; its SiteParticipant says the same.")
    required: bool = Field(default=False, description="No round closes without this site.")


class ExposureType(StrEnum):
    """How hospitals reach the aggregator."""

    CLUSTER_IP = "ClusterIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"


class Exposure(Model):
    """How hospitals reach the aggregator."""

    type: ExposureType = Field(
        default=ExposureType.CLUSTER_IP,
        description="Type of the aggregator's Service: ClusterIP (same cluster, or behind a TLS-passthrough gateway), LoadBalancer or NodePort.",
    )
    host: DNSName | None = Field(
        default=None, description="The name that hospitals dial. Unset: the Service's name in this cluster."
    )
    port: int = Field(default=443, ge=1, le=65535, description="The port that hospitals dial.")


class AggregatorSpec(Model):
    """The study's aggregator; operational, not part of the plan."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Image of the aggregator. Unset: the operator's own.",
    )
    resources: Resources = Field(default=Resources(), description="CPU and memory of the aggregator.")
    storage: Quantity = Field(default="10Gi", description="Size of its volume.")
    storage_class_name: DNSName | None = Field(
        default=None, description="Storage class of its volume. Unset: the cluster's default."
    )
    exposure: Exposure = Field(default=Exposure(), description="How hospitals reach it.")


class FederatedStudySpec(Model):
    """What the study lead writes."""

    title: str = Field(default="", max_length=256, description="Title of the study, for people.")
    description: str = Field(
        default="", max_length=4096, description="What the study is about, for stewards and ethics boards."
    )
    contact: str = Field(default="", max_length=256, description="Whom to ask: a mail address.")
    purpose: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Z]+:[0-9]+$",
        description="Data Use Ontology code of the purpose, for example DUO:0000007 (disease-specific research). Hospitals' policies match on it.",
    )
    task: Task = Field(description="The question that the study asks of the data.")
    model: ModelSpec = Field(description="The model that is trained.")
    preprocessing: Preprocessing = Field(
        default=Preprocessing(), description="What is done to each image before training."
    )
    augmentation: Augmentation = Field(
        default=Augmentation(), description="Random changes of training images."
    )
    training: Training = Field(description="What a site does in one round.")
    federation: Federation = Field(description="How the sites work together.")
    cohort: Cohort = Field(default=Cohort(), description="Which datasets fit the study.")
    trainer_image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Trainer image by digest (repository@sha256:…), part of the plan. Unset: the site operator's own.",
    )
    sites: list[StudySite] = Field(
        default=[],
        max_length=256,
        description="The hospitals that are invited: the hub's half of the double opt-in. Listed is invited, removed is revoked.",
    )
    aggregator: AggregatorSpec = Field(
        default=AggregatorSpec(), description="The study's aggregator; operational, not part of the plan."
    )
    suspend: bool = Field(
        default=False, description="Stop after the instruction under way; false goes on from there."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> FederatedStudySpec:
        faults = [f"{path}: {what}" for path, what in spec_faults(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def spec_faults(spec: Any) -> list[tuple[str, str]]:
    """Faults between fields of a spec, as (field path within the spec, what is wrong); all of them."""
    faults = plan_faults(spec)
    names = [site.name for site in spec.sites]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        faults.append(("sites", f"names {repeated[0]} twice"))
    if names and spec.federation.min_sites > len(names):
        faults.append(
            ("federation.minSites", f"is {spec.federation.min_sites}, but only {len(names)} sites are listed")
        )
    return faults


class RoundStatus(Status):
    """Where the rounds are."""

    current: int = Field(default=0, description="The round under way; 0 is the prologue.")
    completed: int = Field(default=0, description="Rounds closed.")
    total: int = Field(default=0, description="Rounds planned.")
    start_time: str = Field(default="", max_length=40, description="When the present round began.")


class SiteStatus(Status):
    """One site as the hub sees it."""

    name: str = Field(max_length=63, description="The site.")
    decision: str = Field(default="Invited", max_length=32, description="Invited, Enrolled or Revoked.")
    state: str = Field(default="", max_length=32, description="What the site does now.")
    connected: bool = Field(default=False, description="Whether its stream is open.")
    last_seen: str = Field(default="", max_length=40, description="When it was last heard of.")
    last_round: int = Field(default=0, description="The last round that has its update.")
    samples_bucket: str = Field(
        default="", max_length=32, description="About how many training cases it has."
    )
    bytes: int = Field(default=0, description="Bytes received from it.")
    reason: str = Field(default="", max_length=256, description="Why it is missing, where it is.")


class MetricStatus(Status):
    """A metric of the shared model on the validation splits of all sites."""

    name: str = Field(max_length=63, description="Name of the metric.")
    value: float = Field(description="Its value.")
    round: int = Field(description="After which round.")


class ModelStatus(Status):
    """The shared model."""

    digest: str = Field(
        default="", max_length=71, description="Of the model file: blake3: and what b3sum prints."
    )
    uri: str = Field(default="", max_length=512, description="Where it is.")
    round: int = Field(default=0, description="After which round.")


class ColumnsStatus(Status):
    """What kubectl shows in its columns, which can only show text that stands somewhere."""

    round: str = Field(default="", max_length=32, description="Rounds closed, of those planned.")
    sites: str = Field(default="", max_length=32, description="Sites connected, of those listed.")
    metric: str = Field(default="", max_length=96, description="The latest metric on the validation splits.")


class FederatedStudyStatus(Status):
    """What the study lead reads."""

    observed_generation: int = Field(
        default=0, description="The generation of the spec that this status is about."
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=32,
        description="Ready, CertificatesReady, AggregatorReady, SitesApproved, QuorumReached, Training, Suspended, Complete, Failed.",
    )
    plan_digest: str = Field(
        default="", max_length=71, description="sha256 of the plan: what hospitals approve."
    )
    round: RoundStatus = Field(default=RoundStatus(), description="Where the rounds are.")
    sites: list[SiteStatus] = Field(default=[], max_length=256, description="The sites, by name.")
    metrics: list[MetricStatus] = Field(default=[], max_length=64, description="Latest validation metrics.")
    model: ModelStatus = Field(default=ModelStatus(), description="The shared model.")
    endpoint: str = Field(default="", max_length=300, description="host:port that hospitals dial.")
    ca_fingerprint: str = Field(
        default="", max_length=71, description="sha256 of the study authority's certificate."
    )
    columns: ColumnsStatus = Field(
        default=ColumnsStatus(), description="How it is going, as the columns of kubectl show it."
    )


class FederatedStudy(Model):
    """A study: one model, trained by many hospitals."""

    api_version: Literal["fedstudy.io/v1alpha1"] = API_VERSION
    kind: Literal["FederatedStudy"] = "FederatedStudy"
    metadata: Metadata
    spec: FederatedStudySpec = Field(description="What the study lead wants.")
    status: FederatedStudyStatus = Field(default=FederatedStudyStatus(), description="What is.")

    def plan(self) -> StudyPlan:
        """The part that a site runs. Needs metadata.uid, which the cluster gives."""
        spec = self.spec
        image = spec.trainer_image or ""
        return StudyPlan(
            study=self.metadata.name,
            uid=self.metadata.uid,
            title=spec.title,
            purpose=spec.purpose,
            task=spec.task,
            model=spec.model,
            preprocessing=spec.preprocessing,
            augmentation=spec.augmentation,
            training=spec.training,
            federation=spec.federation,
            cohort=spec.cohort,
            trainer_image=image,
        )


__all__ = ["FederatedStudy", "FederatedStudySpec", "FederatedStudyStatus", "StudySite", "spec_faults"]
