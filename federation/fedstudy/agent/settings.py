"""How an agent is configured: environment variables and files, the same in a container and on one machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedstudy.agent.presence import SILENT_SECONDS
from fedstudy.errors import ManifestError
from fedstudy.metrics import VARIABLE


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        listen: `host:port` for the trainer and the operator.
        tls: folder with the hospital-internal server certificate.
        upstream, upstream_name: the aggregator's `host:port` and TLS server name.
        invitation: folder with the bootstrap certificate.
        site: the hospital's name in the study.
        state: folder that survives.
        metrics: `host:port` of /metrics and the probes; empty for none.
        silent: seconds without a sign of life after which a trainer with work counts as gone.
    """

    listen: str
    tls: Path
    upstream: str
    upstream_name: str
    invitation: Path
    site: str
    state: Path
    metrics: str = ""
    silent: float = SILENT_SECONDS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The settings.

        Raises:
            ManifestError: variables are missing, all of which the message names; or one is no number.
        """
        required = ["TLS", "UPSTREAM", "INVITATION", "SITE", "STATE"]
        missing = [f"FEDSTUDY_{name}" for name in required if not environment.get(f"FEDSTUDY_{name}")]
        if missing:
            raise ManifestError(
                f"The agent's environment lacks {', '.join(missing)}.",
                "Set them as docs/architecture.md says; the operator does.",
            )
        return cls(
            listen=environment.get("FEDSTUDY_LISTEN") or "0.0.0.0:8443",
            tls=Path(environment["FEDSTUDY_TLS"]),
            upstream=environment["FEDSTUDY_UPSTREAM"],
            upstream_name=environment.get("FEDSTUDY_UPSTREAM_NAME") or "aggregator",
            invitation=Path(environment["FEDSTUDY_INVITATION"]),
            site=environment["FEDSTUDY_SITE"],
            state=Path(environment["FEDSTUDY_STATE"]),
            metrics=environment.get(VARIABLE, ""),
            silent=_seconds(environment, "FEDSTUDY_TRAINER_SILENT", SILENT_SECONDS),
        )


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1.0 <= seconds < math.inf:
        raise ManifestError(f"{name} is {text!r}, expected seconds, at least 1.", "Correct it, or unset it.")
    return seconds
