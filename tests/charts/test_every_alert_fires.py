"""Every alert (checklist 31) fires on the series that it is about, says where, and is silent on those of a healthy cluster: promtool judges."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.conftest import CHARTS, EVERYTHING, Render, named
from tests.cluster.build import PROGRAMS
from tests.required import lacking

OWN = 'namespace="fedstudy", job="fs-{chart}"'
CHILDREN = {"fedstudy-hub": "aggregator", "fedstudy-site": "agent"}


@dataclass(frozen=True)
class Case:
    """What must make an alert fire, and the labels and the sentence that somebody on call then reads."""

    series: dict[str, str]
    summary: str
    at: str = "3h"
    labels: dict[str, str] = field(default_factory=dict)


def _condition(kind: str, type_: str, reason: str) -> str:
    return f'fedstudy_condition{{kind="{kind}", namespace="onco", name="glioma", type="{type_}", reason="{reason}"}}'


PLACE = {"namespace": "onco", "name": "glioma"}
SHARED = {
    "FedstudyOperatorDown": Case(
        {f"up{{{OWN}}}": "0x200"}, "No fedstudy operator of the {role} role answers.",
    ),
    "FedstudyNoLeader": Case(
        {f"fedstudy_operator_leader{{{OWN}, pod=\"a\"}}": "0x200", f"fedstudy_operator_leader{{{OWN}, pod=\"b\"}}": "0x200"},
        "Fedstudy operators answer, but none of them leads.",
    ),
    "FedstudyQueueStuck": Case(
        {f"workqueue_longest_running_processor_seconds{{{OWN}}}": "600x200"},
        "One pass of the fedstudy operator has lasted 10m 0s.",
    ),
    "FedstudyReconcileErrors": Case(
        {f'controller_runtime_reconcile_errors_total{{{OWN}, controller="SiteParticipant"}}': "0+6x200"},
        "Passes over SiteParticipant fail again and again.",
        labels={"controller": "SiteParticipant"},
    ),
    "FedstudyDiskFull": Case(
        {
            'kubelet_volume_stats_available_bytes{namespace="onco", persistentvolumeclaim="state-glioma-{child}-0"}': "5x200",
            'kubelet_volume_stats_capacity_bytes{namespace="onco", persistentvolumeclaim="state-glioma-{child}-0"}': "100x200",
        },
        "The volume onco/state-glioma-{child}-0 has 5% left.",
        labels={"namespace": "onco", "persistentvolumeclaim": "state-glioma-{child}-0"},
    ),
}  # fmt: skip
CASES = {
    "fedstudy-hub": SHARED | {
        "FedstudyStudyStalled": Case(
            {_condition("FederatedStudy", "Stalled", "BadSpec"): "1x200"},
            "Study onco/glioma stands still, and waiting does not help (BadSpec).",
            labels=PLACE | {"reason": "BadSpec"},
        ),
        "FedstudyStudyWaiting": Case(
            {_condition("FederatedStudy", "Reconciling", "WaitingForSites"): "1x200"},
            "Study onco/glioma makes no progress (WaitingForSites).", labels=PLACE | {"reason": "WaitingForSites"},
        ),
        "FedstudySiteDisconnected": Case(
            {'fedstudy_site_connected{namespace="onco", name="glioma", site="charite"}': "0x2000"},
            "Hospital charite has not been connected to study onco/glioma for {patience}.", labels=PLACE | {"site": "charite"},
        ),
    },
    "fedstudy-site": SHARED | {
        "FedstudyParticipantStalled": Case(
            {_condition("SiteParticipant", "Stalled", "PolicyViolation"): "1x200"},
            "Our part onco/glioma stands still, and waiting does not help (PolicyViolation).",
            labels=PLACE | {"reason": "PolicyViolation"},
        ),
        "FedstudyParticipantWaiting": Case(
            {_condition("SiteParticipant", "Reconciling", "WaitingForInvitation"): "1x2000"},
            "Our part onco/glioma makes no progress (WaitingForInvitation).", labels=PLACE | {"reason": "WaitingForInvitation"},
        ),
        "FedstudyHubDisconnected": Case(
            {'fedstudy_condition{kind="SiteParticipant", namespace="onco", name="glioma", type="HubConnected"}': "0x2000"},
            "The agent of onco/glioma has not reached its hub for {patience}.", labels=PLACE,
        ),
        "FedstudyCertificateExpiring": Case(
            {'fedstudy_certificate_not_after_seconds{namespace="onco", name="glioma"}': "270000x200"},
            "The certificate of our part onco/glioma ends in 3d 0h 0m 0s.", labels=PLACE,
        ),
    },
}  # fmt: skip
"""By chart and alert."""
HEALTHY = {
    f"up{{{OWN}}}": "1x2000",
    f"fedstudy_operator_leader{{{OWN}, pod=\"a\"}}": "1x2000",
    f"fedstudy_operator_leader{{{OWN}, pod=\"b\"}}": "0x2000",
    f"workqueue_longest_running_processor_seconds{{{OWN}}}": "2x2000",
    f'controller_runtime_reconcile_errors_total{{{OWN}, controller="SiteParticipant"}}': "0+0.5x2000",
    'kubelet_volume_stats_available_bytes{namespace="onco", persistentvolumeclaim="state-glioma-{child}-0"}': "50x2000",
    'kubelet_volume_stats_capacity_bytes{namespace="onco", persistentvolumeclaim="state-glioma-{child}-0"}': "100x2000",
    # a full volume of somebody else
    'kubelet_volume_stats_available_bytes{namespace="onco", persistentvolumeclaim="wiki"}': "0x2000",
    'kubelet_volume_stats_capacity_bytes{namespace="onco", persistentvolumeclaim="wiki"}': "100x2000",
    _condition("FederatedStudy", "Stalled", "Running"): "0x2000",
    _condition("FederatedStudy", "Reconciling", "Running"): "0x2000",
    _condition("SiteParticipant", "Stalled", "Running"): "0x2000",
    # whether to take part is the hospital's own choice: no alarm
    _condition("SiteParticipant", "Reconciling", "WaitingForApproval"): "1x2000",
    'fedstudy_condition{kind="SiteParticipant", namespace="onco", name="glioma", type="HubConnected", reason="Connected"}': "1x2000",
    'fedstudy_site_connected{namespace="onco", name="glioma", site="charite"}': "1x2000",
    'fedstudy_certificate_not_after_seconds{namespace="onco", name="glioma"}': "31536000x2000",
}  # fmt: skip
"""A cluster in which all is well, and a disk of somebody else's that is full."""


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own judge of rules."""
    path = PROGRAMS["promtool"].path
    if not path.is_file():
        lacking(f"promtool is not in the cache ({path}): `make cluster` builds it")
    return path


def _filled(text: str, chart: str, patience: str = "") -> str:
    role = chart.removeprefix("fedstudy-")
    words = {"chart": chart, "role": role, "child": CHILDREN[chart], "patience": patience}
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text


def _input(series: dict[str, str], chart: str) -> list[dict[str, str]]:
    return [{"series": _filled(name, chart), "values": values} for name, values in series.items()]


def _judge(promtool: Path, folder: Path, group: Any, tests: list[dict[str, Any]]) -> None:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    judged = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(judged))
    for words in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(
            [promtool, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("chart", CHARTS)
def test_each_alert_fires_on_what_it_is_about(
    render: Render, promtool: Path, chart: str, tmp_path: Path
) -> None:
    (rule,) = named(render(chart, EVERYTHING), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    rules = {alert["alert"]: alert for alert in group["rules"]}
    assert set(rules) == set(CASES[chart]), "each alert has its case"
    tests = []
    for name, case in CASES[chart].items():
        alert = rules[name]
        annotations = alert["annotations"] | {"summary": _filled(case.summary, chart, alert["for"])}
        labels = {key: _filled(value, chart) for key, value in case.labels.items()}
        expected = {"exp_labels": labels | alert["labels"], "exp_annotations": annotations}
        judged = {"eval_time": case.at, "alertname": name, "exp_alerts": [expected]}
        early = {"eval_time": "1m", "alertname": name, "exp_alerts": []}
        tests.append(
            {
                "name": name,
                "interval": "1m",
                "input_series": _input(case.series, chart),
                "alert_rule_test": [early, judged],
            }
        )
    _judge(promtool, tmp_path, group, tests)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_healthy_cluster_is_silent(render: Render, promtool: Path, chart: str, tmp_path: Path) -> None:
    (rule,) = named(render(chart, EVERYTHING), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    silent = [
        {"eval_time": at, "alertname": alert["alert"], "exp_alerts": []}
        for alert in group["rules"]
        for at in ("10m", "3h", "30h")
    ]
    tests = [{"interval": "1m", "input_series": _input(HEALTHY, chart), "alert_rule_test": silent}]
    _judge(promtool, tmp_path, group, tests)
