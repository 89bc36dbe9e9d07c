"""`kubectl fedstudy status`: studies with their sites, and a hospital's parts, as tables made from what the resources say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedstudy_operator.cluster import Object
from fedstudy_operator.commands.access import Access
from fedstudy_operator.display import size
from fedstudy_operator.reconcile.words import main_metric

_STYLES = {"True": "green", "False": "yellow", "Unknown": "dim"}


async def look(access: Access, name: str = "", *, everywhere: bool = False) -> RenderableType:
    """What is going on now: of one study or participant, or of all of a namespace, or of the cluster.

    Raises:
        ManifestError: nothing has that name.
    """
    if name:
        found = [
            obj
            for kind in ("FederatedStudy", "SiteParticipant")
            if (obj := await access.find(kind, name)) is not None
        ]
        if not found:
            await access.get("FederatedStudy", name)  # says what is missing
        studies = [obj for obj in found if obj["kind"] == "FederatedStudy"]
        participants = [obj for obj in found if obj["kind"] == "SiteParticipant"]
    else:
        studies = await access.list("FederatedStudy", everywhere=everywhere)
        participants = await access.list("SiteParticipant", everywhere=everywhere)
    return show(studies, participants, datetime.now(UTC), sites=bool(name))


def show(
    studies: Sequence[Object], participants: Sequence[Object], now: datetime, *, sites: bool
) -> RenderableType:
    """The tables.

    Args:
        sites: also each study's sites, one a row.
    """
    parts: list[RenderableType] = []
    if studies:
        parts.append(
            _table(
                ("study", "ready", "reason", "round", "sites", "metric", "age"),
                [study_row(s, now) for s in studies],
            )
        )
    for study in studies:
        rows = [site_row(site) for site in (study.get("status") or {}).get("sites") or []]
        if sites and rows:
            parts.append(_table(("site", "state", "round", "cases", "received", "reason"), rows))
        parts += _why(study)
    if participants:
        header = ("participant", "ready", "reason", "study", "site", "round", "approved", "age")
        parts.append(_table(header, [participant_row(p, now) for p in participants]))
        parts += [line for p in participants for line in _why(p)]
    return Group(*parts) if parts else Text("Nothing of fedstudy is here.")


def study_row(study: Object, now: datetime) -> list[str]:
    """A study's cells."""
    status = study.get("status") or {}
    rounds, sites = status.get("round") or {}, status.get("sites") or []
    ready, reason = condition(study, "Ready")
    listed = len(study["spec"].get("sites") or [])
    connected = sum(1 for site in sites if site.get("connected"))
    shown = main_metric({m["name"]: float(m["value"]) for m in status.get("metrics") or []})
    return [
        _name(study),
        ready,
        reason,
        f"{rounds.get('completed', 0)}/{rounds.get('total') or study['spec'].get('federation', {}).get('rounds', '?')}",
        f"{connected}/{listed}",
        f"{shown[0]} {shown[1]:.3f}" if shown else "–",
        age(study, now),
    ]


def site_row(site: Mapping[str, Any]) -> list[str]:
    """A site's cells, as its hub sees it."""
    state = str(site.get("state") or site.get("decision") or "")
    if not site.get("connected") and state not in ("Invited", "Enrolled", "Done", "Revoked"):
        state = f"{state} (lost)"
    return [
        str(site["name"]),
        state,
        str(site.get("lastRound") or "–"),
        str(site.get("samplesBucket") or "–"),
        size(int(site.get("bytes") or 0)),
        str(site.get("reason") or ""),
    ]


def participant_row(participant: Object, now: datetime) -> list[str]:
    """A participant's cells, as its hospital sees it."""
    spec, status = participant["spec"], participant.get("status") or {}
    ready, reason = condition(participant, "Ready")
    approved, why = condition(participant, "PlanApproved")
    return [
        _name(participant),
        ready,
        reason,
        str((spec.get("study") or {}).get("name", "")),
        str(spec.get("siteName", "")),
        str(status.get("round") or "–"),
        "yes" if approved == "True" else why or "no",
        age(participant, now),
    ]


def condition(obj: Object, kind: str) -> tuple[str, str]:
    """A condition's status and reason; Unknown where it is not there."""
    for entry in (obj.get("status") or {}).get("conditions") or []:
        if entry.get("type") == kind:
            return str(entry.get("status", "Unknown")), str(entry.get("reason", ""))
    return "Unknown", ""


def age(obj: Object, now: datetime) -> str:
    """How long an object is there, as kubectl says it: 45s, 12m, 3h, 9d."""
    text = obj["metadata"].get("creationTimestamp")
    if not text:
        return "–"
    seconds = max(0, int((now - datetime.fromisoformat(text)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _why(obj: Object) -> list[Text]:
    """The sentence of Ready where it is not true."""
    for entry in (obj.get("status") or {}).get("conditions") or []:
        if entry.get("type") == "Ready" and entry.get("status") != "True" and entry.get("message"):
            return [Text(f"{_name(obj)}: {entry['message']}", style="yellow")]
    return []


def _name(obj: Object) -> str:
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in header:
        table.add_column(
            name,
            no_wrap=True,
            justify="right" if name in ("round", "sites", "cases", "received", "age") else "left",
        )
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table
