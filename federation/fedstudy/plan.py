"""The study plan: what is trained and how. Its canonical JSON's sha256 is what a hospital approves.

The models here are also the matching parts of the FederatedStudy resource, so that a field is described once. Field names
are camelCase in JSON and snake_case in Python. Unknown fields are refused. Numbers are finite.
"""

from __future__ import annotations

import hashlib
import json
import math
from enum import StrEnum
from typing import Annotated, Any, NewType

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

PlanDigest = NewType("PlanDigest", str)
"""`sha256:` and 64 hexadecimal digits."""

SiteName = NewType("SiteName", str)
"""A hospital's name in a study: a DNS label."""

ColumnName = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_.\-]*$")
]
ImageName = Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]
ClassName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Parameter = bool | int | float | str
ArgumentValue = bool | int | float | str | list[int | float | str]


class Model(BaseModel):
    """Base of all models: camelCase outside, snake_case inside, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_enum_values=False,
        validate_default=True,
    )


class TaskType(StrEnum):
    """What is learnt."""

    CLASSIFICATION = "Classification"
    SURVIVAL = "Survival"


class LossName(StrEnum):
    """What is minimised."""

    CROSS_ENTROPY = "CrossEntropy"
    STRATIFIED_COX = "StratifiedCox"
    DISCRETE_HAZARD = "DiscreteHazard"


class ClassWeighting(StrEnum):
    """How classes count in the loss."""

    UNIFORM = "Uniform"
    GLOBAL_BALANCE = "GlobalBalance"
    SITE_BALANCE = "SiteBalance"


class Covariate(Model):
    """A clinical variable of the participants' table."""

    name: ColumnName = Field(
        description="Name of the covariate; a SiteDataset maps it to a column of its table."
    )
    categories: list[ClassName] | None = Field(
        default=None,
        min_length=2,
        max_length=32,
        description="The values of a categorical covariate; the first is the reference. Unset: the covariate is a number.",
    )


class Target(Model):
    """What is predicted: a label with its classes, or a time with its event."""

    label: ColumnName | None = Field(
        default=None, description="Classification: the column that holds the class."
    )
    classes: list[ClassName] | None = Field(
        default=None,
        min_length=2,
        max_length=32,
        description="Classification: the classes as written in the table; with two, the second is the positive one.",
    )
    time: ColumnName | None = Field(
        default=None,
        description="Survival: the column that holds the time to event or to censoring; its unit is the study's choice (months by custom) and the same at all sites.",
    )
    event: ColumnName | None = Field(
        default=None,
        description="Survival: the column that is 1 (or true, dead, yes) where the event was seen, 0 where the patient was censored.",
    )


