"""Every child is valid to a real API server, and every pod is admitted in a namespace that enforces pod security `restricted`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.cluster import fixtures
from tests.cluster.control_plane import ControlPlane
from tests.operator.test_children_fit_the_hospitals_cluster import a_dataset, a_participant, a_study

from fedstudy_operator.children import participant, study, trainer
from fedstudy_operator.children.common import Settings
from fedstudy_operator.cluster import InvalidObjectError, NotFoundError, Object
from fedstudy_operator.kube.api import Api, ForbiddenError, connect
from fedstudy_operator.kube.kinds import KINDS

pytestmark = pytest.mark.cluster
NAMESPACE = "restricted"
FULL = {
    "resources": {"limits": {"nvidia.com/gpu": 2, "memory": "8Gi"}, "requests": {"cpu": "2"}},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"gpu": "a100"},
    "schedulerName": "volcano",
    "sharedMemory": "2Gi",
    "supplementalGroups": [4000],
    "imagePullSecrets": ["harbor"],
    "scratch": {"claimName": "fast"},
    "queueName": "research",
}
SETTINGS = Settings(registry="mirror.local:5000/hub", pull_secrets=("mirror",), metrics_port=9090)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with fixtures.control_plane(tmp_path_factory.mktemp("admission")) as made:
        asyncio.run(prepare(made))
        yield made


@asynccontextmanager
async def reached(plane: ControlPlane) -> AsyncIterator[Api]:
    api = Api(await connect(str(plane.kubeconfig)))
    try:
        yield api
    finally:
        await api.close()


async def prepare(plane: ControlPlane) -> None:
    """A namespace that enforces, with the account that pods are given."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    async with reached(plane) as api, asyncio.timeout(60):
        await api.request("POST", "/api/v1/namespaces", body=namespace)
        while True:
            try:
                await api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")
                return
            except NotFoundError:
                await asyncio.sleep(0.2)


async def admitted(api: Api, obj: Object) -> None:
    """Pass if the API server would create it."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "ownerReferences"} | {"namespace": NAMESPACE}
    path = KINDS[obj["kind"]].path(NAMESPACE)
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    await api.request("POST", path, query=query, body={**obj, "metadata": metadata})


def pod_of(workload: Object) -> Object:
    """The pod that its controller would make."""
    template = workload["spec"]["template"]
    spec = dict(template["spec"])
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        name = claim["metadata"]["name"]
        spec["volumes"] = [
            *spec["volumes"],
            {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-x"}},
        ]
    metadata = {"name": workload["metadata"]["name"], **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def workloads(settings: Settings, **trainer_spec: Any) -> list[Object]:
    s, p, d = a_study(), a_participant(**trainer_spec), a_dataset()
    return [
        study.aggregator(s, s.plan(), settings),
        participant.agent(p, "glioma-aggregator.hub.svc:443", "aggregator", settings),
        trainer.preflight(p, d, digest="sha256:0", image="quay.io/x/t@sha256:" + "1" * 64, settings=settings),
        trainer.trainer(p, d, work="w", attempt=0, image="quay.io/x/t@sha256:" + "1" * 64, settings=settings),
    ]


def others(settings: Settings) -> list[Object]:
    s, p = a_study(), a_participant()
    return [
        study.configuration(s, s.plan(), settings),
        study.service(s),
        study.network_policy(s, settings),
        study.disruption_budget(s),
        participant.service(p),
        participant.agent_network_policy(p, "h.example.org:443", settings),
        participant.trainer_network_policy(p, "trainer"),
        participant.dataset_configuration(p, a_dataset()),
    ]


@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
async def test_every_child_is_valid_and_every_pod_restricted(plane: ControlPlane, full: bool) -> None:
    made = workloads(SETTINGS if full else Settings(), **(FULL if full else {}))
    async with reached(plane) as api:
        for obj in [*made, *others(SETTINGS), *map(pod_of, made)]:
            await admitted(api, obj)


async def test_the_namespace_does_refuse_what_is_not_restricted(plane: ControlPlane) -> None:
    pod = pod_of(workloads(Settings())[0])
    pod["spec"]["securityContext"] = {"runAsNonRoot": False}
    async with reached(plane) as api:
        with pytest.raises(ForbiddenError, match="violates PodSecurity"):
            await admitted(api, pod)


async def test_a_gpu_that_is_only_requested_would_be_refused_if_it_were_not_limited_too(
    plane: ControlPlane,
) -> None:
    pod = pod_of(workloads(Settings(), resources={"requests": {"nvidia.com/gpu": 1}})[3])
    async with reached(plane) as api:
        await admitted(api, pod)
        del pod["spec"]["containers"][0]["resources"]["limits"]
        with pytest.raises(InvalidObjectError, match="non overcommitable"):
            await admitted(api, pod)
