"""Monitors, alerts and dashboards (checklist 31, the static part): they point at what is there, and every alert says what to do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.charts.conftest import CHARTS, EVERYTHING, Object, Render, named

ALERTS = {
    "fedstudy-hub": {"FedstudyStudyStalled", "FedstudyStudyWaiting", "FedstudySiteDisconnected"},
    "fedstudy-site": {
        "FedstudyParticipantStalled",
        "FedstudyParticipantWaiting",
        "FedstudyHubDisconnected",
        "FedstudyCertificateExpiring",
    },
}
OPERATORS = {
    "FedstudyOperatorDown", "FedstudyNoLeader", "FedstudyQueueStuck", "FedstudyReconcileErrors",
    "FedstudyDiskFull",
}  # fmt: skip


def alerts(objects: list[Object]) -> dict[str, dict[str, Any]]:
    """The alerts of a chart by their names."""
    (rule,) = named(objects, "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    return {alert["alert"]: alert for alert in group["rules"]}


@pytest.mark.parametrize("chart", CHARTS)
def test_nothing_of_them_is_made_unless_asked_for(render: Render, chart: str) -> None:
    kinds = {obj["kind"] for obj in render(chart)}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize(("chart", "child"), [("fedstudy-hub", "aggregator"), ("fedstudy-site", "agent")])
def test_monitors_select_the_operator_and_its_children(render: Render, chart: str, child: str) -> None:
    objects = render(chart, EVERYTHING)
    (monitor,) = named(objects, "ServiceMonitor")
    (service,) = named(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"] == "metrics"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (pods,) = named(objects, "PodMonitor")
    assert pods["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    assert pods["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == child
    assert pods["spec"]["namespaceSelector"] == {"any": True}
    values = {**EVERYTHING, "watchNamespaces": ["a"]}
    (pods,) = named(render(chart, values), "PodMonitor")
    assert pods["spec"]["namespaceSelector"] == {"matchNames": ["a"]}


@pytest.mark.parametrize("chart", CHARTS)
def test_every_alert_says_what_is_and_what_to_do(render: Render, chart: str) -> None:
    found = alerts(render(chart, EVERYTHING))
    assert set(found) == OPERATORS | ALERTS[chart]
    for name, alert in found.items():
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        assert alert["annotations"]["summary"] and alert["annotations"]["description"], name
        assert re.fullmatch(r"\d+[mh]", alert["for"]), name
        assert "${" not in str(alert), f"{name}: a placeholder that no value fills"
        assert alert["expr"].count("(") == alert["expr"].count(")"), name
        labels = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
        kept = (
            set(re.findall(r"by \(([^)]*)\)", alert["expr"])[0].split(", "))
            if " by " in alert["expr"]
            else None
        )
        assert kept is None or labels <= kept, f"{name}: {labels - (kept or set())} is no label of the result"


@pytest.mark.parametrize("chart", CHARTS)
def test_values_set_how_soon_an_alert_comes(render: Render, chart: str) -> None:
    values = {
        "metrics": {
            "prometheusRule": {"enabled": True, "certificateDays": 7, "freeShare": 0.25, "patience": "2h"}
        }
    }
    found = alerts(render(chart, values))
    if (
        chart == "fedstudy-site"
    ):  # the hub's operator renews its own, and its reconcile errors tell of a failure
        assert "< 7 * 86400" in found["FedstudyCertificateExpiring"]["expr"]
    assert found["FedstudyDiskFull"]["expr"].endswith("< 0.25")
    assert [alert["for"] for name, alert in found.items() if name in ALERTS[chart]].count("2h") == 2
    assert f'job="fs-{chart}"' in found["FedstudyOperatorDown"]["expr"]


@pytest.mark.parametrize("chart", CHARTS)
def test_the_dashboard_is_one_that_grafana_loads(render: Render, chart: str) -> None:
    (config,) = [
        o for o in named(render(chart, EVERYTHING), "ConfigMap") if "dashboard" in o["metadata"]["name"]
    ]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(config["data"][f"{chart}.json"])
    assert dashboard["title"] and dashboard["uid"] == chart
    panels = dashboard["panels"]
    assert len(panels) > 8
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
    assert len(places) == len(panels), "no panel hides another"
    for panel in panels:
        query = panel["targets"][0]["expr"]
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}"), panel["title"]


FOREIGN = ("kubelet_", "container_", "kube_", "up")
"""Metrics of Kubernetes itself and of kube-state-metrics."""


async def served() -> set[str]:
    """The metrics that the operator serves."""
    from fedstudy_operator.kube.metrics import Metrics
    from fedstudy_operator.kube.states import States
    from fedstudy_operator.queue import WorkQueue

    metrics = Metrics()
    metrics.watch_queue(WorkQueue())
    metrics.registry.register(States(lambda: []))
    metrics.seconds.labels("FederatedStudy").observe(1)
    text = generate_latest(metrics.registry).decode()
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)) | set(
        re.findall(r"^(\w+_bucket)", text, re.MULTILINE)
    )


@pytest.mark.parametrize("chart", CHARTS)
async def test_every_metric_that_is_asked_for_is_served(render: Render, chart: str) -> None:
    objects = render(chart, EVERYTHING)
    (config,) = [o for o in named(objects, "ConfigMap") if "dashboard" in o["metadata"]["name"]]
    panels = json.loads(config["data"][f"{chart}.json"])["panels"]
    queries = [alert["expr"] for alert in alerts(objects).values()]
    queries += [panel["targets"][0]["expr"] for panel in panels]
    named_there = {
        name
        for query in queries
        for name in re.findall(
            r"(?<![\w\"=~])([a-z]\w*_\w+|up)(?=[\[{ )]|$)", re.sub(r'"[^"]*"', '""', query)
        )
        if not re.search(rf"\b(by|on) \([^)]*\b{name}\b", query)
    } - {"histogram_quantile"}
    ours = {name for name in named_there if not name.startswith(FOREIGN)}
    assert len(ours) >= 8
    known = await served()
    missing = ours - known - {f"{name}_total" for name in known}
    assert not missing