class Task(Model):
    """The question that the study asks of its data."""

    type: TaskType = Field(
        description="Classification of patients, or Survival: the time to an event under censoring."
    )
    images: list[ImageName] = Field(
        default=[],
        max_length=16,
        description="Image names in channel order, for example t1, t1gd, t2, flair. A missing one becomes a zero channel with a presence flag. Empty: a study of covariates only.",
    )
    covariates: list[Covariate] = Field(
        default=[],
        max_length=64,
        description="Clinical covariates; standardised with exact statistics over all sites, imputed by the mean with a missingness indicator.",
    )
    target: Target = Field(description="What is predicted.")
    loss: LossName | None = Field(
        default=None,
        description="CrossEntropy for Classification (its default); StratifiedCox or DiscreteHazard (the default) for Survival.",
    )
    class_weighting: ClassWeighting = Field(
        default=ClassWeighting.UNIFORM,
        description="Uniform: every patient counts the same. GlobalBalance: classes weighted by their frequency over all sites. SiteBalance: recomputed at each site from its own class counts (the cyclically weighted loss of Balachandar 2020).",
    )
    intervals: int = Field(
        default=12,
        ge=2,
        le=50,
        description="DiscreteHazard: number of time intervals; cut points are quantiles of the event times over all sites.",
    )

    @model_validator(mode="after")
    def _target_fits_type(self) -> Task:
        classification = self.type is TaskType.CLASSIFICATION
        wanted, refused = (
            (("label", "classes"), ("time", "event"))
            if classification
            else (("time", "event"), ("label", "classes"))
        )
        missing = [name for name in wanted if getattr(self.target, name) is None]
        if missing:
            raise ValueError(f"target.{missing[0]} is required for type {self.type.value}")
        extra = [name for name in refused if getattr(self.target, name) is not None]
        if extra:
            raise ValueError(f"target.{extra[0]} does not belong to type {self.type.value}")
        if self.target.classes and len(set(self.target.classes)) != len(self.target.classes):
            raise ValueError("target.classes names a class twice")
        if not self.images and not self.covariates:
            raise ValueError("images and covariates are both empty: there is nothing to learn from")
        if len(set(self.images)) != len(self.images):
            raise ValueError("images names an image twice")
        names = [c.name for c in self.covariates]
        if len(set(names)) != len(names):
            raise ValueError("covariates names a covariate twice")
        if self.loss is not None and (self.loss is LossName.CROSS_ENTROPY) != classification:
            raise ValueError(f"loss {self.loss.value} does not belong to type {self.type.value}")
        if not classification and self.class_weighting is not ClassWeighting.UNIFORM:
            raise ValueError("classWeighting belongs to type Classification")
        return self

    @property
    def effective_loss(self) -> LossName:
        """The loss, with the default of the task's type filled in."""
        if self.loss is not None:
            return self.loss
        return LossName.CROSS_ENTROPY if self.type is TaskType.CLASSIFICATION else LossName.DISCRETE_HAZARD

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for a patient: logits of classes, hazards of intervals, or one log-risk."""
        if self.type is TaskType.CLASSIFICATION:
            return len(self.target.classes or [])
        return self.intervals if self.effective_loss is LossName.DISCRETE_HAZARD else 1


class Network(Model):
    """A network by name from the allow-list, with arguments of its constructor. Data, never code."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z][A-Za-z0-9]*$",
        description="One of the names that `fedstudy networks` lists: SmallCNN, Linear, MLP, and constructors of monai.networks.nets such as DenseNet121, ResNet18.",
    )
    arguments: dict[str, ArgumentValue] = Field(
        default={},
        max_length=32,
        description="Keyword arguments of the constructor. Numbers of channels and outputs follow from the task and are not given here.",
    )


class ModelSpec(Model):
    """The model that is trained."""

    network: Network = Field(description="The network.")


class Intensity(StrEnum):
    """How the grey values of a volume are normalised."""

    Z_SCORE = "ZScore"
    NONE = "None"


class Preprocessing(Model):
    """What is done to each image before training; the same at every site."""

    spacing: list[PositiveFloat] | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="Voxel size to resample to, in mm, for the three axes. Unset: as stored.",
    )
    size: list[Annotated[int, Field(ge=4, le=512)]] | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="Voxels of the network's input along the three axes; padded and cropped centrally. Required with images.",
    )
    orientation: str = Field(
        default="RAS",
        max_length=3,
        pattern=r"^[LRAPIS]{3}$",
        description="Anatomical orientation of the axes.",
    )
    intensity: Intensity = Field(
        default=Intensity.Z_SCORE,
        description="ZScore: clip to the 0.5 and 99.5 percentiles and standardise within the non-zero voxels of each volume. None: as stored.",
    )
    crop_foreground: bool = Field(default=False, description="Crop to the non-zero voxels before resizing.")


class Augmentation(Model):
    """Random changes of training images; all off by default."""

    flip_probability: Fraction = Field(default=0.0, description="Probability of mirroring left and right.")
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = Field(
        default=0.0, description="Largest random rotation about each axis, in degrees."
    )
    scale: Fraction = Field(default=0.0, description="Largest random zoom, as a fraction of the size.")
    intensity_scale: Fraction = Field(
        default=0.0, description="Largest random factor on grey values, as a fraction."
    )
    intensity_shift: Fraction = Field(
        default=0.0, description="Largest random offset of grey values, in standard deviations."
    )
    noise: Fraction = Field(default=0.0, description="Standard deviation of added Gaussian noise.")
    drop_image_probability: Fraction = Field(
        default=0.0,
        description="Probability of blanking each sequence (never all), so that the model bears missing ones.",
    )


class OptimizerName(StrEnum):
    """The local optimiser."""

    SGD = "SGD"
    ADAM = "Adam"
    ADAMW = "AdamW"


class Optimizer(Model):
    """The optimiser at a site; its state starts afresh in every round."""

    name: OptimizerName = Field(default=OptimizerName.SGD, description="SGD, Adam or AdamW.")
    learning_rate: PositiveFloat = Field(description="Step size.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Momentum of SGD.")
    weight_decay: NonNegativeFloat = Field(
        default=0.0, description="Weight decay: L2 for SGD and Adam, decoupled for AdamW."
    )
    decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Factor on the learning rate from one round to the next."
    )


