"""How the aggregator process is configured: environment variables and the files that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fedstudy.errors import ManifestError, PlanError
from fedstudy.metrics import VARIABLE
from fedstudy.plan import Model, StudyPlan
from fedstudy.wire.channel import TLSFiles


class StudyConfig(Model):
    """`study.json`: which study, and who is invited when it begins."""

    uid: str
    trust_domain: str
    sites: list[str]
    required: list[str] = []


@dataclass(frozen=True)
class Settings:
    """What the process needs to know; `metrics` is the address of /metrics and the probes, empty for none."""

    listen: str
    tls: TLSFiles
    state: Path
    plan: StudyPlan
    study: StudyConfig
    metrics: str = ""


def load(environment: Mapping[str, str]) -> Settings:
    """Settings from the environment.

    Raises:
        ManifestError: a variable is unset, or `study.json` is malformed.
        PlanError: `plan.json` is no plan, or of another study.
    """
    names = ("FEDSTUDY_LISTEN", "FEDSTUDY_TLS", "FEDSTUDY_CONFIG", "FEDSTUDY_STATE")
    unset = [name for name in names if not environment.get(name)]
    if unset:
        raise ManifestError(f"{', '.join(unset)} is not set.", "Set it in the environment of the aggregator.")
    config = Path(environment["FEDSTUDY_CONFIG"])
    plan, study = _plan(config / "plan.json"), _study(config / "study.json")
    if plan.uid != study.uid:
        raise PlanError(f"plan.json is of study {plan.uid}, study.json of {study.uid}.")
    return Settings(
        listen=environment["FEDSTUDY_LISTEN"],
        tls=TLSFiles.from_folder(Path(environment["FEDSTUDY_TLS"])),
        state=Path(environment["FEDSTUDY_STATE"]),
        plan=plan,
        study=study,
        metrics=environment.get(VARIABLE, ""),
    )


def _plan(path: Path) -> StudyPlan:
    try:
        return StudyPlan.parse(_bytes(path))
    except ValidationError as error:
        raise PlanError(f"{path.name}: {_first(error)}") from None


def _study(path: Path) -> StudyConfig:
    try:
        return StudyConfig.model_validate_json(_bytes(path))
    except ValidationError as error:
        raise ManifestError(f"{path.name}: {_first(error)}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}.", "Check FEDSTUDY_CONFIG.") from None


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}."
