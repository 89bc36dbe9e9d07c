"""The charts, installed: what every test of the whole stands on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.fixtures import AnyCluster
from tests.whole.api import Eyes

REPOSITORY = Path(__file__).resolve().parents[2]
NAMESPACE = "fedstudy"
HUBS = ("hub", "doomed-hub")
"""Namespaces of studies; the second is there to be deleted."""


@dataclass(frozen=True)
class Installed:
    """A cluster in which both charts are installed."""

    cluster: AnyCluster
    eyes: Eyes

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; its output."""
        return self.cluster.kubectl(*words, stdin=stdin, check=check)

    def helm(self, *words: str) -> str:
        """Run helm in the operators' namespace; its output."""
        return self.cluster.helm("--namespace", NAMESPACE, *words)

    def namespace(self, name: str) -> None:
        """Make a namespace that enforces the restricted Pod Security Standard, if it is not there."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(made))

    def install(self) -> None:
        """Install both charts where their namespaces enforce `restricted`, and wait until their operators are ready."""
        for namespace in (NAMESPACE, *HUBS):
            self.namespace(namespace)
        server = self.kubectl(
            "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"
        ).rpartition(":")[2]
        common = [
            "--set", "image.tag=test", "--set", "trainerImage.tag=test",
            "--set", f"networkPolicy.apiServerPorts={{443,{server}}}", "--wait", "--timeout=5m",
        ]  # fmt: skip
        site = ["--set", f"hubNamespaces={{{','.join(HUBS)}}}", "--set", "kueue=true"]
        self.helm("install", "fedstudy-hub", str(REPOSITORY / "charts/fedstudy-hub"), *common)
        self.helm("install", "fedstudy-site", str(REPOSITORY / "charts/fedstudy-site"), *site, *common)
