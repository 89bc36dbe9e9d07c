"""What a hospital's cluster asks of our pods: its registry, its pull secrets, its GPUs, its Prometheus, its scratch volumes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests import small_study

from fedstudy_operator.api import FederatedStudy, SiteDataset, SiteParticipant
from fedstudy_operator.children import participant, pod, study, trainer
from fedstudy_operator.children.common import Settings, without_registry
from fedstudy_operator.cluster import Object

PART = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,10}[a-z0-9])?", fullmatch=True)
REPOSITORY = st.lists(PART, min_size=1, max_size=3).map("/".join)
TAG = st.sampled_from(["", ":1.2", ":latest", f"@sha256:{'0' * 64}", f":1@sha256:{'f' * 64}"])
HOST = st.sampled_from(
    ["docker.io", "ghcr.io", "localhost", "localhost:5000", "harbor:443", "10.0.0.1", "Registry"]
)
MIRROR = st.sampled_from(["mirror.local", "mirror.local:5000/", "harbor.klinik.de/proxy/hub"])


@given(HOST, REPOSITORY, TAG, MIRROR)
def test_only_the_registry_of_an_image_is_replaced(host: str, repository: str, tag: str, mirror: str) -> None:
    placed = Settings(registry=mirror).place(f"{host}/{repository}{tag}")
    assert placed == f"{mirror.rstrip('/')}/{repository}{tag}"


@given(REPOSITORY, TAG, MIRROR)
def test_an_image_without_a_registry_gets_one(repository: str, tag: str, mirror: str) -> None:
    assert without_registry(repository + tag) == repository + tag
    assert Settings(registry=mirror).place(repository + tag) == f"{mirror.rstrip('/')}/{repository}{tag}"


@given(HOST, REPOSITORY, TAG)
def test_without_a_mirror_an_image_stays_what_it_is(host: str, repository: str, tag: str) -> None:
    assert Settings().place(f"{host}/{repository}{tag}") == f"{host}/{repository}{tag}"


def a_participant(*, hub: bool = False, **trainer_spec: Any) -> SiteParticipant:
    remote = {"endpoint": "hub.example.org:443", "invitation": {"secretName": "invitation"}}
    where = {"hub": remote} if hub else {"namespace": "hub"}
    return SiteParticipant.model_validate(
        {
            "metadata": {"name": "glioma", "namespace": "north", "uid": "u2"},
            "spec": {
                "study": {"name": "glioma", **where},
                "siteName": "north",
                "datasetRef": "scans",
                "trainer": trainer_spec,
            },
        }
    )


def a_dataset() -> SiteDataset:
    return SiteDataset.model_validate(
        {
            "metadata": {"name": "scans", "namespace": "north", "uid": "u3"},
            "spec": {"volume": {"persistentVolumeClaim": "scans"}},
        }
    )


def a_study(**spec: Any) -> FederatedStudy:
    return FederatedStudy.model_validate(
        {
            "metadata": {"name": "glioma", "namespace": "hub", "uid": "u1"},
            "spec": small_study.spec(**spec),
        }
    )


def jobs(settings: Settings = Settings(), **trainer_spec: Any) -> tuple[Object, Object]:  # noqa: B008
    """A preflight and a trainer."""
    p, d, image = a_participant(**trainer_spec), a_dataset(), "quay.io/x/trainer@sha256:1"
    return (
        trainer.preflight(p, d, digest="sha256:0", image=image, settings=settings),
        trainer.trainer(p, d, work="w", attempt=0, image=image, settings=settings),
    )


def workloads(settings: Settings) -> list[Object]:
    """All pods that are made."""
    s = a_study(aggregator={"image": "ghcr.io/x/hub:1"})
    agent = participant.agent(a_participant(), "glioma-aggregator.hub.svc:443", "aggregator", settings)
    return [study.aggregator(s, s.plan(), settings), agent, *jobs(settings)]


def spec_of(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def volume(workload: Object, name: str) -> Object:
    return next(v for v in spec_of(workload)["volumes"] if v["name"] == name)


def test_one_value_moves_every_image_and_every_pod_has_the_pull_secrets() -> None:
    settings = Settings(
        image="docker.io/fedstudy/fedstudy:1", registry="mirror.local", pull_secrets=("a", "b")
    )
    specs = [spec_of(w) for w in workloads(settings)]
    assert [s["containers"][0]["image"] for s in specs] == [
        "mirror.local/x/hub:1",
        "mirror.local/fedstudy/fedstudy:1",
        "mirror.local/x/trainer@sha256:1",
        "mirror.local/x/trainer@sha256:1",
    ]
    assert all(s["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}] for s in specs)
    assert all("imagePullPolicy" not in s["containers"][0] for s in specs)


def test_another_mirror_makes_other_jobs_and_the_defaults_of_a_later_version_do_not() -> None:
    names = {w["metadata"]["name"] for r in ("", "a.local", "b.local") for w in jobs(Settings(registry=r))}
    assert len(names) == 6
    written = jobs(threads=1, release="BetweenRounds", scratch={})
    assert [w["metadata"]["name"] for w in written] == [w["metadata"]["name"] for w in jobs()]


@pytest.mark.parametrize("side", ["requests", "limits"])
def test_a_gpu_is_requested_and_limited_alike_and_a_preflight_holds_none(side: str) -> None:
    preflight, training = jobs(resources={side: {"nvidia.com/gpu": 2, "cpu": "4"}})
    (asked,) = (spec_of(training)["containers"][0]["resources"],)
    assert asked["requests"]["nvidia.com/gpu"] == asked["limits"]["nvidia.com/gpu"] == "2"
    assert asked[side]["cpu"] == "4"
    assert spec_of(preflight)["containers"][0]["resources"] == {side: {"cpu": "4"}}


def test_a_gpu_cannot_be_asked_for_in_two_numbers() -> None:
    with pytest.raises(
        ValidationError, match=r"trainer.resources.requests.nvidia.com/gpu: is 1, but its limit is 2"
    ):
        a_participant(resources={"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}})


def test_ephemeral_storage_and_hugepages_are_no_devices() -> None:
    preflight, _ = jobs(resources={"requests": {"ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}})
    assert spec_of(preflight)["containers"][0]["resources"] == {
        "requests": {"ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}
    }


def test_a_scratch_claim_outlives_trainers_and_stays_out_of_preflights() -> None:
    preflight, training = jobs(scratch={"claimName": "fast"})
    assert volume(training, "scratch")["persistentVolumeClaim"] == {"claimName": "fast"}
    assert volume(preflight, "scratch")["emptyDir"] == {}
    environment = {e["name"]: e["value"] for e in spec_of(training)["containers"][0]["env"]}
    assert environment["FEDSTUDY_SCRATCH"] == "/scratch/glioma", "participants that share a claim stay apart"


def test_processes_that_serve_ask_for_little_and_for_what_is_said() -> None:
    s = a_study(aggregator={"resources": {"requests": {"cpu": 2}, "limits": {"memory": "4Gi"}}})
    made = spec_of(study.aggregator(s, s.plan(), Settings()))["containers"][0]
    assert made["resources"] == {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}}
    agent = spec_of(workloads(Settings())[1])["containers"][0]
    assert agent["resources"] == {"requests": {"cpu": "20m", "memory": "96Mi"}}


def test_with_metrics_probes_ask_the_process_and_without_they_ask_the_port() -> None:
    for workload in workloads(Settings(metrics_port=9090))[:2]:
        container = spec_of(workload)["containers"][0]
        assert {"name": "metrics", "containerPort": 9090, "protocol": "TCP"} in container["ports"]
        assert {"name": "FEDSTUDY_METRICS", "value": "0.0.0.0:9090"} in container["env"]
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    for workload in workloads(Settings())[:2]:
        container = spec_of(workload)["containers"][0]
        assert [p["name"] for p in container["ports"]] == ["grpc"]
        assert (
            container["livenessProbe"]["tcpSocket"]
            == container["readinessProbe"]["tcpSocket"]
            == {"port": "grpc"}
        )


@pytest.mark.parametrize("metrics_port", [0, 9090])
def test_prometheus_reaches_metrics_and_nothing_else(metrics_port: int) -> None:
    settings = Settings(metrics_port=metrics_port)
    policies = [
        study.network_policy(a_study(), settings),
        participant.agent_network_policy(a_participant(), "h.example.org:443", settings),
    ]
    for policy in policies:
        rules = [r for r in policy["spec"]["ingress"] if pod.FROM_PROMETHEUS in r.get("from", [])]
        assert [r["ports"] for r in rules] == ([pod.ports(9090)] if metrics_port else [])
    assert participant.trainer_network_policy(a_participant(), "trainer")["spec"]["ingress"] == []


def test_an_agent_calls_the_named_study_of_its_cluster_or_a_hub_outside() -> None:
    def hub_rule(p: SiteParticipant, upstream: str) -> Object:
        return dict(participant.agent_network_policy(p, upstream, Settings())["spec"]["egress"][1])

    here = hub_rule(a_participant(), "glioma-aggregator.hub.svc:443")
    assert here["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "hub"}
    s = a_study()
    pods = study.aggregator(s, s.plan(), Settings())["spec"]["template"]["metadata"]["labels"]
    assert here["to"][0]["podSelector"]["matchLabels"].items() <= pods.items()
    assert here["ports"] == pod.ports(443, 8443)
    assert "to" not in hub_rule(a_participant(hub=True), "hub.example.org:443")
