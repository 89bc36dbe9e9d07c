"""What every folder's conftest needs to offer clusters to its tests: start or skip, and the cluster that the user offers.

A user offers a cluster by FEDSTUDY_KUBECONFIG or KUBECONFIG; the tests then use it instead of starting one, and it must find the images itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.cluster import build, commands, node
from tests.cluster.control_plane import ControlPlane
from tests.required import lacking


class AnyCluster(Protocol):
    """What tests may ask of a cluster, whoever made it."""

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        ...

    @property
    def audit_log(self) -> Path | None:
        """The API server's audit log, one JSON object for each request; None where it cannot be read."""
        ...

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; its output. Raises CommandError unless `check` is False."""
        ...

    def helm(self, *words: str) -> str:
        """Run helm; its output. Raises CommandError."""
        ...

    def load_image(self, path: Path, *, also: str = "") -> None:
        """Give the node a docker archive's image, also by another name."""
        ...


class OfferedCluster:
    """A cluster of the user."""

    audit_log = None

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; its output."""
        return commands.kubectl(self.kubeconfig, *words, stdin=stdin, check=check)

    def helm(self, *words: str) -> str:
        """Run helm; its output."""
        return commands.helm(self.kubeconfig, *words)

    def load_image(self, path: Path, *, also: str = "") -> None:
        """Nothing: who offers a cluster offers its images."""


def offered() -> Path | None:
    """The kubeconfig of the cluster that the user offers."""
    named = os.environ.get("FEDSTUDY_KUBECONFIG") or os.environ.get("KUBECONFIG")
    return Path(named) if named else None


def skip_or_fail(reason: str) -> None:
    """Skip the test for a reason, or fail where nothing may be skipped."""
    if not reason:
        return
    lacking(reason)


def why_no_build(*names: str) -> str:
    """Why these programs are neither cached nor can be built, or an empty text."""
    return "" if all(build.PROGRAMS[name].path.is_file() for name in names) else build.why_not()


def why_no_node() -> str:
    """Why this machine can run no node, or an empty text."""
    if not sys.platform.startswith("linux"):
        return "a node needs Linux"
    if os.geteuid() != 0:
        return "a node needs root: run as root, or offer a cluster by KUBECONFIG"
    if lacking := node.missing_tools():
        return f"a node needs {', '.join(lacking)}: apt-get install {' '.join(node.PACKAGES)}"
    return why_no_build("hyperkube", "coredns")


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """A control plane of its own in a folder; it is built first where the cache lacks it."""
    skip_or_fail(why_no_build("hyperkube"))
    with ControlPlane(folder, binary=build.binary("hyperkube")) as made:
        yield made


@contextmanager
def cluster(*, gpus: int = 2) -> Iterator[AnyCluster]:
    """A whole cluster, ours or the user's."""
    if kubeconfig := offered():
        yield OfferedCluster(kubeconfig)
        return
    skip_or_fail(why_no_node())
    with node.Cluster(gpus=gpus) as made:
        yield made
