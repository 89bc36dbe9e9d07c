"""Jobs that see data: the preflight, and the trainer. They have no token, no way out but the agent, and cannot write the data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from fedstudy.errors import FINAL_EXIT_CODES
from fedstudy.plan import canonical_json
from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.api.meta import GROUP
from fedstudy_operator.api.participant import Release, SiteParticipant, TrainerSpec
from fedstudy_operator.children import pod
from fedstudy_operator.children.common import Settings, child, labels
from fedstudy_operator.children.participant import AGENT, PREFLIGHT, TRAINER, agent_address, owner_of
from fedstudy_operator.cluster import Object

WORK = f"{GROUP}/work"
"""Label: hash of the work for which a trainer was made."""

SPEC = f"{GROUP}/spec"
"""Label: hash of what the Job was made from."""

REPLACES = f"{GROUP}/replaces-silent"
"""Annotation: the last sign of life of the trainer in whose place the Job is."""

QUEUE = "kueue.x-k8s.io/queue-name"
RETRIES = 2


def short_hash(value: Any) -> str:
    """Ten hexadecimal digits that stand for a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:10]


def spec_hash(participant: SiteParticipant, dataset: SiteDataset, image: str) -> str:
    """Changes when a Job would be made differently.

    Args:
        image: as it is pulled here.
    """
    return short_hash(
        {
            # without defaults: a later version's new fields leave running trainers alone
            "trainer": participant.spec.trainer.model_dump(mode="json", exclude_defaults=True),
            "data": dataset.spec.model_dump(mode="json", exclude={"policy"}),
            "cells": dataset.spec.policy.min_cell_count,
            "image": image,
        }
    )


def preflight(
    participant: SiteParticipant, dataset: SiteDataset, *, digest: str, image: str, settings: Settings
) -> Object:
    """The Job that checks the data against a plan and counts. One for each plan and form of the dataset."""
    image = settings.place(image)
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
    image = settings.place(image)
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
            "spec": _pod_spec(participant, dataset, component, action, image, settings),
        },
    }
    made = child("batch/v1", "Job", owner, name, component, spec=spec)
    made["metadata"]["labels"] |= marks
    if wanted.queue_name and settings.queues:
        made["metadata"]["labels"][QUEUE] = wanted.queue_name
        spec["suspend"] = True  # until Kueue admits it; a Job is applied once, so that Kueue's word stays
    return made


def _pod_spec(
    participant: SiteParticipant,
    dataset: SiteDataset,
    component: str,
    action: str,
    image: str,
    settings: Settings,
) -> dict[str, Any]:
    owner, wanted, volume = owner_of(participant), participant.spec.trainer, dataset.spec.volume
    environment = {
        "FEDSTUDY_TLS": "/etc/fedstudy/tls",
        "FEDSTUDY_UPSTREAM": agent_address(participant),
        "FEDSTUDY_UPSTREAM_NAME": AGENT,
        "FEDSTUDY_CONFIG": "/etc/fedstudy/dataset",
        "FEDSTUDY_SITE": participant.spec.site_name,
        "FEDSTUDY_DATA": "/data",
        "FEDSTUDY_SCRATCH": f"/scratch/{participant.metadata.name}",
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
        pod.without_devices(wanted.resources) if component == PREFLIGHT else wanted.resources,
        read_only=read_only,
    )
    if volume.sub_path:
        next(m for m in made["volumeMounts"] if m["name"] == "data")["subPath"] = volume.sub_path
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        **pod.pull_secrets((*wanted.image_pull_secrets, *settings.pull_secrets)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {**pod.security(), **_groups(wanted.supplemental_groups)},
        "containers": [made],
        "volumes": [
            pod.secret_volume("tls", owner.child(TRAINER, "tls")),
            pod.config_volume("dataset", owner.child("dataset")),
            {
                "name": "data",
                "persistentVolumeClaim": {"claimName": volume.persistent_volume_claim, "readOnly": True},
            },
            _scratch(wanted, component),
            pod.scratch_volume("shm", medium="Memory", **_limit(wanted.shared_memory)),
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
    if wanted.priority_class_name:
        spec["priorityClassName"] = wanted.priority_class_name
    if wanted.scheduler_name:
        spec["schedulerName"] = wanted.scheduler_name
    return spec


def _groups(groups: Sequence[int]) -> dict[str, list[int]]:
    return {"supplementalGroups": list(groups)} if groups else {}


def _scratch(wanted: TrainerSpec, component: str) -> dict[str, Any]:
    """The trainer's folder. A preflight keeps nothing, and a claim may be on another node while it runs."""
    scratch = wanted.scratch
    if scratch.claim_name and component == TRAINER:
        return {"name": "scratch", "persistentVolumeClaim": {"claimName": scratch.claim_name}}
    return pod.scratch_volume("scratch", **_limit(scratch.size_limit))


def _limit(size: str | None) -> dict[str, str]:
    return {"sizeLimit": size} if size else {}
