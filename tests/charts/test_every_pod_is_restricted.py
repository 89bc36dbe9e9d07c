"""Pod Security Standard `restricted` (checklist 16), by its rules, of every pod of the charts; the operator's network is closed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.charts.conftest import SETS, Render, named, pods

ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def restricted_faults(spec: dict[str, Any]) -> list[str]:
    """What the restricted standard would refuse in a pod."""
    faults = [f"{word} is set" for word in ("hostNetwork", "hostPID", "hostIPC") if spec.get(word)]
    pod = spec.get("securityContext", {})
    for volume in spec.get("volumes", []):
        faults += [f"volume {volume['name']}: {kind}" for kind in set(volume) - {"name"} - ALLOWED_VOLUMES]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("privileged"):
            faults.append(f"{name}: privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            faults.append(f"{name}: allowPrivilegeEscalation is not false")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            faults.append(f"{name}: does not drop ALL capabilities")
        if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            faults.append(f"{name}: runAsNonRoot is not true")
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            faults.append(f"{name}: runs as root")
        profile = own.get("seccompProfile", pod.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            faults.append(f"{name}: no seccomp profile")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            faults.append(f"{name}: hostPort")
    return faults


@pytest.mark.parametrize("name", SETS)
def test_the_standard_admits_every_pod(render: Render, name: str) -> None:
    chart, values = SETS[name]
    found = pods(render(chart, values))
    assert {pod for pod, _ in found} == {f"Deployment/fs-{chart}", f"Pod/fs-{chart}-test"}
    for pod, spec in found:
        assert restricted_faults(spec) == [], pod
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, pod
            assert container["resources"]["requests"], pod


def test_the_rule_finds_what_the_standard_refuses() -> None:
    assert len(restricted_faults({"containers": [{"name": "c"}], "hostNetwork": True})) == 5


@pytest.mark.parametrize(("chart", "child"), [("fedstudy-hub", "aggregator"), ("fedstudy-site", "agent")])
def test_the_operator_reaches_the_api_server_and_its_own_children_alone(
    render: Render, chart: str, child: str
) -> None:
    (policy,) = named(render(chart, {"networkPolicy": {"apiServerPorts": [6443]}}), "NetworkPolicy")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    dns, api, own = spec["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    assert api == {"ports": [{"port": 6443, "protocol": "TCP"}]}
    (peer,) = own["to"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == child
    (metrics,) = spec["ingress"]
    assert metrics["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert all(peer["podSelector"]["matchLabels"] for peer in metrics["from"])
    assert not named(render(chart, {"networkPolicy": {"enabled": False}}), "NetworkPolicy")