class Precision(StrEnum):
    """Arithmetic of training."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class Training(Model):
    """What a site does in one round."""

    local_epochs: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Passes over the site's training cases in a round. Exactly one of localEpochs and localSteps is set.",
    )
    local_steps: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Optimiser steps in a round, the same at every site."
    )
    batch_size: int = Field(
        default=8,
        ge=0,
        le=65_536,
        description="Cases per step. 0: all cases of the site in one step (full batch).",
    )
    optimizer: Optimizer = Field(description="The local optimiser.")
    gradient_clip: PositiveFloat | None = Field(
        default=None, description="Largest norm of a step's gradient. Unset: not clipped."
    )
    precision: Precision = Field(default=Precision.FLOAT32, description="Float32, or BFloat16 autocast.")
    seed: int = Field(
        default=0, ge=0, le=2**31 - 1, description="Seed of initial weights, shuffling and augmentation."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise ValueError("exactly one of localEpochs and localSteps is required")
        return self


class Algorithm(Model):
    """A federated algorithm by name, with its parameters."""

    name: str = Field(
        default="FedAvg",
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z][A-Za-z0-9]*$",
        description="FedAvg, FedProx, CyclicalWeightTransfer, NewtonRaphson, CoordinateMedian, TrimmedMean, or one added by entry point; `fedstudy algorithms` lists them.",
    )
    parameters: dict[str, Parameter] = Field(
        default={},
        max_length=16,
        description="Parameters of the algorithm, for example mu: 0.01 for FedProx, or order: Shuffled for CyclicalWeightTransfer.",
    )


class Weights(StrEnum):
    """What a site counts for in the average."""

    SAMPLES = "Samples"
    EVENTS = "Events"
    UNIFORM = "Uniform"


class Encoding(StrEnum):
    """In how many bits a trained tensor travels."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    INT8 = "Int8"


class Transfer(Model):
    """In what form a site's trained tensors travel to the hub; `fedstudy.encodings` states each error."""

    encoding: Encoding = Field(
        default=Encoding.FLOAT32,
        description="Float32: exact. BFloat16: half the bytes, relative error at most 2⁻⁸. Float16: half the bytes, 2⁻¹¹, for values up to 65504. Int8: about a quarter, 1/254 of the largest of each 256 values.",
    )
    delta: bool = Field(
        default=False,
        description="Send the change of the round's model instead of the model: the encoding's error is then relative to the change, which is the smaller.",
    )


class StopWhen(Model):
    """End before the last round."""

    metric: str = Field(
        min_length=1,
        max_length=63,
        description="Name of a validation metric, for example auc or c_index; larger is better, except loss, log_loss and brier.",
    )
    reaches: float | None = Field(
        default=None, description="Stop when the metric is at least (for losses: at most) this."
    )
    patience: int | None = Field(
        default=None, ge=1, le=1000, description="Stop after so many evaluations without improvement."
    )

    @model_validator(mode="after")
    def _says_when(self) -> StopWhen:
        if self.reaches is None and self.patience is None:
            raise ValueError("one of reaches and patience is required")
        return self


class Federation(Model):
    """How the sites work together."""

    algorithm: Algorithm = Field(default=Algorithm(), description="The algorithm.")
    rounds: int = Field(ge=1, le=10_000, description="Number of rounds. A round of a ring is one full cycle.")
    min_sites: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Quorum: a round closes at its deadline with at least so many sites, or the study waits.",
    )
    min_samples: int = Field(
        default=0, ge=0, description="Quorum: and with at least so many training cases in all."
    )
    round_timeout_seconds: int = Field(
        default=3600,
        ge=1,
        le=30 * 86400,
        description="Deadline of each stage of a round: after it the round closes with the sites that have answered, if they make a quorum.",
    )
    weights: Weights = Field(
        default=Weights.SAMPLES,
        description="Weight of a site in the average: its training cases, its events, or one.",
    )
    max_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Largest share of one site in the average; the excess goes to the others in proportion. Effective only above 1/sites.",
    )
    evaluate_every: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Evaluate the shared model on the validation splits after every so many rounds, and after the last.",
    )
    norm_bound: PositiveFloat | None = Field(
        default=None,
        description="Largest L2 norm of a site's change of the model; a larger one is refused. Unset: five times the running median of accepted norms.",
    )
    stop_when: StopWhen | None = Field(default=None, description="End before the last round.")
    transfer: Transfer = Field(
        default=Transfer(), description="In what form a site's trained tensors travel to the hub."
    )


class Requirement(Model):
    """What a dataset must offer."""

    images: list[ImageName] = Field(
        default=[], max_length=16, description="Images of which the dataset must have at least one case each."
    )
    columns: list[ColumnName] = Field(
        default=[], max_length=64, description="Columns that the table must have."
    )


class Cohort(Model):
    """Which datasets fit the study."""

    min_cases: int = Field(default=1, ge=1, description="Least number of usable training cases of a site.")
    require: Requirement = Field(default=Requirement(), description="What a dataset must offer.")


class StudyPlan(Model):
    """The part of a study that a site runs. Changing anything in it changes its digest, and every approval lapses."""

    api_version: str = Field(
        default="fedstudy.io/plan/v1",
        pattern=r"^fedstudy\.io/plan/v1$",
        description="Version of this document's form.",
    )
    study: str = Field(min_length=1, max_length=63, description="Name of the study.")
    uid: str = Field(
        min_length=1,
        max_length=63,
        description="Identity of the study: a study made again under the same name is another study.",
    )
    title: str = Field(default="", max_length=256, description="Title of the study.")
    purpose: str = Field(
        max_length=63, description="Data Use Ontology code of the study's purpose, for example DUO:0000007."
    )
    task: Task
    model: ModelSpec
    preprocessing: Preprocessing
    augmentation: Augmentation
    training: Training
    federation: Federation
    cohort: Cohort
    trainer_image: str = Field(
        default="",
        max_length=512,
        description="Digest of the trainer image; empty where no image is involved (one machine).",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> StudyPlan:
        for fault in plan_faults(self):
            raise ValueError(f"{fault[0]}: {fault[1]}")
        return self

    def canonical(self) -> bytes:
        """The plan as canonical JSON: UTF-8, sorted keys, no blanks, defaults written out, unset fields left out."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def digest(self) -> PlanDigest:
        """`sha256:` and the hexadecimal sha256 of the canonical form: what a hospital approves."""
        return digest_of(self.canonical())

    @classmethod
    def parse(cls, document: bytes) -> StudyPlan:
        """A plan from its canonical JSON.

        Raises:
            pydantic.ValidationError: the document is not a plan.
        """
        return cls.model_validate_json(document)


def plan_faults(study: Any) -> list[tuple[str, str]]:
    """Faults between parts that are each valid alone, as (field path, what is wrong); works on a plan and on a study's spec.

    Args:
        study: has task, model, preprocessing, training, federation, cohort.
    """
    faults = []
    if study.task.images and study.preprocessing.size is None:
        faults.append(("preprocessing.size", "is required for a task with images"))
    linear = study.model.network.name in ("Linear", "MLP")
    if study.task.images and linear:
        faults.append(
            (
                "model.network.name",
                f"{study.model.network.name} takes covariates only, but task.images is not empty",
            )
        )
    if not study.task.images and not linear:
        faults.append(
            ("model.network.name", f"{study.model.network.name} takes images, but task.images is empty")
        )
    unknown = sorted(set(study.cohort.require.images) - set(study.task.images))
    if unknown:
        faults.append(("cohort.require.images", f"names {unknown[0]}, which task.images does not"))
    if study.federation.weights is Weights.EVENTS and study.task.type is not TaskType.SURVIVAL:
        faults.append(("federation.weights", "Events belongs to a Survival task"))
    if study.federation.transfer != Transfer() and not _answers_models(study.federation.algorithm.name):
        name = study.federation.algorithm.name
        faults.append(("federation.transfer", f"is for trained models; the answers of {name} stay exact"))
    return faults


def _answers_models(algorithm: str) -> bool:
    """Whether the sites of an algorithm answer with models; True also of one that is not installed here."""
    from fedstudy.aggregator.algorithms.registry import find  # it imports this module

    found = find(algorithm)
    return found is None or found.updates_are_models


def digest_of(canonical: bytes) -> PlanDigest:
    """The digest of a plan's canonical JSON."""
    return PlanDigest("sha256:" + hashlib.sha256(canonical).hexdigest())


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no blanks, UTF-8; two equal values give equal bytes.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _plain(value: Any) -> Any:
    """Integral floats become integers, so that 1 and 1.0, which YAML writers confuse, give the same digest."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value
