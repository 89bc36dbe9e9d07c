"""Why a pod does not do what it should, as a typed reason. Pure functions over Pods and Jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedstudy_operator.api.conditions import Reason
from fedstudy_operator.cluster import Object

_WAITING = {
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "CrashLoopBackOff": Reason.CRASH_LOOPING,
    "ClaimNotFound": Reason.CLAIM_NOT_FOUND,
}
_WORDS = 1000


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
            return Reason.UNSCHEDULABLE, str(condition.get("message", ""))
    if ended.get("exitCode"):
        return Reason.CRASH_LOOPING, words
    return Reason.POD_PENDING, str(waiting.get("message") or "the pod is not running yet")


def job_end(job: Object | None) -> str:
    """`Complete`, `Failed`, or empty where it goes on or is not there."""
    for condition in ((job or {}).get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return ""


def latest(pods: Sequence[Object]) -> Object | None:
    """The pod that was made last."""
    return max(pods, key=lambda pod: int(pod["metadata"].get("resourceVersion", 0)), default=None)
