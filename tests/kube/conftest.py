"""A real API server, an operator as a process of its own, and a test's eyes and hands in that cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import small_study
from tests.cluster.control_plane import REPOSITORY, ControlPlane, hyperkube
from tests.required import lacking

from fedstudy_operator.cluster import ConflictError, Key, NotFoundError, Object
from fedstudy_operator.kube.api import Api, connect
from fedstudy_operator.kube.kinds import KINDS, path_of

PATIENCE = 150.0
"""Seconds after which a thing that should have come will not: the machine may be busy with other tests."""
Predicate = Callable[[Object], bool]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of our own, with our custom resources."""
    with a_plane(ControlPlane, tmp_path_factory.mktemp("plane")) as made:
        yield made


@contextlib.contextmanager
def a_plane(kind: type[ControlPlane], folder: Path) -> Iterator[ControlPlane]:
    """A control plane with our custom resources, while it is open."""
    if not hyperkube().is_file():
        lacking(f"{hyperkube()} is not there: `make cluster` builds it")
    with kind(folder) as made:
        asyncio.run(_install(made))
        yield made


async def _install(plane: ControlPlane) -> None:
    kube = Kube(Api(await connect(str(plane.kubeconfig))), "default")
    try:
        for path in sorted((REPOSITORY / "crds").glob("*.yaml")):
            crd = yaml.safe_load(path.read_text())
            name = crd["metadata"]["name"]
            root = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            await kube.api.request(
                "PATCH",
                root,
                query={"fieldManager": "test", "force": "true"},
                body=crd,
                content_type="application/apply-patch+yaml",
            )

            async def established(root: str = root) -> bool:
                found = (await kube.api.request("GET", root))["status"].get("conditions") or []
                return any(c["type"] == "Established" and c["status"] == "True" for c in found)

            await until(established, f"{name} is served")
    finally:
        await kube.api.close()


@pytest.fixture
async def kube(plane: ControlPlane) -> AsyncIterator[Kube]:
    """The administrator, in a new namespace of the test's own."""
    async with namespace(plane, f"t{os.getpid()}-{time.monotonic_ns() // 1_000_000 % 10**9}") as made:
        yield made


@contextlib.asynccontextmanager
async def namespace(plane: ControlPlane, name: str) -> AsyncIterator[Kube]:
    """The administrator in a new namespace."""
    api = Api(await connect(str(plane.kubeconfig)))
    await api.request("POST", "/api/v1/namespaces", body=namespace_object(name))
    try:
        yield Kube(api, name)
    finally:
        with contextlib.suppress(NotFoundError):
            await api.request("DELETE", f"/api/v1/namespaces/{name}")
        await api.close()


