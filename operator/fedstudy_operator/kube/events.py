"""Events of Kubernetes for changed conditions: one series for each cause, a bounded number, never in the way of a pass."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fedstudy.logs import log
from fedstudy_operator.api.conditions import Reason
from fedstudy_operator.cluster import (
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    Key,
    NotFoundError,
    Object,
)
from fedstudy_operator.kube.api import UnavailableError
from fedstudy_operator.kube.client import KubernetesCluster, NotLeaderError
from fedstudy_operator.kube.kinds import KINDS

_logger = logging.getLogger(__name__)

PER_MINUTE = 10
"""Most events of one object in a minute."""
_WAITING = 1000

WARNINGS = frozenset(
    {
        Reason.INVALID_SPEC, Reason.STUDY_NOT_FOUND, Reason.DATASET_NOT_FOUND, Reason.UNSCHEDULABLE,
        Reason.IMAGE_PULL_FAILED, Reason.CRASH_LOOPING, Reason.OUT_OF_MEMORY, Reason.QUORUM_MISSING, Reason.NO_SPACE,
        Reason.FAILED, Reason.INVITATION_REFUSED, Reason.CERTIFICATE_EXPIRED, Reason.REVOKED, Reason.DIAL_FAILED,
        Reason.DIGEST_MISMATCH, Reason.APPROVAL_EXPIRED, Reason.POLICY_REFUSED, Reason.PREFLIGHT_FAILED,
        Reason.CONTRACT_MISMATCH, Reason.CLAIM_NOT_FOUND, Reason.TRAINER_FAILED, Reason.TRAINER_SILENT,
        Reason.QUOTA_EXCEEDED, Reason.AUTHORITY_LOST,
    }
)  # fmt: skip
"""Reasons that somebody has to do something about."""


@dataclass(frozen=True)
class Note:
    """What is to be said about an object."""

    regarding: Object
    reason: str
    note: str
    warning: bool


def notes(before: Object, now: Object) -> list[Note]:
    """What has changed in the conditions of an object, as events. Pure.

    A condition that is there for the first time has not changed: of those only Ready is told, and what somebody has to see to.
    """
    old = {
        entry["type"]: (entry["status"], entry["reason"])
        for entry in (before.get("status") or {}).get("conditions") or []
    }
    found: dict[str, Note] = {}
    for entry in (now.get("status") or {}).get("conditions") or []:
        if old.get(entry["type"]) == (entry["status"], entry["reason"]):
            continue
        if entry["type"] not in old and entry["type"] != "Ready" and entry["reason"] not in WARNINGS:
            continue
        text = f"{entry['type']} is {entry['status']}"
        text += f": {entry['message']}" if entry.get("message") else ""
        found.setdefault(
            entry["reason"], Note(now, entry["reason"], text[:1024], entry["reason"] in WARNINGS)
        )
    return list(found.values())


class Recorder:
    """Writes events, in the background.

    Args:
        cluster: where they are written.
        identity: this replica.
        clock: monotonic seconds.
    """

    def __init__(
        self, cluster: KubernetesCluster, identity: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._identity = identity
        self._clock = clock
        self._waiting: asyncio.Queue[Note] = asyncio.Queue(_WAITING)
        self._recent: dict[str, deque[float]] = {}

    def changed(self, before: Object, now: Object) -> None:
        """A status was written."""
        for note in notes(before, now):
            if self._allowed(note):
                try:
                    self._waiting.put_nowait(note)
                except asyncio.QueueFull:
                    log(_logger, logging.WARNING, "EventDropped", reason=note.reason)

    async def run(self) -> None:
        """Write until cancelled; an event that cannot be written is logged, and no more."""
        while True:
            note = await self._waiting.get()
            try:
                await self._write(note)
            except (
                NotFoundError, ConflictError, InvalidObjectError, ForbiddenError, UnavailableError, NotLeaderError,
            ) as error:  # fmt: skip
                log(_logger, logging.WARNING, "EventNotWritten", reason=note.reason, error=str(error))

    def _allowed(self, note: Note) -> bool:
        now = self._clock()
        recent = self._recent.setdefault(note.regarding["metadata"]["uid"], deque())
        while recent and now - recent[0] > 60:
            recent.popleft()
        if len(recent) >= PER_MINUTE:
            return False
        recent.append(now)
        if len(self._recent) > 10_000:
            self._recent = {uid: times for uid, times in self._recent.items() if now - times[-1] <= 60}
        return True

    async def _write(self, note: Note) -> None:
        """A first event, or one more in its series."""
        event = self._event(note)
        metadata = event["metadata"]
        try:
            await self._cluster.create(event)
        except ConflictError:
            key = Key("Event", metadata["namespace"], metadata["name"])
            there = await self._cluster.get(key)
            count = int((there.get("series") or {}).get("count") or 1) + 1
            series = {"count": count, "lastObservedTime": event["eventTime"]}
            await self._cluster.merge(key, {"series": series})

    def _event(self, note: Note) -> Object:
        about = note.regarding["metadata"]
        cause = hashlib.sha256(f"{about['uid']}/{note.reason}/{note.note}".encode()).hexdigest()[:16]
        return {
            "apiVersion": KINDS["Event"].api_version,
            "kind": "Event",
            "metadata": {"name": f"{about['name'][:200]}.{cause}", "namespace": about["namespace"]},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "fedstudy.io/operator",
            "reportingInstance": self._identity[:128],
            "action": "Reconcile",
            "reason": note.reason,
            "note": note.note,
            "type": "Warning" if note.warning else "Normal",
            "regarding": {
                "apiVersion": note.regarding["apiVersion"],
                "kind": note.regarding["kind"],
                "name": about["name"],
                "namespace": about["namespace"],
                "uid": about["uid"],
            },
        }
