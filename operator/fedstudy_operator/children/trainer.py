"""Jobs that see data: the preflight, and the trainer. They have no token, no way out but the agent, and cannot write the data."""

from __future__ import annotations

import hashlib
from typing import Any

from fedstudy.errors import FINAL_EXIT_CODES
from fedstudy.plan import canonical_json
from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.api.participant import Release, SiteParticipant
from fedstudy_operator.children import pod
from fedstudy_operator.children.common import Settings, child, labels
from fedstudy_operator.children.participant import AGENT, PREFLIGHT, TRAINER, agent_address, owner_of
from fedstudy_operator.cluster import Object

WORK = f"{GROUP}/work"
"""Label: hash of the work for which a trainer was made."""

SPEC = f"{GROUP}/spec"
"""Label: hash of what the Job was made from."""

QUEUE = "kueue.x-k8s.io/queue-name"
RETRIES = 2


def short_hash(value: Any) -> str:
    """Ten hexadecimal digits that stand for a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:10]


def spec_hash(participant: SiteParticipant, dataset: SiteDataset, image: str) -> str:
    """Changes when a Job would be made differently."""
    return short_hash(
        {
            "trainer": participant.spec.trainer.model_dump(mode="json"),
            "data": dataset.spec.model_dump(mode="json", exclude={"policy"}),
            "cells": dataset.spec.policy.min_cell_count,
            "image": image,
        }
    )


def preflight(
    participant: SiteParticipant, dataset: SiteDataset, *, digest: str, image: str, settings: Settings
) -> Object:
    """The Job that checks the data against a plan and counts. One for each plan and form of the dataset."""
    made_of = spec_hash(participant, dataset, image)
    name = owner_of(participant).child(PREFLIGHT, short_hash([digest, made_of]))
    return _job(participant, dataset, PREFLIGHT, name, "preflight", image, settings, {SPEC: made_of})


def trainer(
    participant: SiteParticipant,
    dataset: SiteDataset,
    *,
    work: str,
    attempt: int,
    image: str,
    settings: Settings,
) -> Object:
    """The Job that trains.

    Args:
        work: id of the instruction that waits; the Job serves those that follow too, while it lives.
        attempt: how many Jobs made for that very work have ended already.
    """
    made_of = spec_hash(participant, dataset, image)
    name = owner_of(participant).child(TRAINER, short_hash([work, attempt, made_of]))
    marks = {WORK: short_hash(work), SPEC: made_of}
    return _job(participant, dataset, TRAINER, name, "run", image, settings, marks)


def _job(
    participant: SiteParticipant,
    dataset: SiteDataset,
    component: str,
    name: str,
    action: str,
    image: str,
    settings: Settings,
    marks: dict[str, str],
) -> Object:
    owner, wanted = owner_of(participant), participant.spec.trainer
    spec: dict[str, Any] = {
        "backoffLimit": RETRIES,
        "completions": 1,
        "parallelism": 1,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": component,
                        "operator": "In",
                        "values": list(FINAL_EXIT_CODES),
                    },
                },
            ]
        },
        "template": {
            "metadata": {"labels": labels(owner, component)},
            "spec": _pod_spec(participant, dataset, component, action, image),
        },
    }
    made = child("batch/v1", "Job", owner, name, component, spec=spec)
    made["metadata"]["labels"] |= marks
    if wanted.queue_name and settings.queues:
        made["metadata"]["labels"][QUEUE] = wanted.queue_name
        spec["suspend"] = True  # until Kueue admits it; a Job is applied once, so that Kueue's word stays
    return made


def _pod_spec(
    participant: SiteParticipant, dataset: SiteDataset, component: str, action: str, image: str
) -> dict[str, Any]:
    owner, wanted, volume = owner_of(participant), participant.spec.trainer, dataset.spec.volume
    environment = {
        "FEDSTUDY_TLS": "/etc/fedstudy/tls",
        "FEDSTUDY_UPSTREAM": agent_address(participant),
        "FEDSTUDY_UPSTREAM_NAME": AGENT,
        "FEDSTUDY_CONFIG": "/etc/fedstudy/dataset",
        "FEDSTUDY_SITE": participant.spec.site_name,
        "FEDSTUDY_DATA": "/data",
        "FEDSTUDY_SCRATCH": "/scratch",
        "FEDSTUDY_RELEASE": Release(wanted.release).value,
        "FEDSTUDY_THREADS": str(wanted.threads),
    }
    mounts = {
        "/etc/fedstudy/tls": "tls",
        "/etc/fedstudy/dataset": "dataset",
        "/data": "data",
        "/scratch": "scratch",
        "/dev/shm": "shm",
        "/tmp": "tmp",
    }
    read_only = ("/etc/fedstudy/tls", "/etc/fedstudy/dataset", "/data")
    made = pod.container(
        component,
        image,
        ["fedstudy-trainer", action],
        environment,
        mounts,
        wanted.resources,
        read_only=read_only,
    )
    if volume.sub_path:
        next(m for m in made["volumeMounts"] if m["name"] == "data")["subPath"] = volume.sub_path
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": pod.security(),
        "containers": [made],
        "volumes": [
            pod.secret_volume("tls", owner.child(TRAINER, "tls")),
            pod.config_volume("dataset", owner.child("dataset")),
            {
                "name": "data",
                "persistentVolumeClaim": {"claimName": volume.persistent_volume_claim, "readOnly": True},
            },
            pod.scratch_volume("scratch"),
            pod.scratch_volume("shm", medium="Memory"),
            pod.scratch_volume("tmp"),
        ],
    }
    if wanted.node_selector:
        spec["nodeSelector"] = dict(wanted.node_selector)
    if wanted.tolerations:
        spec["tolerations"] = [
            t.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
            for t in wanted.tolerations
        ]
    if wanted.runtime_class_name:
        spec["runtimeClassName"] = wanted.runtime_class_name
    return spec
