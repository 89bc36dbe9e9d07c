"""The documented schema of RESULTS/results.json: what `fedstudy run` writes and `fedstudy report` reads."""

from __future__ import annotations

from pydantic import Field

from fedstudy.plan import Model


class Curve(Model):
    """A metric over the histogram or grid on which it was computed."""

    x: list[float]
    y: list[float]
    low: list[float] = []
    high: list[float] = []
    counts: list[int] = []


class SiteMetrics(Model):
    """One site's evaluation of one model."""

    site: str
    cases: int
    events: int | None = None
    metrics: dict[str, float] = Field(
        description="Metric name → value; `auc_low`, `auc_high` and the like are 95 % bounds."
    )


class Evaluation(Model):
    """One model evaluated at all sites on one split, without pooling."""

    split: str = Field(description="validation or test.")
    round: int
    metrics: dict[str, float] = Field(
        description="Over all sites: auc, auc_within, log_loss, brier, c_index, c_index_within, …"
    )
    sites: list[SiteMetrics] = []
    calibration: Curve | None = Field(
        default=None, description="x: mean predicted, y: observed share, counts per bin."
    )
    kaplan_meier: dict[str, Curve] = Field(
        default={}, description="Group (all, low risk, high risk) → survival curve."
    )
    log_rank_p: float | None = None


class RoundRecord(Model):
    """One closed round."""

    round: int
    seconds: float
    sites: list[str] = Field(description="Sites whose update is in the model.")
    missing: dict[str, str] = Field(default={}, description="Site → why its update is not in.")
    loss: float | None = Field(default=None, description="Mean training loss over the sites' samples.")
    model_digest: str
    bytes_in: int = 0
    bytes_out: int = 0
    validation: Evaluation | None = None


class SiteRecord(Model):
    """One site over the whole study."""

    site: str
    samples: int
    events: int | None = None
    rounds: int
    bytes_sent: int
    bytes_received: int
    seconds_training: float
    ledger_head: str = ""
    profile: dict[str, int | None] = Field(
        default={}, description="Counts of the preflight, small ones suppressed."
    )


class Arm(Model):
    """One way of training: federated, pooled, or local (a model for each site)."""

    name: str
    description: str
    seconds: float
    test: Evaluation | None = None
    own_test: dict[str, SiteMetrics] = Field(
        default={}, description="Local arm: each site's own model on its own test split."
    )
    curve: list[Evaluation] = []


class ProcessPeak(Model):
    """Peak memory of a process, in bytes (VmHWM), or of all together (highest sum of PSS or RSS over time)."""

    process: str
    peak_bytes: int


class Results(Model):
    """A study's results."""

    schema_version: str = "fedstudy.io/results/v1"
    study: str
    title: str = ""
    plan_digest: str
    plan: str = Field(description="Canonical JSON of the plan.")
    algorithm: str
    task: str
    started: str
    seconds: float
    rounds: list[RoundRecord]
    sites: list[SiteRecord]
    metrics: dict[str, float] = Field(description="Test metrics of the final model over all sites.")
    test: Evaluation | None = None
    arms: list[Arm] = []
    bytes: dict[str, int] = Field(description="sent and received by the aggregator.")
    memory: list[ProcessPeak] = []
    model_digest: str
    model_round: int
    software: dict[str, str] = {}
    refusals: int = 0
