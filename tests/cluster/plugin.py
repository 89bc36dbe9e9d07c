"""The clusters as pytest fixtures, for the tests of every folder: each is started once, where a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster import fixtures
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fixtures import AnyCluster
from tests.cluster.images.build import OWN, build_images

RELEASE = "0.1.0"
"""The tag that the examples and the charts' defaults use."""


CONTROL_PLANE_ALONE = ("tests/kube/", "tests/operator/")
"""Folders whose tests need no pods."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups for `--dist loadgroup`: one process with the cluster that runs pods, and one with a control plane alone."""
    for item in items:
        if item.get_closest_marker("cluster"):
            alone = item.nodeid.startswith(CONTROL_PLANE_ALONE)
            item.add_marker(pytest.mark.xdist_group("control-plane" if alone else "node"))


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
