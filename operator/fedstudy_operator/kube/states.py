"""How studies and participants are, as metrics: what alerts and dashboards ask about, out of the statuses that the operator has in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedstudy_operator.cluster import Object

CONDITIONS = ("Ready", "Reconciling", "Stalled", "HubConnected", "Complete", "Failed")
"""The conditions that are shown; one that is Unknown is left out."""
_WHERE = ["namespace", "name"]


class States(Collector):
    """The state of each resource at the moment of asking.

    Args:
        ours: the custom resources that the operator knows, with their statuses.
    """

    def __init__(self, ours: Callable[[], Iterable[Object]]) -> None:
        self._ours = ours

    def describe(self) -> Iterator[Metric]:
        """Names and labels, without values: asked for at registration."""
        yield from _families()

    def collect(self) -> Iterator[Metric]:
        """As prometheus-client asks for them."""
        families = _families()
        for obj in self._ours():
            _add(obj, *families)
        yield from families


_Families = tuple[
    GaugeMetricFamily,
    GaugeMetricFamily,
    GaugeMetricFamily,
    GaugeMetricFamily,
    CounterMetricFamily,
    GaugeMetricFamily,
]


def _families() -> _Families:
    return (
        GaugeMetricFamily(
            "fedstudy_condition",
            "1 where a condition is True, 0 where it is False.",
            labels=["kind", *_WHERE, "type", "reason"],
        ),
        GaugeMetricFamily("fedstudy_round", "The round that a study or a participant is in.", labels=["kind", *_WHERE]),
        GaugeMetricFamily("fedstudy_rounds", "The rounds that a study has in all.", labels=_WHERE),
        GaugeMetricFamily(
            "fedstudy_site_connected",
            "1 where a hospital is connected to a study that is not over.",
            labels=[*_WHERE, "site"],
        ),
        CounterMetricFamily(
            "fedstudy_site_received_bytes", "Bytes that a study has received from a hospital.", labels=[*_WHERE, "site"]
        ),
        GaugeMetricFamily(
            "fedstudy_certificate_not_after_seconds",
            "When a participant's certificate ends, in Unix time.",
            labels=_WHERE,
        ),
    )  # fmt: skip


def _add(
    obj: Object,
    conditions: GaugeMetricFamily,
    round_: GaugeMetricFamily,
    rounds: GaugeMetricFamily,
    connected: GaugeMetricFamily,
    received: CounterMetricFamily,
    ends: GaugeMetricFamily,
) -> None:
    """One resource's lines."""
    kind, status = str(obj["kind"]), obj.get("status") or {}
    where = [str(obj["metadata"]["namespace"]), str(obj["metadata"]["name"])]
    found = {entry["type"]: entry for entry in status.get("conditions") or []}
    over = any(found.get(end, {}).get("status") == "True" for end in ("Complete", "Failed"))
    for name in CONDITIONS:
        entry = found.get(name, {})
        if entry.get("status") in ("True", "False") and not (over and name == "HubConnected"):
            conditions.add_metric([kind, *where, name, entry["reason"]], float(entry["status"] == "True"))
    if kind == "FederatedStudy":
        progress = status.get("round") or {}
        if progress:
            round_.add_metric([kind, *where], float(progress.get("current", 0)))
            rounds.add_metric(where, float(progress.get("total", 0)))
        for site in status.get("sites") or []:
            received.add_metric([*where, site["name"]], float(site.get("bytes", 0)))
            if not over and site.get("decision") == "Enrolled":
                connected.add_metric([*where, site["name"]], float(bool(site.get("connected"))))
    elif kind == "SiteParticipant":
        round_.add_metric([kind, *where], float(status.get("round", 0)))
        end = (status.get("certificate") or {}).get("notAfter")
        if end and not over:
            ends.add_metric(where, datetime.fromisoformat(end).timestamp())
