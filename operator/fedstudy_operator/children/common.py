"""What all children have: a fixed name, labels, an owner, and the settings of the operator that makes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedstudy_operator.api.meta import API_VERSION, GROUP, Metadata
from fedstudy_operator.cluster import Object

STUDY = f"{GROUP}/study"
PARTICIPANT = f"{GROUP}/participant"
COMPONENT = "app.kubernetes.io/component"
SITE = f"{GROUP}/site"
_LONGEST = 52
"""Kubernetes adds up to 11 characters to the names of StatefulSets and Jobs within a label's 63."""


@dataclass(frozen=True)
class Settings:
    """How this operator is set up.

    Attributes:
        image: of aggregators and agents, where a resource names none.
        trainer_image: of trainers, where neither the participant nor the plan names one.
        trust_domain: of all identities that this operator's authorities give.
        queues: whether a Kueue is there to start Jobs that name a queue.
        registry: takes the place of every image's registry, also of those that a plan or a participant names; empty: none does.
        pull_secrets: names of Secrets with which images are pulled.
        rechecks: whether data in which a preflight found faults are looked at again by and by; a run on one machine does so on --resume.
        metrics_port: where aggregators and agents serve metrics and say that they live; 0: nowhere.
    """

    image: str = "fedstudy"
    trainer_image: str = "fedstudy-trainer"
    trust_domain: str = "fedstudy"
    queues: bool = True
    registry: str = ""
    pull_secrets: tuple[str, ...] = ()
    rechecks: bool = True
    metrics_port: int = 0

    def place(self, image: str) -> str:
        """Where an image is pulled from here."""
        return f"{self.registry.rstrip('/')}/{without_registry(image)}" if self.registry else image


def without_registry(image: str) -> str:
    """An image's repository with its tag or digest. The first part of a name is a registry if it could be a host."""
    first, slash, rest = image.partition("/")
    host = first == "localhost" or "." in first or ":" in first or first != first.lower()
    return rest if slash and host else image


@dataclass(frozen=True)
class Owner:
    """The custom resource that a child belongs to."""

    kind: str
    metadata: Metadata

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """Its namespace, which is also its children's."""
        return self.metadata.namespace

    @property
    def label(self) -> str:
        """The label by which its children are found."""
        return STUDY if self.kind == "FederatedStudy" else PARTICIPANT

    def child(self, *parts: str) -> str:
        """The name of a child."""
        return child_name(self.name, *parts)

    def selector(self, component: str) -> dict[str, str]:
        """Labels of the pods of one component, and of no others in the namespace."""
        return {self.label: label_value(self.name), COMPONENT: component}


def child_name(*parts: str) -> str:
    """The parts joined by hyphens; where that is too long, its beginning and a hash of the whole."""
    whole = "-".join(parts)
    if len(whole) <= _LONGEST:
        return whole
    return f"{whole[: _LONGEST - 9].rstrip('-.')}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def label_value(name: str) -> str:
    """A name as a label's value, which is at most 63 characters."""
    return name if len(name) <= 63 else child_name(name)


def labels(owner: Owner, component: str) -> dict[str, str]:
    """The recommended labels of Kubernetes, and ours."""
    return {
        "app.kubernetes.io/name": "fedstudy",
        "app.kubernetes.io/instance": label_value(owner.name),
        "app.kubernetes.io/part-of": "fedstudy",
        "app.kubernetes.io/managed-by": "fedstudy-operator",
        **owner.selector(component),
    }


def child(api_version: str, kind: str, owner: Owner, name: str, component: str, **fields: Any) -> Object:
    """A manifest that belongs to its owner and goes with it."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": labels(owner, component),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": owner.kind,
                    "name": owner.name,
                    "uid": owner.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        **fields,
    }


def encode(files: Mapping[str, str]) -> dict[str, str]:
    """Texts as a Secret's data."""
    return {name: base64.b64encode(text.encode()).decode("ascii") for name, text in files.items()}


def decode(secret: Object) -> dict[str, str]:
    """A Secret's data as texts."""
    return {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}


def tls_secret(
    owner: Owner, name: str, component: str, *, certificate: str, key: str, authority: str
) -> Object:
    """A Secret in the form that every process takes as FEDSTUDY_TLS. All PEM."""
    data = encode({"tls.crt": certificate, "tls.key": key, "ca.crt": authority})
    return child("v1", "Secret", owner, name, component, type="kubernetes.io/tls", data=data)


def config_map(owner: Owner, name: str, component: str, files: Mapping[str, str]) -> Object:
    """A ConfigMap of files."""
    return child("v1", "ConfigMap", owner, name, component, data=dict(files))
