"""A FederatedStudy's status out of what was seen: children, and the aggregator's state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedstudy.wire.admin import AggregatorState, Phase, SiteState
from fedstudy_operator.api.conditions import Condition, Reason, condition, merge
from fedstudy_operator.api.study import FederatedStudy
from fedstudy_operator.reconcile.words import main_metric, reason_of

_ENDED = (Phase.COMPLETE, Phase.FAILED)
_BUSY = (Phase.PROLOGUE, Phase.TRAINING, Phase.EPILOGUE)
_NOT_ENROLLED = ("Invited", "Revoked")
_BUCKETS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class Seen:
    """What a pass found.

    Attributes:
        certificates: whether those are there that the aggregator and the operator need.
        fault: why no further ones can be signed; None where they can.
        ready: whether the aggregator's pod is.
        cause: why it is not.
        state: what the aggregator said last, if ever.
        connected: whether it says so now.
    """

    plan_digest: str = ""
    endpoint: str = ""
    ca_fingerprint: str = ""
    certificates: bool = False
    fault: tuple[Reason, str] | None = None
    ready: bool = False
    cause: tuple[Reason, str] = (Reason.POD_PENDING, "")
    state: AggregatorState | None = None
    connected: bool = False
    sites: tuple[str, ...] = field(default=())


def bucket(samples: int) -> str:
    """About how many, so that a status tells nobody the exact number."""
    if samples <= 0:
        return ""
    below = [edge for edge in _BUCKETS if samples >= edge]
    above = [edge for edge in _BUCKETS if samples < edge]
    if not below:
        return f"<{_BUCKETS[0]}"
    return f"{below[-1]}-{above[0] - 1}" if above else f">={_BUCKETS[-1]}"


def status(study: FederatedStudy, previous: Mapping[str, Any], seen: Seen) -> dict[str, Any]:
    """The status; what the aggregator cannot tell now stays as it was."""
    result: dict[str, Any] = {
        "observedGeneration": study.metadata.generation,
        "planDigest": seen.plan_digest,
        "endpoint": seen.endpoint,
        "caFingerprint": seen.ca_fingerprint,
    }
    if seen.state is not None:
        result |= _progress(study, seen.state)
    else:
        result |= {n: previous[n] for n in ("round", "sites", "metrics", "model") if n in previous}
    wanted = conditions(study, seen, previous)
    result["conditions"] = merge(
        previous.get("conditions") or [], wanted, generation=study.metadata.generation
    )
    result["columns"] = columns(study, result)
    return {name: value for name, value in result.items() if value not in ("", None)}


def _progress(study: FederatedStudy, state: AggregatorState) -> dict[str, Any]:
    completed = state.rounds if state.phase is Phase.COMPLETE else max(0, state.round - 1)
    if state.phase in (Phase.EPILOGUE, Phase.COMPLETE):
        completed = state.model_round
    known = {site.name: site for site in state.sites}
    names = sorted({site.name for site in study.spec.sites} | set(known))
    return {
        "round": {
            "current": state.round,
            "completed": completed,
            "total": state.rounds,
            "startTime": state.round_started,
        },
        "sites": [_site(known.get(name) or SiteState(name=name)) for name in names],
        "metrics": [
            {"name": name, "value": value, "round": state.metrics_round}
            for name, value in sorted(state.metrics.items())
        ],
        "model": {"digest": state.model_digest, "round": state.model_round},
    }


def _site(site: SiteState) -> dict[str, Any]:
    decision = site.state if site.state in _NOT_ENROLLED else "Enrolled"
    return {
        "name": site.name,
        "decision": decision,
        "state": site.state,
        "connected": site.connected,
        "lastSeen": site.last_seen,
        "lastRound": site.last_round,
        "samplesBucket": bucket(site.samples),
        "bytes": site.bytes_in,
        "reason": site.reason[:256],
    }


def conditions(study: FederatedStudy, seen: Seen, previous: Mapping[str, Any]) -> list[Condition]:
    """All conditions of the study, each from its own cause."""
    before = {c["type"]: c for c in previous.get("conditions") or []}
    aggregator = (
        condition("AggregatorReady", True, Reason.AVAILABLE)
        if seen.ready and seen.connected
        else condition("AggregatorReady", False, *seen.cause)
    )
    result = [_certificates(seen), aggregator, _sites(study, seen), _quorum(study, seen)]
    result += [_training(seen), _suspended(study, seen), *_terminal(seen, before)]
    ready = _ready(study, seen, result)
    result.append(ready)
    if ready.status != "True":
        stuck = ready.reason in (Reason.FAILED, Reason.INVALID_SPEC, Reason.AUTHORITY_LOST)
        result.append(
            condition("Stalled" if stuck else "Reconciling", True, Reason(ready.reason), ready.message)
        )
    return result


def invalid(study: Mapping[str, Any], message: str) -> dict[str, Any]:
    """The status of a study whose spec contradicts itself."""
    generation = int(study["metadata"].get("generation", 1))
    before = (study.get("status") or {}).get("conditions") or []
    wanted = [
        condition(kind, kind == "Stalled", Reason.INVALID_SPEC, message) for kind in ("Ready", "Stalled")
    ]
    return {
        **(study.get("status") or {}),  # who is trusted, and who was invited, is true still
        "observedGeneration": generation,
        "conditions": merge(before, wanted, generation=generation),
    }


def _certificates(seen: Seen) -> Condition:
    if seen.fault is not None:
        return condition("CertificatesReady", False, *seen.fault)
    if seen.certificates:
        return condition("CertificatesReady", True, Reason.ISSUED)
    return condition("CertificatesReady", None, Reason.ISSUING)


def _sites(study: FederatedStudy, seen: Seen) -> Condition:
    listed = [site.name for site in study.spec.sites]
    if not listed:
        return condition("SitesApproved", False, Reason.NO_SITES, "list the hospitals in spec.sites")
    if seen.state is None:
        return condition("SitesApproved", None, Reason.WAITING_FOR_SITES)
    enrolled = {site.name for site in seen.state.sites if site.state not in _NOT_ENROLLED}
    missing = sorted(set(listed) - enrolled)
    if missing:
        return condition(
            "SitesApproved", False, Reason.WAITING_FOR_SITES, f"not enrolled: {', '.join(missing)}"
        )
    return condition("SitesApproved", True, Reason.ALL_APPROVED)


def _quorum(study: FederatedStudy, seen: Seen) -> Condition:
    state, least = seen.state, study.spec.federation.min_sites
    if state is None:
        return condition("QuorumReached", None, Reason.NOT_STARTED)
    connected = sum(site.connected for site in state.sites)
    text = f"{connected} of {len(study.spec.sites)} sites connected; {least} needed"
    if state.reason == Reason.QUORUM_MISSING:
        return condition("QuorumReached", False, Reason.QUORUM_MISSING, state.message or text)
    if state.phase in _ENDED or connected >= least:
        return condition("QuorumReached", True, Reason.ENOUGH_SITES, "" if state.phase in _ENDED else text)
    return condition("QuorumReached", False, Reason.TOO_FEW_SITES, text)


def _training(seen: Seen) -> Condition:
    state = seen.state
    if state is None or state.phase is Phase.WAITING_FOR_SITES:
        return condition("Training", False, Reason.NOT_STARTED)
    if state.phase in _BUSY:
        if state.reason == Reason.NO_SPACE:
            return condition("Training", False, Reason.NO_SPACE, state.message)
        where = (
            f"round {state.round} of {state.rounds}" if state.phase is Phase.TRAINING else state.phase.value
        )
        return condition("Training", True, Reason.ROUND_IN_PROGRESS, where)
    if state.phase is Phase.SUSPENDED:
        return condition("Training", False, reason_of(state.reason, Reason.SUSPENDED_BY_USER), state.message)
    ended = Reason.COMPLETED if state.phase is Phase.COMPLETE else Reason.FAILED
    return condition("Training", False, ended)


def _suspended(study: FederatedStudy, seen: Seen) -> Condition:
    if study.spec.suspend:
        waiting = seen.state is not None and seen.state.phase in _BUSY
        text = "after what is under way" if waiting else ""
        return condition("Suspended", True, Reason.SUSPENDED_BY_USER, text)
    return condition("Suspended", False, Reason.NOT_SUSPENDED)


def _terminal(seen: Seen, before: Mapping[str, Mapping[str, Any]]) -> list[Condition]:
    """Complete and Failed: once True, they stay, whoever cannot be asked now."""
    if seen.state is None:
        kept = [Condition.model_validate(before[k]) for k in ("Complete", "Failed") if k in before]
        if len(kept) == 2:
            return kept
    phase = seen.state.phase if seen.state else None
    reason, message = (seen.state.reason, seen.state.message) if seen.state else ("", "")
    complete = (
        condition("Complete", True, reason_of(reason, Reason.ROUNDS_COMPLETED), message)
        if phase is Phase.COMPLETE
        else condition("Complete", False, Reason.NOT_COMPLETE)
    )
    failed = (
        condition("Failed", True, Reason.FAILED, f"{reason}: {message}" if reason else message)
        if phase is Phase.FAILED
        else condition("Failed", False, Reason.NOT_FAILED)
    )
    return [complete, failed]


def _ready(study: FederatedStudy, seen: Seen, others: list[Condition]) -> Condition:
    """A lost authority stops nobody who has a certificate; where the study stands still, it is what a person has to see to first."""
    found = _without_fault(study, seen, others)
    if seen.fault is None or found.status == "True" or found.reason == Reason.FAILED:
        return found
    waits = seen.certificates and seen.state is None  # it may only not have answered yet
    return found if waits else condition("Ready", False, *seen.fault)


def _without_fault(study: FederatedStudy, seen: Seen, others: list[Condition]) -> Condition:
    by_type = {c.type: c for c in others}
    if by_type["Complete"].status == "True":
        return condition("Ready", True, Reason.COMPLETED, by_type["Complete"].message)
    if by_type["Failed"].status == "True":
        return condition("Ready", False, Reason.FAILED, by_type["Failed"].message)
    if not seen.certificates or seen.state is None:
        aggregator = by_type["AggregatorReady"]
        text = f"aggregator: {aggregator.reason}. {aggregator.message}" if seen.certificates else ""
        return condition("Ready", None, Reason.PROVISIONING, text)
    if not (seen.ready and seen.connected):
        return condition("Ready", False, Reason(by_type["AggregatorReady"].reason), seen.cause[1])
    if study.spec.suspend:
        return condition("Ready", True, Reason.SUSPENDED_BY_USER)
    for kind in ("SitesApproved", "QuorumReached"):
        if by_type[kind].reason in (Reason.NO_SITES, Reason.QUORUM_MISSING):
            return condition("Ready", False, Reason(by_type[kind].reason), by_type[kind].message)
    if seen.state.phase is Phase.WAITING_FOR_SITES:
        return condition(
            "Ready", False, Reason.WAITING_FOR_SITES, seen.state.message or by_type["QuorumReached"].message
        )
    if seen.state.reason == Reason.NO_SPACE:
        return condition("Ready", False, Reason.NO_SPACE, seen.state.message)
    return condition("Ready", True, Reason.RUNNING)


def columns(study: FederatedStudy, status: Mapping[str, Any]) -> dict[str, str]:
    """How it is going, in three cells: rounds closed, sites connected, and the metric that people ask for first."""
    rounds, sites = status.get("round") or {}, status.get("sites") or []
    connected = sum(bool(site.get("connected")) for site in sites)
    shown = main_metric({metric["name"]: metric["value"] for metric in status.get("metrics") or []})
    return {
        "round": f"{rounds.get('completed', 0)}/{rounds.get('total') or study.spec.federation.rounds}",
        "sites": f"{connected}/{len(study.spec.sites)}",
        "metric": f"{shown[0]} {shown[1]:.3f}" if shown else "",
    }
