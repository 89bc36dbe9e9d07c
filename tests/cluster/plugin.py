"""The clusters as pytest fixtures, for the tests of every folder: each is started once, where a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import fixtures
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fixtures import AnyCluster
from tests.cluster.images.build import OWN, build_images
from xdist.scheduler import LoadScopeScheduling

RELEASE = "0.1.0"
"""The tag that the examples and the charts' defaults use."""

CONTROL_PLANE_ALONE = ("tests/kube/", "tests/operator/")
"""Folders whose tests need no pods."""


class ByCluster(LoadScopeScheduling):  # type: ignore[misc]
    """Two processes for `--dist loadscope`: one with the cluster that runs pods, and one with a control plane alone."""

    def _split_scope(self, nodeid: str) -> str:
        return "control-plane" if nodeid.startswith(CONTROL_PLANE_ALONE) else "node"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByCluster | None:
    """Ours where it is asked for. (xdist 3.8 cannot read its own groups of a pytest from 9.2 on.)"""
    return ByCluster(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server and controller-manager; no pod runs."""
    with fixtures.control_plane(tmp_path_factory.mktemp("control-plane")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster() -> Iterator[AnyCluster]:
    """A cluster that runs pods: the one that the user offers, else one of our own."""
    with fixtures.cluster() as made:
        yield made


@pytest.fixture(scope="session")
def product_cluster(cluster: AnyCluster) -> AnyCluster:
    """The same, with both of our images under the tags `test` and that of the release."""
    if fixtures.offered() is None:
        archives = build_images()
        for name, image in OWN.items():
            cluster.load_image(archives[name], also=image.replace(":test", f":{RELEASE}"))
    return cluster
