"""How a trainer is configured: environment variables and files, the same in a container and on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fedstudy.errors import ManifestError


class Release(StrEnum):
    """When a trainer gives its GPU and memory back."""

    BETWEEN_ROUNDS = "BetweenRounds"
    NEVER = "Never"


@dataclass(frozen=True)
class Settings:
    """What the environment says; see the table in `docs/architecture.md`.

    Attributes:
        tls: folder with the hospital-internal client certificate.
        upstream, upstream_name: the agent's `host:port` and TLS server name.
        config: folder with `dataset.json`.
        data: the dataset, only read.
        scratch: preprocessed volumes and blobs; may vanish between two trainers.
        state: what a killed trainer goes on from; of use where it outlives the process.
        checkpoint: least seconds between two checkpoints of a round.
        release: BetweenRounds ends the process with each answer; Never stays until the study is over.
        threads: of torch.
        connect_timeout: seconds to wait for the agent.
    """

    tls: Path
    upstream: str
    upstream_name: str
    config: Path
    site: str
    data: Path
    scratch: Path
    release: Release
    threads: int
    connect_timeout: float
    state: Path
    checkpoint: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The settings.

        Raises:
            ManifestError: variables are missing (the message names all of them), or one has an impossible value.
        """
        required = ["TLS", "UPSTREAM", "CONFIG", "SITE", "DATA", "SCRATCH"]
        missing = [f"FEDSTUDY_{name}" for name in required if not environment.get(f"FEDSTUDY_{name}")]
        if missing:
            raise ManifestError(
                f"The trainer's environment lacks {', '.join(missing)}.",
                "Set them as docs/architecture.md says; the operator does.",
            )
        scratch = Path(environment["FEDSTUDY_SCRATCH"])
        return cls(
            tls=Path(environment["FEDSTUDY_TLS"]),
            upstream=environment["FEDSTUDY_UPSTREAM"],
            upstream_name=environment.get("FEDSTUDY_UPSTREAM_NAME") or "agent",
            config=Path(environment["FEDSTUDY_CONFIG"]),
            site=environment["FEDSTUDY_SITE"],
            data=Path(environment["FEDSTUDY_DATA"]),
            scratch=scratch,
            release=_release(environment.get("FEDSTUDY_RELEASE") or Release.BETWEEN_ROUNDS),
            threads=int(_number("FEDSTUDY_THREADS", environment.get("FEDSTUDY_THREADS") or "1")),
            connect_timeout=_number(
                "FEDSTUDY_CONNECT_TIMEOUT", environment.get("FEDSTUDY_CONNECT_TIMEOUT") or "120"
            ),
            state=Path(environment.get("FEDSTUDY_STATE") or scratch / "state"),
            checkpoint=_number("FEDSTUDY_CHECKPOINT", environment.get("FEDSTUDY_CHECKPOINT") or "60"),
        )


def _release(text: str) -> Release:
    try:
        return Release(text)
    except ValueError:
        raise ManifestError(
            f"FEDSTUDY_RELEASE is {text!r}.", f"Set it to one of {', '.join(Release)}."
        ) from None


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise ManifestError(f"{name} is {text!r}.", "Set it to a number above zero.")
    return value
