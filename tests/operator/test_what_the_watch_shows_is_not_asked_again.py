"""What the watches have shown serves passes without requests, and is never believed for longer than it is true."""

from __future__ import annotations

from typing import Any

import pytest

from fedstudy_operator.cluster import Key, NotFoundError, Object
from fedstudy_operator.kube.client import KubernetesCluster
from fedstudy_operator.kube.pods import Pods

KEY = Key("FederatedStudy", "hub", "glioma")
OWNER = {"fedstudy.io/study": "glioma", "app.kubernetes.io/component": "aggregator"}


class Server:
    """Answers with one study, or not at all, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.study: Object | None = study("9")

    async def request(self, method: str, path: str, **_: Any) -> Object:
        self.asked.append(f"{method} {path}")
        if path.endswith("/pods"):
            return {"metadata": {}, "items": [pod("from-the-server")]}
        if self.study is None:
            raise NotFoundError(path)
        return {**self.study, "metadata": dict(self.study["metadata"])}


def study(version: str) -> Object:
    metadata = {"name": "glioma", "namespace": "hub", "uid": "u", "generation": 1, "resourceVersion": version}
    return {"apiVersion": "fedstudy.io/v1alpha1", "kind": "FederatedStudy", "metadata": metadata, "spec": {}}


def pod(name: str, labels: dict[str, str] = OWNER, **status: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "hub", "uid": name, "resourceVersion": "1", "labels": labels},
        "spec": {"containers": []},
        "status": status,
    }


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def cluster(server: Server) -> KubernetesCluster:
    return KubernetesCluster(server, watched=("Pod",))  # type: ignore[arg-type]


async def test_the_first_pass_takes_what_the_watch_showed_and_later_ones_ask(
    server: Server, cluster: KubernetesCluster
) -> None:
    cluster.saw(study("1"), gone=False)
    cluster.saw(study("2"), gone=False)
    assert (await cluster.get(KEY))["metadata"]["resourceVersion"] == "2"
    assert server.asked == []
    cluster.saw(study("3"), gone=False)  # it has been read: from now on the server knows best
    assert (await cluster.get(KEY))["metadata"]["resourceVersion"] == "9"


async def test_what_is_gone_before_its_first_pass_is_not_found(
    server: Server, cluster: KubernetesCluster
) -> None:
    cluster.saw(study("1"), gone=False)
    cluster.saw(study("1"), gone=True)
    server.study = None
    with pytest.raises(NotFoundError):
        await cluster.get(KEY)


async def test_a_secret_is_news_unless_it_is_as_we_wrote_it(server: Server) -> None:
    """A look at a Secret costs a request: what we wrote ourselves is no reason for one."""
    cluster = KubernetesCluster(server, watched=("Secret",))  # type: ignore[arg-type]
    metadata = {"name": "glioma-authority", "namespace": "hub"}
    await cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}, manager="test")

    def shown(version: str) -> bool:
        secret = {"kind": "Secret", "metadata": {**metadata, "uid": "u", "resourceVersion": version}}
        return cluster.saw(secret, gone=False)

    assert [shown("9"), shown("10")] == [False, True]


async def test_pods_are_found_by_owner_as_they_were_shown_last(
    server: Server, cluster: KubernetesCluster
) -> None:
    cluster.saw(pod("a", phase="Pending"), gone=False)
    cluster.saw(pod("a", phase="Running"), gone=False)
    cluster.saw(pod("b", {**OWNER, "fedstudy.io/study": "other"}), gone=False)
    found = await cluster.list("Pod", "hub", OWNER)
    assert [(p["metadata"]["name"], p["status"]) for p in found] == [("a", {"phase": "Running"})]
    assert await cluster.list("Pod", "elsewhere", OWNER) == []
    cluster.saw(pod("a"), gone=True)
    assert await cluster.list("Pod", "hub", OWNER) == []
    assert server.asked == []


async def test_pods_that_are_asked_for_without_an_owner_come_from_the_server(
    server: Server, cluster: KubernetesCluster
) -> None:
    assert [p["metadata"]["name"] for p in await cluster.list("Pod", "hub")] == ["from-the-server"]


def test_a_pod_without_an_owner_of_ours_is_no_trouble() -> None:
    pods = Pods()
    pods.saw(pod("stranger", {}))
    pods.gone(pod("stranger", {}))
    assert pods.find("hub", OWNER) == []


async def test_a_status_that_the_watch_shows_before_our_apply_is_answered_is_not_lost() -> None:
    """A controller may be quicker than the API server's answer to us; nothing tells of its status a second time."""
    wanted: Object = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "glioma-aggregator", "namespace": "hub"},
        "spec": {"replicas": 1},
    }

    class Quick(Server):
        async def request(self, method: str, path: str, **given: Any) -> Object:
            self.asked.append(f"{method} {path}")
            made = given["body"]
            metadata = {**made["metadata"], "uid": "u", "resourceVersion": "9"}
            later = {**made, "metadata": {**metadata, "resourceVersion": "10"}}
            cluster.saw({**later, "status": {"observedGeneration": 1}}, gone=False)
            return {**made, "metadata": metadata}

    server = Quick()
    cluster = KubernetesCluster(server, watched=("StatefulSet",))  # type: ignore[arg-type]
    assert "status" not in await cluster.apply(wanted, manager="t")
    assert (await cluster.apply(wanted, manager="t"))["status"] == {"observedGeneration": 1}
    assert len(server.asked) == 1
