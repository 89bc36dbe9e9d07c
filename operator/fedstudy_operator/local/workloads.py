"""What the controllers of StatefulSets, Deployments and Jobs would do: pods to make and to delete, and the status. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fedstudy_operator.cluster import Object

TEMPLATE = "fedstudy.io/template"
MADE_CLAIMS = "fedstudy.io/made-claims"


@dataclass
class Step:
    """What is to be done now.

    Attributes:
        again: seconds after which to look again.
    """

    create: list[Object] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    again: float | None = None


def now_text(now: datetime | None = None) -> str:
    """A time as Kubernetes writes it."""
    return (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """A time that Kubernetes wrote."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _pod(workload: Object, name: str) -> Object:
    """The pod of that name that the workload's template describes."""
    metadata, spec = workload["metadata"], workload["spec"]
    template = spec["template"]
    claims = [t["metadata"]["name"] for t in spec.get("volumeClaimTemplates") or []]
    volumes = [
        *(template["spec"].get("volumes") or []),
        *({"name": c, "persistentVolumeClaim": {"claimName": f"{c}-{name}"}} for c in claims),
    ]
    described = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": described.get("labels") or {},
            "annotations": {
                **(described.get("annotations") or {}),
                TEMPLATE: _hash(template),
                MADE_CLAIMS: ",".join(f"{c}-{name}" for c in claims),
            },
            "ownerReferences": [
                {
                    "apiVersion": workload["apiVersion"],
                    "kind": workload["kind"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {**template["spec"], "volumes": volumes},
    }


def phase(pod: Object) -> str:
    """A pod's phase."""
    return str((pod.get("status") or {}).get("phase", "Pending"))


def is_ready(pod: Object) -> bool:
    """Whether a pod serves."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def exit_code(pod: Object) -> int:
    """The exit code of a pod that has ended."""
    state = _terminated(pod)
    return int(state.get("exitCode", 1))


def _terminated(pod: Object) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    found: Mapping[str, Any] = (statuses[0].get("state") or {}).get("terminated") or {}
    return found


def replicas(workload: Object, pods: Sequence[Object]) -> Step:
    """A StatefulSet or a Deployment: so many pods of the present template, each under a fixed name."""
    metadata, spec = workload["metadata"], workload["spec"]
    wanted = {f"{metadata['name']}-{i}" for i in range(int(spec.get("replicas", 1)))}
    present = _hash(spec["template"])
    good = {
        pod["metadata"]["name"]: pod
        for pod in pods
        if pod["metadata"]["name"] in wanted and pod["metadata"]["annotations"].get(TEMPLATE) == present
    }
    ready = sum(is_ready(pod) for pod in good.values())
    gone = [pod for pod in pods if pod["metadata"]["name"] not in good]
    busy = {pod["metadata"]["name"] for pod in gone}
    status = {
        "observedGeneration": metadata["generation"],
        "replicas": len(good),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "updatedReplicas": len(good),
    }
    create = [_pod(workload, name) for name in sorted(wanted - set(good) - busy)]
    return Step(create=create, delete=gone, status=status)


def job(workload: Object, pods: Sequence[Object], now: datetime) -> Step:
    """A Job of one completion: tried until it succeeds, or until its policy or its limit ends it."""
    spec, before = workload["spec"], workload.get("status") or {}
    if any(
        c["status"] == "True" and c["type"] in ("Complete", "Failed") for c in before.get("conditions") or []
    ):
        return Step(status=before)
    succeeded = [pod for pod in pods if phase(pod) == "Succeeded"]
    failed = sorted((p for p in pods if phase(p) == "Failed"), key=lambda p: int(_attempt(p)))
    active = [pod for pod in pods if phase(pod) in ("Pending", "Running")]
    starts = [pod["status"]["startTime"] for pod in pods if (pod.get("status") or {}).get("startTime")]
    status: dict[str, Any] = {"active": len(active), "succeeded": len(succeeded), "failed": len(failed)}
    if starts:
        status["startTime"] = min(starts)
    if succeeded:
        status["completionTime"] = _terminated(succeeded[0]).get("finishedAt", now_text(now))
        status["conditions"] = [_condition("Complete", "CompletionsReached", "the pod succeeded", now)]
        return Step(status=status)
    if spec.get("suspend"):
        status["conditions"] = [_condition("Suspended", "JobSuspended", "spec.suspend is true", now)]
        return Step(delete=active, status=status)
    ending = _ending(spec, failed)
    if ending:
        status["conditions"] = [_condition("Failed", *ending, now)]
        return Step(delete=active, status=status)
    if active:
        return Step(status=status)
    wait = _wait(failed, now)
    if wait > 0:
        return Step(status=status, again=wait)
    attempt = 1 + max((int(_attempt(pod)) for pod in pods), default=-1)
    status["active"] = 1
    return Step(create=[_pod(workload, f"{workload['metadata']['name']}-{attempt}")], status=status)


def _attempt(pod: Object) -> str:
    return str(pod["metadata"]["name"].rpartition("-")[2])


def _ending(spec: Mapping[str, Any], failed: Sequence[Object]) -> tuple[str, str] | None:
    """Why a Job with these failures has failed for good: reason and message."""
    if not failed:
        return None
    code = exit_code(failed[-1])
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or []:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            if rule["action"] == "FailJob":
                return "PodFailurePolicy", f"exit code {code} is final"
            break
    if len(failed) > int(spec.get("backoffLimit", 6)):
        return "BackoffLimitExceeded", f"failed {len(failed)} times, last with exit code {code}"
    return None


def _wait(failed: Sequence[Object], now: datetime) -> float:
    """Seconds until the next attempt: 1, 2, 4, … 10 after the last failure."""
    if not failed:
        return 0.0
    ended = parse_time(_terminated(failed[-1]).get("finishedAt", now_text(now)))
    return min(10.0, 2.0 ** (len(failed) - 1)) - (now - ended).total_seconds()


def _condition(kind: str, reason: str, message: str, now: datetime) -> dict[str, Any]:
    stamp = now_text(now)
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": stamp}