def namespace_object(name: str) -> Object:
    """A namespace's manifest."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


class Kube:
    """What a test sees and does, as an administrator.

    Args:
        api: of the API server.
        namespace: where.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def key(self, kind: str, name: str) -> Key:
        """An object of the test's namespace."""
        return Key(kind, self.namespace, name)

    async def get(self, kind: str, name: str) -> Object | None:
        """The object, or None."""
        try:
            return await self.api.request("GET", path_of(self.key(kind, name)))
        except NotFoundError:
            return None

    async def list(self, kind: str, **labels: str) -> list[Object]:
        """All objects of a kind in the namespace, with these labels."""
        query = {"labelSelector": ",".join(f"{n}={v}" for n, v in labels.items())}
        items: list[Object] = (await self.api.request("GET", KINDS[kind].path(self.namespace), query=query))[
            "items"
        ]
        return items

    async def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Create an object in the test's namespace."""
        obj = {**obj, "metadata": {**obj["metadata"], "namespace": self.namespace}}
        query = {"dryRun": "All"} if dry_run else {}
        return await self.api.request("POST", KINDS[obj["kind"]].path(self.namespace), body=obj, query=query)

    async def merge(self, kind: str, name: str, patch: Object, *, subresource: str = "") -> Object:
        """A merge patch."""
        return await self.api.request(
            "PATCH",
            path_of(self.key(kind, name), subresource),
            body=patch,
            content_type="application/merge-patch+json",
        )

    async def delete(self, kind: str, name: str) -> None:
        """Delete an object."""
        await self.api.request("DELETE", path_of(self.key(kind, name)))

    async def account(self, name: str) -> str:
        """A ServiceAccount with all rights in the cluster; returns a token of it."""
        await self.api.request(
            "POST",
            f"/api/v1/namespaces/{self.namespace}/serviceaccounts",
            body={"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        )
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        await self.api.request(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            body={
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"{self.namespace}-{name}"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [subject],
            },
        )
        token = await self.api.request(
            "POST",
            f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{name}/token",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 3600},
            },
        )
        return str(token["status"]["token"])

    async def until(self, kind: str, name: str, predicate: Predicate, what: str = "") -> Object:
        """Wait until an object is there and as wanted; returns it."""
        found: list[Object] = []

        async def there() -> bool:
            obj = await self.get(kind, name)
            found[:] = [obj] if obj else []
            return obj is not None and predicate(obj)

        await until(there, what or f"{kind} {name}", lambda: found)
        return found[0]


async def until(
    done: Callable[[], Awaitable[bool]], what: str, show: Callable[[], object] = lambda: ""
) -> None:
    """Wait until something is so, with a deadline."""
    end = time.monotonic() + PATIENCE
    while not await done():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {PATIENCE:g} s. {show()}")
        await asyncio.sleep(0.05)


def condition(obj: Object, kind: str) -> Object:
    """A condition of an object; empty where it is not there."""
    for entry in (obj.get("status") or {}).get("conditions") or []:
        if entry["type"] == kind:
            found: Object = entry
            return found
    return {}


class Operator:
    """An operator as a process of its own, as a pod would run it.

    Args:
        folder: for its log.
        kubeconfig: who it is.
        namespace: where its Lease is, and its only one where `everywhere` is not set.
        image: of aggregators and agents, as a release of the chart says it.
    """

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        namespace: str,
        *,
        name: str = "operator-0",
        role: str = "both",
        everywhere: bool = False,
        image: str = "localhost/fedstudy:test",
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith("FEDSTUDY_")},
            "KUBECONFIG": str(kubeconfig),
            "FEDSTUDY_ROLE": role,
            "FEDSTUDY_NAMESPACES": "" if everywhere else namespace,
            "FEDSTUDY_RESOLVE": "ClusterIP",
            "FEDSTUDY_HTTP": f"127.0.0.1:{self.port}",
            "FEDSTUDY_IMAGE": image,
            "FEDSTUDY_TRAINER_IMAGE": "localhost/fedstudy-trainer:test",
            "POD_NAMESPACE": namespace,
            "POD_NAME": name,
            "OMP_NUM_THREADS": "1",
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "fedstudy_operator.kube",
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        if ready:
            await until(self.is_ready, f"{self.name} is ready", self.log.read_text)

    async def is_ready(self) -> bool:
        """Whether /readyz says so."""
        return (await self.ask("/readyz"))[0] == 200

    async def ask(self, path: str) -> tuple[int, str]:
        """A page of its HTTP server: status and text; status 0 where it does not answer."""
        return await asyncio.to_thread(_page, f"http://127.0.0.1:{self.port}{path}")

    async def metric(self, line: str) -> float:
        """The value of a metric with exactly these labels; 0 where it is not shown."""
        _, text = await self.ask("/metrics")
        for entry in text.splitlines():
            name, _, value = entry.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code."""
        assert self.process is not None
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def stop(self) -> None:
        """End it, whatever it does."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


def _page(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


Start = Callable[..., Awaitable[Operator]]


@pytest.fixture
async def start(plane: ControlPlane, kube: Kube, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts operators for the test's namespace; all of them end with the test."""
    started: list[Operator] = []

    async def make(*, ready: bool = True, kubeconfig: Path | None = None, **words: Any) -> Operator:
        made = Operator(tmp_path, kubeconfig or plane.kubeconfig, kube.namespace, **words)
        started.append(made)
        await made.start(ready=ready)
        return made

    yield make
    for operator in started:
        await operator.stop()


def study(name: str = "glioma", sites: tuple[str, ...] = ("north", "south"), **spec: Any) -> Object:
    """A FederatedStudy."""
    return {
        "apiVersion": "fedstudy.io/v1alpha1",
        "kind": "FederatedStudy",
        "metadata": {"name": name},
        "spec": small_study.spec(
            federation={"rounds": 3, "minSites": 2}, sites=[{"name": site} for site in sites]
        )
        | spec,
    }


def dataset(name: str = "scans") -> Object:
    """A SiteDataset that lets any study in."""
    policy = {"purposes": ["DUO:0000007"], "algorithms": ["FedAvg"], "networks": ["Linear"]}
    return {
        "apiVersion": "fedstudy.io/v1alpha1",
        "kind": "SiteDataset",
        "metadata": {"name": name},
        "spec": {"volume": {"persistentVolumeClaim": name}, "policy": policy},
    }


def participant(namespace: str, site: str = "north", name: str = "glioma", **spec: Any) -> Object:
    """A SiteParticipant of the study in the same namespace."""
    return {
        "apiVersion": "fedstudy.io/v1alpha1",
        "kind": "SiteParticipant",
        "metadata": {"name": f"{name}-{site}"},
        "spec": {
            "study": {"name": name, "namespace": namespace},
            "siteName": site,
            "datasetRef": "scans",
            **spec,
        },
    }


__all__ = [
    "ConflictError",
    "Kube",
    "Operator",
    "Start",
    "condition",
    "dataset",
    "namespace_object",
    "participant",
    "study",
    "until",
]
