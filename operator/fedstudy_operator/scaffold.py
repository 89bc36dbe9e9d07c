"""Ready-made manifests: a study in the hub's namespace, and for each hospital its dataset and its part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedstudy_operator.api import API_VERSION
from fedstudy_operator.cluster import Object

HUB = "hub"
"""Namespace of the studies in ready-made manifests."""


def study(name: str, spec: Mapping[str, Any], sites: Sequence[str]) -> Object:
    """A FederatedStudy that invites some sites."""
    return _object("FederatedStudy", HUB, name, {**spec, "sites": [{"name": site} for site in sites]})


def hospital(
    site: str,
    study_name: str,
    dataset: Mapping[str, Any],
    policy: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> list[Object]:
    """A hospital's two resources: its dataset on a claim of the site's name, and its part in the study.

    The policy is written out in full, as a steward would: what it does not name is refused. Within it, plans are
    approved as they come; a hospital that wants to read each plan first writes `approval: {planDigest: …}` instead.
    """
    return [
        _object(
            "SiteDataset",
            site,
            "patients",
            {"volume": {"persistentVolumeClaim": site}, **dataset, "policy": dict(policy)},
        ),
        _object(
            "SiteParticipant",
            site,
            study_name,
            {
                "study": {"name": study_name, "namespace": HUB},
                "siteName": site,
                "datasetRef": "patients",
                "approval": {"mode": "Automatic"},
                "trainer": dict(trainer),
            },
        ),
    ]


def write(path: Path, objects: Sequence[Object], comment: str) -> Path:
    """Write objects as one YAML file with a comment on top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "---\n".join(
        yaml.safe_dump(obj, sort_keys=False, width=110, allow_unicode=True) for obj in objects
    )
    path.write_text(f"# {comment}\n{text}", encoding="utf-8")
    return path


def _object(kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }
