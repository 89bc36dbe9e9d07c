"""`kubectl fedstudy support-bundle`: what a helper needs to see of a namespace, without a single secret.

A Secret's values are never written: only their names and sizes. Since a value may also have found its way into a log, an event or an annotation, every
text is searched for the values of the namespace's Secrets, in plain, base64 and line by line, and for private keys of any origin, before it is written.
"""

from __future__ import annotations

import base64
import io
import re
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedstudy import __version__
from fedstudy.errors import NoSpaceError
from fedstudy_operator.cluster import NotFoundError, Object
from fedstudy_operator.commands.access import Access
from fedstudy_operator.kube.api import ForbiddenError, UnavailableError
from fedstudy_operator.kube.kinds import KINDS

OWN = ("FederatedStudy", "SiteParticipant", "SiteDataset")
CHILDREN = (
    "StatefulSet", "Job", "Pod", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim", "Lease", "Event",
)  # fmt: skip
LOG_LINES = 5000
SHORTEST = 8
"""Shorter values than this are not searched for: they would be found in every word."""
REDACTED = "(redacted)"
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_OURS = {"app.kubernetes.io/name": "fedstudy"}


class Redactor:
    """Takes secret values out of texts.

    Args:
        values: what must not be seen.
    """

    def __init__(self, values: Iterable[bytes]) -> None:
        found: set[str] = set()
        for value in values:
            found |= _forms(value)
        longest_first = sorted((f for f in found if len(f) >= SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text without them."""
        text = _KEY.sub(REDACTED, text)
        return self._pattern.sub(REDACTED, text) if self._pattern else text

    def value(self, value: Any) -> Any:
        """A document without them: in every string, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(k)): self.value(v) for k, v in value.items()}
        if isinstance(value, Sequence):
            return [self.value(item) for item in value]
        return value


def _forms(value: bytes) -> set[str]:
    """A value as it may stand in a text."""
    forms = {base64.b64encode(value).decode(), base64.b64encode(value).decode().rstrip("=")}
    text = value.decode(errors="ignore")
    forms |= {text, text.strip(), repr(text)[1:-1]}
    forms |= {line.strip() for line in text.splitlines() if not line.startswith("-----")}
    return forms


def plain_secret(secret: Object) -> Object:
    """A Secret without its values."""
    data = {name: len(base64.b64decode(text)) for name, text in (secret.get("data") or {}).items()}
    data |= {name: len(text.encode()) for name, text in (secret.get("stringData") or {}).items()}
    kept = {k: v for k, v in secret.items() if k not in ("data", "stringData")}
    return {
        **tidy(kept),
        "data": {name: f"{REDACTED[:-1]}, {length} bytes)" for name, length in data.items()},
    }


def tidy(obj: Object) -> Object:
    """An object without bookkeeping, and without the copy of itself that kubectl leaves in an annotation."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    if "annotations" in metadata:
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != _APPLIED}
    return {**obj, "metadata": metadata}


def secret_values(secrets: Iterable[Object]) -> list[bytes]:
    """All that Secrets hold, but certificates: they are public, and worth reading."""
    values = [base64.b64decode(text) for s in secrets for text in (s.get("data") or {}).values()]
    return [value for value in values if value and not _public(value)]


def _public(value: bytes) -> bool:
    return value.lstrip().startswith(b"-----BEGIN CERTIFICATE-----") and b"PRIVATE KEY" not in value


async def collect(access: Access) -> dict[str, str]:
    """File name → text, redacted."""
    secrets, troubles = await _listed(access, "Secret", None)
    redactor = Redactor(secret_values(secrets))
    files = {f"Secret/{s['metadata']['name']}.yaml": _yaml(plain_secret(s)) for s in secrets}
    pods: list[Object] = []
    for kind in (*OWN, *CHILDREN):
        found, trouble = await _listed(access, kind, None)
        troubles += trouble
        pods += found if kind == "Pod" else []
        for obj in found:
            files[f"{kind}/{obj['metadata']['name']}.yaml"] = _yaml(tidy(obj))
    for pod in pods:
        name = pod["metadata"]["name"]
        if not _OURS.items() <= (pod["metadata"].get("labels") or {}).items():
            continue
        for previous in (False, True):
            if text := await _log(access, name, previous=previous):
                files[f"logs/{name}{'.previous' if previous else ''}.log"] = text
    about = {"fedstudy": __version__, "namespace": access.namespace, "not collected": troubles}
    files["about.yaml"] = _yaml(about)
    return {redactor.text(name): redactor.text(text) for name, text in sorted(files.items())}


def pack(files: Mapping[str, str], out: Path) -> Path:
    """One tar.gz that only its maker reads.

    Raises:
        NoSpaceError: it cannot be written.
    """
    now = int(time.time())
    try:
        out.touch(mode=0o600)
        with tarfile.open(out, "w:gz") as tar:
            for name, text in files.items():
                content = text.encode()
                entry = tarfile.TarInfo(f"fedstudy-support/{name}")
                entry.size, entry.mtime, entry.mode = len(content), now, 0o600
                tar.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise NoSpaceError(
            f"{out} cannot be written: {error.strerror}.", "Name another file with -o."
        ) from error
    return out


async def _listed(
    access: Access, kind: str, labels: Mapping[str, str] | None
) -> tuple[list[Object], list[str]]:
    """Objects of a kind, or why there are none: what may not be read is left out, and said."""
    try:
        return await access.list(kind, labels), []
    except (ForbiddenError, UnavailableError, NotFoundError) as error:
        return [], [f"{kind}: {error}"]


async def _log(access: Access, pod: str, *, previous: bool) -> str:
    path = f"{KINDS['Pod'].path(access.namespace, pod)}/log"
    query = {"tailLines": str(LOG_LINES), "timestamps": "true", **({"previous": "true"} if previous else {})}
    try:
        return await access.api.text(path, query=query)
    except Exception as error:  # noqa: BLE001 - a pod that has no log yet, or no more, is no reason to have no bundle
        return "" if previous else f"(no log: {error})\n"


def _yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)
