"""Dashboards and alerts know the operator's metrics by name: a name that changes is a change that users see."""

from __future__ import annotations

import re
from pathlib import Path

from fedstudy_operator.cluster import Key
from fedstudy_operator.kube.metrics import Metrics
from fedstudy_operator.kube.states import States
from fedstudy_operator.queue import WorkQueue

NAMES = {
    "controller_runtime_reconcile": "counter",
    "controller_runtime_reconcile_errors": "counter",
    "controller_runtime_reconcile_time_seconds": "histogram",
    "fedstudy_certificate_not_after_seconds": "gauge",
    "fedstudy_condition": "gauge",
    "fedstudy_operator_leader": "gauge",
    "fedstudy_operator_paused": "gauge",
    "fedstudy_operator_watch_events": "counter",
    "fedstudy_round": "gauge",
    "fedstudy_rounds": "gauge",
    "fedstudy_site_connected": "gauge",
    "fedstudy_site_received_bytes": "counter",
    "fedstudy_watch_restarts": "counter",
    "workqueue_adds": "counter",
    "workqueue_depth": "gauge",
    "workqueue_longest_running_processor_seconds": "gauge",
    "workqueue_retries": "counter",
    "workqueue_unfinished_work_seconds": "gauge",
}
OF_OTHERS = ("fedstudy_agent_", "fedstudy_aggregator_")


async def test_the_names_are_these() -> None:
    """Checklist G, point 31."""
    metrics = Metrics()
    metrics.watch_queue(WorkQueue[Key]())
    metrics.registry.register(States(lambda: []))
    assert {family.name: family.type for family in metrics.registry.collect()} == NAMES


def test_alerts_and_dashboards_use_no_other_names(repository: Path) -> None:
    """Checklist G, point 31: a rule about a metric that nobody serves would never fire."""
    known = {
        name + suffix
        for name, kind in NAMES.items()
        for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(kind, ("",))
    }
    used = set()
    for path in (repository / "charts").rglob("*"):
        if path.suffix in (".yaml", ".json", ".tpl") and path.stem in (
            "prometheusrule",
            "dashboard",
            "rules",
            "alerts",
        ):
            text = path.read_text()
            used |= set(
                re.findall(
                    r"\b(?:controller_runtime|workqueue|fedstudy_(?:operator|condition|watch|site))[a-z_]*",
                    text,
                )
            )
    used = {name for name in used if not name.startswith(OF_OTHERS)}
    assert used
    assert used <= known
