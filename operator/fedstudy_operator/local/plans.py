"""Plans as they run on one machine: the same manifests have the same uids, and so the same digests, on every machine."""

from __future__ import annotations

import uuid

from fedstudy.plan import StudyPlan
from fedstudy_operator.api import FederatedStudy
from fedstudy_operator.cluster import Object

_NAMES = uuid.uuid5(uuid.NAMESPACE_DNS, "local.fedstudy.io")


def local_uid(obj: Object) -> str:
    """The uid of an object on any one machine."""
    return _uid(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def plan_of(study: FederatedStudy) -> StudyPlan:
    """The plan of a study: its digest is what hospitals approve."""
    meta = study.metadata
    known = meta.model_copy(update={"uid": _uid(study.kind, meta.namespace, meta.name)})
    return study.model_copy(update={"metadata": known}).plan()


def _uid(kind: str, namespace: str, name: str) -> str:
    return str(uuid.uuid5(_NAMES, f"{kind}/{namespace}/{name}"))
