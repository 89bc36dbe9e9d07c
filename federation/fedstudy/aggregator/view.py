"""The state as the operator sees it."""

from __future__ import annotations

from datetime import UTC, datetime

from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.state import Kind, Stage, State
from fedstudy.wire.admin import AggregatorState, Phase, SiteProgress, SiteState

_WORDS = {
    Kind.STATISTICS: "Statistics",
    Kind.INITIALISE: "Initialising",
    Kind.TRAIN: "Training",
    Kind.EVALUATE: "Evaluating",
}


def aggregator_state(engine: Engine, enrolments: Enrolments) -> AggregatorState:
    """The whole state of a study, now."""
    state, trouble = engine.state, engine.trouble
    received, sent = engine.traffic_total()
    return AggregatorState(
        phase=state.phase,
        reason="NoSpace" if trouble else state.reason,
        message=str(trouble) if trouble else state.message,
        plan_digest=engine.plan_digest,
        round=state.round,
        rounds=engine.rules.rounds,
        started=rfc3339(state.started),
        round_started=rfc3339(state.round_started),
        finished=rfc3339(state.finished),
        sites=_sites(engine, enrolments.enrolled()),
        pending=enrolments.pending(),
        metrics=dict(engine.metrics.get("metrics", {})),
        metrics_round=int(engine.metrics.get("round", 0)),
        model_digest=state.model.digest if state.model else "",
        model_round=state.model_round,
        bytes_in=received,
        bytes_out=sent,
        seconds_left=_seconds_left(engine),
        refusals=engine.refusals,
    )


def rfc3339(seconds: float) -> str:
    """A time as text; empty for 0."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sites(engine: Engine, enrolled: set[str]) -> list[SiteState]:
    state, rows = engine.state, engine.store.sites()
    per_site: dict[str, dict[str, float]] = {
        entry["site"]: entry["metrics"] for entry in engine.metrics.get("sites", [])
    }
    result = []
    for site in sorted({*state.sites, *rows}):
        row = rows.get(site, ("", 0, 0))
        extra = engine.traffic.get(site, (0, 0))
        share = state.shares.get(site)
        result.append(
            SiteState(
                name=site,
                connected=site in state.connected,
                last_seen=row[0],
                state=_word(state, site, bool(row[0]) or site in enrolled, bool(row[0])),
                last_round=state.last_rounds.get(site, 0),
                samples=share.samples if share else 0,
                bytes_in=row[1] + extra[0],
                bytes_out=row[2] + extra[1],
                reason=_reason(engine, site),
                progress=engine.progress.get(site, SiteProgress()),
                metrics=per_site.get(site, {}),
            )
        )
    return result


def _word(state: State, site: str, enrolled: bool, seen: bool) -> str:
    if site not in state.sites:
        return "Revoked"
    if not enrolled:
        return "Invited"
    if state.phase is Phase.COMPLETE:
        return "Done"
    stage = state.stage
    if stage is not None and site in stage.missing:
        return "Failed"
    if site in state.late:
        return "Late"
    if stage is not None and site in stage.sites and site not in stage.answers and site in state.connected:
        return _WORDS[stage.kind]
    return "Idle" if seen else "Enrolled"


def _reason(engine: Engine, site: str) -> str:
    stage: Stage | None = engine.state.stage
    if stage is not None and site in stage.missing:
        return stage.missing[site]
    if site in engine.state.late:
        return "NoAnswer" if site in engine.state.connected else "Disconnected"
    return engine.remarks.get(site, "")


def _seconds_left(engine: Engine) -> float | None:
    """From the mean length of the rounds so far; None before the first has closed."""
    state = engine.state
    if state.over:
        return 0.0
    done = state.round - (state.cursor < len(state.round_stages))
    if done < 1 or not state.first_round_started:
        return None
    mean = (engine.clock() - state.first_round_started) / done
    return max(0.0, mean * (engine.rules.rounds - done))
