"""How the operator is set up: read once from the environment, every fault of it told at once."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from fedstudy.errors import ManifestError
from fedstudy_operator.children.common import Settings

ROLES: dict[str, tuple[str, ...]] = {
    "hub": ("FederatedStudy",),
    "site": ("SiteParticipant", "SiteDataset"),
    "both": ("FederatedStudy", "SiteParticipant", "SiteDataset"),
}
METRICS_PORT = 9090
"""Where aggregators and agents serve metrics and say that they live."""
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_ADDRESS = re.compile(r".+:[0-9]{1,5}")


@dataclass(frozen=True)
class Environment:
    """The operator's set-up.

    Attributes:
        role: hub, site or both.
        namespaces: where it works; empty: everywhere.
        namespace: its own, where its Lease is.
        identity: its pod's name.
        lease: name of its Lease.
        http: where it serves /healthz, /readyz and /metrics.
        settings: of what it makes.
        cluster_ips: dial Services by their cluster IP: outside a cluster there is no DNS of it.
    """

    role: str
    namespaces: tuple[str, ...]
    namespace: str
    identity: str
    lease: str
    http: str
    settings: Settings
    cluster_ips: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        """The resources that are ours."""
        return ROLES[self.role]


def read(environ: Mapping[str, str] = os.environ) -> Environment:
    """The set-up.

    Raises:
        ManifestError: all that is wrong, by variable.
    """
    faults: list[str] = []

    def checked(name: str, default: str, pattern: re.Pattern[str], what: str) -> str:
        value = environ.get(name, "") or default
        if not pattern.fullmatch(value):
            faults.append(f"{name}={value!r} is not {what}")
        return value

    role = environ.get("FEDSTUDY_ROLE", "both")
    if role not in ROLES:
        faults.append(f"FEDSTUDY_ROLE={role!r} is not one of {', '.join(ROLES)}")
    namespaces = _words(environ.get("FEDSTUDY_NAMESPACES", ""))
    faults += [
        f"FEDSTUDY_NAMESPACES: {n!r} is not a namespace's name" for n in namespaces if not _LABEL.fullmatch(n)
    ]
    namespace = checked("POD_NAMESPACE", "default", _LABEL, "a namespace's name")
    lease = checked("FEDSTUDY_LEASE", f"fedstudy-operator-{role}", _DOMAIN, "a Lease's name")
    domain = checked("FEDSTUDY_TRUST_DOMAIN", "fedstudy", _DOMAIN, "a domain")
    http = checked("FEDSTUDY_HTTP", "0.0.0.0:8080", _ADDRESS, "HOST:PORT")
    resolve = environ.get("FEDSTUDY_RESOLVE", "DNS")
    if resolve not in ("DNS", "ClusterIP"):
        faults.append(f"FEDSTUDY_RESOLVE={resolve!r} is neither DNS nor ClusterIP")
    if faults:
        raise ManifestError(
            "The operator's environment is wrong: " + "; ".join(faults) + ".",
            "Correct the chart's values, or the variables.",
        )
    return Environment(
        role=role,
        namespaces=namespaces,
        namespace=namespace,
        identity=environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        lease=lease,
        http=http,
        settings=settings(environ, domain),
        cluster_ips=resolve == "ClusterIP",
    )


def settings(environ: Mapping[str, str], trust_domain: str) -> Settings:
    """What the operator puts into what it makes."""
    return Settings(
        image=environ.get("FEDSTUDY_IMAGE") or "fedstudy",
        trainer_image=environ.get("FEDSTUDY_TRAINER_IMAGE") or "fedstudy-trainer",
        trust_domain=trust_domain,
        queues=environ.get("FEDSTUDY_QUEUES", "true").lower() == "true",
        registry=environ.get("FEDSTUDY_REGISTRY", ""),
        pull_secrets=_words(environ.get("FEDSTUDY_PULL_SECRETS", "")),
        metrics_port=METRICS_PORT,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
