"""The charts, rendered by Helm: where Helm is, and what it makes of values."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.required import lacking

Object = dict[str, Any]
Render = Callable[..., list[Object]]
CHARTS = ("fedstudy-hub", "fedstudy-site")
KUBERNETES = "1.34.0"


def helm_binary() -> Path | None:
    """Helm: what FEDSTUDY_HELM names, the newest in the test cluster's cache, or the one on the path."""
    if named := os.environ.get("FEDSTUDY_HELM"):
        return Path(named)
    cache = Path(os.environ.get("FEDSTUDY_CACHE") or Path.home() / ".cache" / "fedstudy")
    built = sorted((cache / "cluster").glob("helm-*/helm"))
    if built:
        return built[-1]
    found = shutil.which("helm")
    return Path(found) if found else None


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm binary."""
    found = helm_binary()
    if found is None:
        lacking("helm is neither in the test cluster's cache nor on the path: `make cluster` builds it")
    return found


@pytest.fixture(scope="session")
def charts(repository: Path) -> Path:
    """The folder of charts."""
    return repository / "charts"


@pytest.fixture(scope="session")
def template(helm: Path, charts: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`helm template`, with values as a map."""

    def call(
        chart: str, values: Mapping[str, Any] | None = None, *words: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(helm), "template", "fs", str(charts / chart), "--namespace", "fedstudy"]
        command += ["--kube-version", KUBERNETES, "--values", "-", *words]
        text = yaml.safe_dump(dict(values or {}))
        return subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)

    return call


@pytest.fixture(scope="session")
def render(template: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """The objects of a chart for some values."""

    def call(chart: str, values: Mapping[str, Any] | None = None, *words: str) -> list[Object]:
        done = template(chart, values, *words)
        assert done.returncode == 0, done.stderr
        return [obj for obj in yaml.safe_load_all(done.stdout) if obj]

    return call


EVERYTHING: dict[str, Any] = {
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "imagePullSecrets": [{"name": "registry"}, {"name": "mirror"}],
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "podAnnotations": {"example.org/team": "imaging"},
    "commonLabels": {"example.org/owner": "imaging"},
    "kueue": True,
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}
    ],
}
"""Values of both charts with everything on."""

HOSPITAL: dict[str, Any] = {
    "watchNamespaces": ["neuro", "onco"],
    "hubNamespaces": ["hub"],
    "datasets": [
        {
            "name": "gliomas",
            "namespace": "neuro",
            "spec": {"volume": {"persistentVolumeClaim": "gliomas"}, "policy": {"purposes": ["DUO:0000007"]}},
        }
    ],
    "participants": [
        {
            "name": "glioma-idh",
            "namespace": "neuro",
            "spec": {
                "study": {"name": "glioma-idh", "namespace": "hub"},
                "siteName": "aalborg",
                "datasetRef": "gliomas",
                "approval": {"planDigest": f"sha256:{'0' * 64}"},
            },
        }
    ],
}
"""A hospital in one values file, beside a hub in the same cluster."""

SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "hub": ("fedstudy-hub", {}),
    "hub-everything": ("fedstudy-hub", EVERYTHING),
    "hub-namespaced": ("fedstudy-hub", {"watchNamespaces": ["studies"], "replicas": 1}),
    "site": ("fedstudy-site", {}),
    "site-everything": ("fedstudy-site", EVERYTHING),
    "site-hospital": ("fedstudy-site", HOSPITAL),
    "site-air-gap": ("fedstudy-site", {"global": {"imageRegistry": "registry.hospital.example:5000/mirror"}}),
}
"""Name → chart and values; each has a golden file."""


def pods(objects: list[Object]) -> list[tuple[str, Object]]:
    """Every pod that a chart's objects have or make: its name and its spec."""
    found = []
    for obj in objects:
        name = f"{obj['kind']}/{obj['metadata']['name']}"
        if obj["kind"] == "Pod":
            found.append((name, obj["spec"]))
        elif obj["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            found.append((name, obj["spec"]["template"]["spec"]))
    return found


def named(objects: list[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [obj for obj in objects if obj["kind"] == kind]
