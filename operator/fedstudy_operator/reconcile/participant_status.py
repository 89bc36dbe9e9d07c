"""A SiteParticipant's status out of what was seen: children, and the agent's state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedstudy.agent.presence import SILENT_SECONDS
from fedstudy.wire.admin import AgentState
from fedstudy_operator.api.conditions import Condition, Reason, condition, merge
from fedstudy_operator.api.participant import SiteParticipant
from fedstudy_operator.children.trainer import REPLACES
from fedstudy_operator.cluster import Object
from fedstudy_operator.reconcile.causes import (
    held_back,
    job_end,
    last_words,
    runs_for,
    terminated,
    why_none,
    why_not,
)
from fedstudy_operator.reconcile.words import reason_of

_CONSENT = (Reason.APPROVED, Reason.WAITING_FOR_APPROVAL, Reason.DIGEST_MISMATCH, Reason.APPROVAL_EXPIRED)


@dataclass(frozen=True)
class JobSeen:
    """A Job, if there is one, and the latest of its pods; where there is none, why not."""

    job: Object | None = None
    pod: Object | None = None
    warnings: tuple[str, ...] = ()
    """What its controller complains of, where it has no pod."""

    @property
    def end(self) -> str:
        """`Complete`, `Failed`, or empty."""
        return job_end(self.job)

    @property
    def name(self) -> str:
        """Of the Job, or empty."""
        return str(self.job["metadata"]["name"]) if self.job else ""


@dataclass(frozen=True)
class Seen:
    """What a pass found.

    Attributes:
        missing: what the spec names and is not there: reason and message.
        invited: whether the invitation is there.
        agent_ready: whether the agent's pod is.
        cause: why it is not.
        state: what the agent said last, if ever.
        connected: whether it says so now.
        agent_pod: whether the agent's pod is there, ready or not.
    """

    missing: tuple[Reason, str] | None = None
    invited: bool = False
    agent_ready: bool = False
    cause: tuple[Reason, str] = (Reason.POD_PENDING, "")
    state: AgentState | None = None
    connected: bool = False
    agent_pod: bool = False
    plan_config_map: str = ""
    preflight: JobSeen = JobSeen()
    trainer: JobSeen = JobSeen()


def status(participant: SiteParticipant, previous: Mapping[str, Any], seen: Seen) -> dict[str, Any]:
    """The status; what the agent cannot tell now stays as it was."""
    generation = participant.metadata.generation
    result: dict[str, Any] = {"observedGeneration": generation}
    kept = ("offeredPlan", "certificate", "round", "lastMetrics", "ledgerHead")
    if seen.state is None:
        result |= {name: previous[name] for name in kept if name in previous}
    else:
        state = seen.state
        result |= {
            "offeredPlan": {"digest": state.plan_digest, "configMap": seen.plan_config_map},
            "certificate": {
                "notAfter": state.certificate_not_after,
                "fingerprint": state.certificate_fingerprint,
            },
            "round": state.round,
            "lastMetrics": state.metrics,
            "ledgerHead": state.ledger_head,
        }
    result["jobName"] = seen.trainer.name
    wanted = conditions(participant, seen, previous)
    result["conditions"] = merge(previous.get("conditions") or [], wanted, generation=generation)
    result["summary"] = _summary(seen, next(c for c in wanted if c.type == "Ready"))
    return {name: value for name, value in result.items() if value not in ("", None)}


def conditions(participant: SiteParticipant, seen: Seen, previous: Mapping[str, Any]) -> list[Condition]:
    """All conditions of the participant, each from its own cause."""
    before = {c["type"]: c for c in previous.get("conditions") or []}
    result = [
        _enrolled(seen),
        _hub(seen),
        _approved(participant, seen),
        _policy(seen),
        data_available(seen),
        _compute(seen),
        _training(participant, seen),
        _complete(seen, before),
    ]
    ready = _ready(participant, seen, {c.type: c for c in result})
    result.append(ready)
    if ready.status != "True":
        stuck = ready.reason in _STUCK
        result.append(
            condition("Stalled" if stuck else "Reconciling", True, Reason(ready.reason), ready.message)
        )
    return result


_STUCK = (
    Reason.INVALID_SPEC,
    Reason.INVITATION_REFUSED,
    Reason.REVOKED,
    Reason.CERTIFICATE_EXPIRED,
    Reason.POLICY_REFUSED,
    Reason.CONTRACT_MISMATCH,
    Reason.PREFLIGHT_FAILED,
    Reason.TRAINER_FAILED,
)
"""Waiting does not help: a person has to change something."""


def _enrolled(seen: Seen) -> Condition:
    state = seen.state
    if state is not None and state.enrolled:
        reason = reason_of(state.reason, Reason.CERTIFICATE_ISSUED)
        lost = reason in (Reason.REVOKED, Reason.CERTIFICATE_EXPIRED)
        return condition(
            "Enrolled", not lost, reason if lost else Reason.CERTIFICATE_ISSUED, state.message if lost else ""
        )
    if not seen.invited:
        return condition(
            "Enrolled",
            False,
            Reason.INVITATION_NOT_FOUND,
            "the hub lists this site in spec.sites of the study",
        )
    if state is None:
        return condition("Enrolled", None, Reason.PROGRESSING)
    return condition("Enrolled", False, reason_of(state.reason, Reason.ENROLLING), state.message)


def _hub(seen: Seen) -> Condition:
    state = seen.state
    if state is None:
        return condition("HubConnected", None, Reason.NOT_CONNECTED)
    if state.connected:
        return condition("HubConnected", True, Reason.CONNECTED)
    return condition("HubConnected", False, reason_of(state.reason, Reason.NOT_CONNECTED), state.message)


def _approved(participant: SiteParticipant, seen: Seen) -> Condition:
    state = seen.state
    if state is None or not state.plan_digest:
        return condition("PlanApproved", None, Reason.NO_PLAN)
    reason = reason_of(state.approval_reason, Reason.WAITING_FOR_APPROVAL)
    if state.approved or reason is Reason.POLICY_REFUSED:
        return condition("PlanApproved", state.approved, Reason.APPROVED if state.approved else reason)
    wanted = participant.spec.approval.plan_digest if participant.spec.approval else None
    if wanted and wanted != state.plan_digest:
        text = (
            f"the offered plan is {state.plan_digest}, but {wanted} is approved; look at what has changed,"
            " then approve the offered one in spec.approval.planDigest"
        )
    else:
        text = f"the offered plan is {state.plan_digest}; approve it in spec.approval.planDigest"
    return condition(
        "PlanApproved", False, reason if reason in _CONSENT else Reason.WAITING_FOR_APPROVAL, text
    )


def _policy(seen: Seen) -> Condition:
    state = seen.state
    if state is None or not state.plan_digest:
        return condition("PolicySatisfied", None, Reason.NO_PLAN)
    if state.violations:
        return condition("PolicySatisfied", False, Reason.POLICY_REFUSED, "; ".join(state.violations))
    return condition("PolicySatisfied", True, Reason.SATISFIED)


def data_available(seen: Seen) -> Condition:
    """Whether the data fit the plan, as the preflight found."""
    state, kind = seen.state, "DataAvailable"
    if state is None or not state.plan_digest:
        return condition(kind, None, Reason.NO_PLAN)
    profile = state.profile if state.profile and state.profile.plan_digest == state.plan_digest else None
    running = seen.preflight.job is not None and not seen.preflight.end
    if held := held_back(seen.preflight.job):
        return condition(kind, None, *held)
    if running and seen.preflight.pod is not None:
        reason, message = why_not(seen.preflight.pod)
        if reason is not Reason.POD_PENDING:
            return condition(kind, None if _tried_again(seen.preflight) else False, reason, message)
    if running and seen.preflight.pod is None:
        reason, message = why_none(seen.preflight.warnings)
        if reason is not Reason.POD_PENDING:
            return condition(kind, False, reason, message)
    if running or (seen.preflight.end == "Complete" and profile is None):
        return condition(kind, None, Reason.PREFLIGHT_RUNNING)
    if profile is not None and not profile.fits:
        return condition(kind, False, Reason.CONTRACT_MISMATCH, "; ".join(profile.faults))
    if seen.preflight.end == "Failed":
        return condition(kind, False, Reason.PREFLIGHT_FAILED, _failure(seen.preflight, ""))
    if profile is not None:
        return condition(kind, True, Reason.FITS, "; ".join(profile.warnings))
    return condition(kind, None, Reason.NOT_PROFILED)


def _tried_again(seen: JobSeen) -> bool:
    """Whether the last attempt of a Job that goes on has ended: another is on its way, so nothing is lost yet."""
    return not seen.end and ((seen.pod or {}).get("status") or {}).get("phase") == "Failed"


def _failure(seen: JobSeen, said: str) -> str:
    """Why a Job failed: what its agent was told, or its last words."""
    ended = terminated(seen.pod) if seen.pod else {}
    if ended.get("reason") == "OOMKilled":
        return "killed for memory; give it a larger limit, or a smaller batch"
    words = last_words(str(ended.get("message", "")))
    return said or words or f"exit code {ended.get('exitCode', 'unknown')}"


def silent_in(seen: Seen, now: datetime | None = None) -> float | None:
    """Seconds until the trainer that runs has to be given up as silent, 0 for now; None where it has not.

    The agent says that nobody who took the work gives a sign of life. That is about the trainer that runs if it is not one that
    was made because of this very silence, and has run long enough to have said something.
    """
    state, job = seen.state, seen.trainer.job
    if state is None or not state.trainer_silent or job is None or seen.trainer.end:
        return None
    if (job["metadata"].get("annotations") or {}).get(REPLACES) == state.trainer_last_seen:
        return None
    running = runs_for(seen.trainer.pod, now)
    return None if running is None else max(0.0, SILENT_SECONDS - running)


def _compute(seen: Seen) -> Condition:
    trainer, kind = seen.trainer, "ComputeAvailable"
    if trainer.job is None:
        return condition(kind, None, Reason.NO_WORK)
    if trainer.end == "Failed":
        oom = trainer.pod is not None and terminated(trainer.pod).get("reason") == "OOMKilled"
        reason = Reason.OUT_OF_MEMORY if oom else Reason.TRAINER_FAILED
        return condition(kind, False, reason, _failure(trainer, seen.state.failure if seen.state else ""))
    if trainer.end == "Complete":
        return condition(kind, True, Reason.NO_WORK)
    if held := held_back(trainer.job):
        return condition(kind, False, *held)
    if silent_in(seen) == 0.0 and seen.state is not None:
        text = f"the last sign of life of Job {trainer.name} for {seen.state.work} came at {seen.state.trainer_last_seen}"
        return condition(kind, False, Reason.TRAINER_SILENT, text)
    phase = ((trainer.pod or {}).get("status") or {}).get("phase")
    if phase == "Running":
        return condition(kind, True, Reason.SCHEDULED)
    if trainer.pod is None:
        reason, message = why_none(trainer.warnings)
        return condition(kind, None if reason is Reason.POD_PENDING else False, reason, message)
    reason, message = why_not(trainer.pod)
    return condition(kind, None if _tried_again(trainer) else False, reason, message)


def _training(participant: SiteParticipant, seen: Seen) -> Condition:
    state = seen.state
    if participant.spec.suspend:
        return condition("Training", False, Reason.SUSPENDED_BY_USER)
    if state is None or (not state.work and state.round == 0 and not state.finished):
        return condition("Training", False, Reason.NOT_STARTED)
    if state.finished:
        return condition("Training", False, Reason.COMPLETED)
    if state.work and seen.trainer.job is not None and not seen.trainer.end:
        return condition("Training", True, Reason.ROUND_IN_PROGRESS, state.work)
    if state.work:
        return condition("Training", False, Reason.NOT_STARTED, f"{state.work} waits for a trainer")
    return condition("Training", False, Reason.IDLE)


def _complete(seen: Seen, before: Mapping[str, Mapping[str, Any]]) -> Condition:
    if seen.state is None and before.get("Complete", {}).get("status") == "True":
        return condition("Complete", True, Reason.COMPLETED)
    if seen.state is not None and seen.state.finished:
        return condition("Complete", True, Reason.COMPLETED)
    return condition("Complete", False, Reason.NOT_COMPLETE)


def _ready(participant: SiteParticipant, seen: Seen, by_type: Mapping[str, Condition]) -> Condition:
    if by_type["Complete"].status == "True":
        return condition("Ready", True, Reason.COMPLETED)
    if seen.missing is not None:
        return condition("Ready", False, *seen.missing)
    if participant.spec.suspend:
        return condition("Ready", True, Reason.SUSPENDED_BY_USER)
    if by_type["Enrolled"].reason == Reason.INVITATION_NOT_FOUND:
        return condition("Ready", False, Reason.INVITATION_NOT_FOUND, by_type["Enrolled"].message)
    if seen.state is None or not seen.connected:
        reason, message = seen.cause
        known = seen.state is not None or reason is not Reason.POD_PENDING
        return condition("Ready", False if known else None, reason if known else Reason.PROVISIONING, message)
    for kind in ("Enrolled", "HubConnected", "PolicySatisfied", "PlanApproved", "DataAvailable"):
        if by_type[kind].status != "True":
            return condition("Ready", False, Reason(by_type[kind].reason), by_type[kind].message)
    if (
        by_type["ComputeAvailable"].status == "False"
        and by_type["ComputeAvailable"].reason != Reason.POD_PENDING
    ):
        return condition(
            "Ready", False, Reason(by_type["ComputeAvailable"].reason), by_type["ComputeAvailable"].message
        )
    return condition("Ready", True, Reason.PARTICIPATING if seen.state.work else Reason.IDLE)


def _summary(seen: Seen, ready: Condition) -> str:
    if seen.state is not None and seen.state.work and ready.status == "True":
        return f"round {seen.state.round}: {seen.state.work}"
    return str(ready.reason)
