"""Why a pod does not do what it should, as a typed reason. Pure functions over Pods and Jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedstudy_operator.api.conditions import Reason
from fedstudy_operator.children.trainer import QUEUE
from fedstudy_operator.cluster import Object

_WAITING = {
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "CrashLoopBackOff": Reason.CRASH_LOOPING,
    "ClaimNotFound": Reason.CLAIM_NOT_FOUND,
}
_WORDS = 1000
_NOT_RUNNING = "the pod is not running yet"
"""Also of one that is not there yet: a status that told them apart would be written once more for each pod."""
NO_POD_SECONDS = 10.0
"""How often to ask why there is no pod: its controller only says so in events, which are not watched."""


def last_words(text: str) -> str:
    """What a process said at its end: its last error, where it logs as we do, else its last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        entry = _entry(line)
        if entry.get("level") in ("error", "critical"):
            words = [entry.get("event", ""), entry.get("message", ""), entry.get("remedy", "")]
            return " ".join(str(word) for word in words if word)[:_WORDS]
    return (_entry(lines[-1]).get("event") or lines[-1])[:_WORDS] if lines else ""


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _container(pod: Object) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    first: Mapping[str, Any] = statuses[0]
    return first


def terminated(pod: Object) -> Mapping[str, Any]:
    """How the pod's container ended, now or the last time; empty where it never has."""
    container = _container(pod)
    for state in ("state", "lastState"):
        ended: Mapping[str, Any] = (container.get(state) or {}).get("terminated") or {}
        if ended:
            return ended
    return {}


def why_not(pod: Object) -> tuple[Reason, str]:
    """Why a pod is not ready."""
    waiting = (_container(pod).get("state") or {}).get("waiting") or {}
    ended = terminated(pod)
    words = last_words(str(ended.get("message", "")))
    if ended.get("reason") == "OOMKilled":
        return Reason.OUT_OF_MEMORY, "killed for memory; give it a larger limit, or a smaller batch"
    if waiting.get("reason") in _WAITING:
        reason = _WAITING[waiting["reason"]]
        return reason, words if reason is Reason.CRASH_LOOPING else str(waiting.get("message", ""))
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message", ""))
            missing = "persistentvolumeclaim" in message and "not found" in message
            return Reason.CLAIM_NOT_FOUND if missing else Reason.UNSCHEDULABLE, message
    if ended.get("exitCode"):
        return Reason.CRASH_LOOPING, words
    return Reason.POD_PENDING, str(waiting.get("message") or _NOT_RUNNING)


def has_node(pod: Object) -> bool:
    """Whether a pod has its node: one that does not run there may lack something that it mounts."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "PodScheduled" and entry["status"] == "True" for entry in conditions)


def waits_for_volumes(pod: Object) -> bool:
    """Whether a pod has its node and its container is not made yet: no event tells what it waits for."""
    state = _container(pod).get("state") or {}
    reason = (state.get("waiting") or {}).get("reason", "ContainerCreating")
    return has_node(pod) and not terminated(pod) and "running" not in state and reason == "ContainerCreating"


def why_none(warnings: Sequence[str]) -> tuple[Reason, str]:
    """Why a StatefulSet or a Job has no pod, from what its controller complains of."""
    last = warnings[-1] if warnings else ""
    full = next((text for text in reversed(warnings) if "exceeded quota" in text), "")
    if full and full == last:
        return Reason.QUOTA_EXCEEDED, full[:_WORDS]
    return Reason.POD_PENDING, last[:_WORDS] or _NOT_RUNNING


def held_back(job: Object | None) -> tuple[Reason, str] | None:
    """Why a Job is not to have a pod now, where its queue, or a person, holds it back; None where nobody does."""
    if job is None or job_end(job) or not job["spec"].get("suspend"):
        return None
    metadata = job["metadata"]
    queue = (metadata.get("labels") or {}).get(QUEUE)
    who = f"the queue {queue} has not admitted it yet" if queue else "somebody has set its spec.suspend"
    return Reason.WAITING_FOR_QUEUE, f"Job {metadata['name']} is suspended: {who}"


def job_end(job: Object | None) -> str:
    """`Complete`, `Failed`, or empty where it goes on or is not there."""
    for condition in ((job or {}).get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return ""


def ended_for(job: Object, now: datetime | None = None) -> float:
    """Seconds since a Job ended; 0 where it does not say when."""
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition.get("lastTransitionTime"):
            end = datetime.fromisoformat(condition["lastTransitionTime"])
            return ((now or datetime.now(UTC)) - end).total_seconds()
    return 0.0


def runs_for(pod: Object | None, now: datetime | None = None) -> float | None:
    """Seconds since a pod's container began; None where it does not run."""
    running = (_container(pod or {}).get("state") or {}).get("running") or {}
    if not running.get("startedAt"):
        return None
    return ((now or datetime.now(UTC)) - datetime.fromisoformat(running["startedAt"])).total_seconds()


def latest(pods: Sequence[Object]) -> Object | None:
    """The pod that was made last."""
    return max(pods, key=lambda pod: int(pod["metadata"].get("resourceVersion", 0)), default=None)
