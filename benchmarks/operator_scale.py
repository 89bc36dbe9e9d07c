"""What 1,000 idle studies cost the operator: memory, start, and how soon one change is handled.

    python -m benchmarks.operator_scale [--studies 1000] [--sites 4] [--changes 100] [--idle 300] [--foreign 10000] [--burst 100]
                                        [--plane FOLDER] [--out FILE]

A real etcd and API server, no node: studies stay in `Provisioning`, with all their children there. The hub's operator runs as a process
of its own. Start: from exec until every study has had its first pass. Change: a study's list of sites is edited while all others are
idle; handled when the status is about the new generation. Idle: requests to write in the API server's audit log over some seconds.
To make the studies takes minutes, and the longest of it is the API server's work: in a folder that is named they stay for the next run.
Foreign: so many Pods and a tenth as many Secrets of somebody else. Burst: so many studies are created at once, on fake nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.cluster.control_plane import ControlPlane
from tests.kube import conftest as tools
from tests.kube import test_a_hundred_studies_begin_at_once as hundred
from tests.kube.paper import paper_nodes

from fedstudy_operator.cluster import Key, Object
from fedstudy_operator.kube.api import Api, connect
from fedstudy_operator.kube.kinds import path_of

_DONE = 'controller_runtime_reconcile_total{controller="FederatedStudy",result='
_DEPTH = 'workqueue_depth{name="fedstudy"}'


Figures = dict[str, Any]


def pid_of(operator: tools.Operator) -> int:
    """Its process."""
    assert operator.process is not None
    return operator.process.pid


def rss(pid: int) -> float:
    """Resident set and its peak in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def peak(pid: int) -> float:
    """The largest resident set in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def cpu(pid: int) -> float:
    """CPU seconds used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def progress(operator: tools.Operator) -> tuple[int, float]:
    """How many passes over studies have succeeded, and how many keys wait. Once a second at most: the page costs the operator time too."""
    _, text = await operator.ask("/metrics")
    lines = [line.rpartition(" ") for line in text.splitlines()]
    done = sum(
        int(float(value)) for name, _, value in lines if name.startswith(_DONE) and '"error"' not in name
    )
    waiting = [float(value) for name, _, value in lines if name == _DEPTH]
    return done, waiting[0] if waiting else float("inf")


async def populate(kube: tools.Kube, count: int, sites: int) -> None:
    """Make the studies."""
    names = tuple(f"site-{n}" for n in range(sites))
    limit = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with limit:
            await kube.create(tools.study(f"study-{number:04d}", names))

    await asyncio.gather(*(one(number) for number in range(count)))


async def kept(plane: ControlPlane, kube: tools.Kube, count: int) -> Path | None:
    """The operator's kubeconfig, where an earlier run has left all the studies; else None."""
    if len(await kube.list("StatefulSet")) < count:
        return None
    spec = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    path = f"/api/v1/namespaces/{kube.namespace}/serviceaccounts/operator/token"
    token = await kube.api.request("POST", path, body=spec)
    return plane.token_kubeconfig("operator", str(token["status"]["token"]))


async def settled(operator: tools.Operator, least: int) -> None:
    """Wait until so many passes are done and the queue is empty."""
    while True:
        done, waiting = await progress(operator)
        if done >= least and not waiting:
            return
        await asyncio.sleep(1)


async def made(kube: tools.Kube, maker: tools.Operator, count: int) -> None:
    """Wait until all studies have their children; an operator that lost its Lease on a busy machine is started again, as a pod is."""
    while True:
        if maker.process is None or maker.process.returncode is not None:
            print("the maker ended; started again", flush=True)
            await maker.start()
        _, waiting = await progress(maker)
        if not waiting and len(await kube.list("StatefulSet")) == count:
            return
        await asyncio.sleep(2)


async def change(api: Api, namespace: str, name: str, number: int) -> float:
    """Edit a study; seconds until its status is about the edit."""
    key = Key("FederatedStudy", namespace, name)
    sites = [{"name": f"site-{n}"} for n in range(4)] + [{"name": f"late-{number}-{random.randrange(10**6)}"}]
    began = time.perf_counter()
    made = await api.request(
        "PATCH", path_of(key), body={"spec": {"sites": sites}}, content_type="application/merge-patch+json"
    )
    wanted = made["metadata"]["generation"]
    while True:
        obj: Object = await api.request("GET", path_of(key))
        if obj["status"]["observedGeneration"] == wanted:
            return time.perf_counter() - began
        await asyncio.sleep(0.02)


def _once(name: str) -> str:
    """A namespace that no earlier run has left behind."""
    return f"{name}-{time.time_ns() // 10**6}"


async def crowd(api: Api, pods: int) -> None:
    """So many Pods of somebody else, and a tenth as many Secrets of 4 KiB."""
    kube, limit = tools.Kube(api, _once("foreign")), asyncio.Semaphore(16)
    await api.request("POST", "/api/v1/namespaces", body=tools.namespace_object(kube.namespace))
    account: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    await api.request("POST", f"/api/v1/namespaces/{kube.namespace}/serviceaccounts", body=account)
    container = {"name": "main", "image": "localhost/none"}
    spec = {"serviceAccountName": "nobody", "automountServiceAccountToken": False, "containers": [container]}

    async def one(kind: str, number: int, **fields: Any) -> None:
        async with limit:
            await kube.create(
                {"apiVersion": "v1", "kind": kind, "metadata": {"name": f"f{number}"}, **fields}
            )

    await asyncio.gather(*(one("Pod", number, spec=spec) for number in range(pods)))
    secret = {"stringData": {"text": "x" * 4096}}
    await asyncio.gather(*(one("Secret", number, **secret) for number in range(pods // 10)))


async def burst(plane: ControlPlane, folder: Path, api: Api, studies: int) -> Figures:
    """Studies created at once in a namespace of their own: seconds until all children are there, and requests for each."""
    namespace = _once("burst")
    await api.request("POST", "/api/v1/namespaces", body=tools.namespace_object(namespace))
    kube = tools.Kube(api, namespace)
    config = plane.token_kubeconfig("burst", await kube.account("burst"))
    operator = tools.Operator(folder, config, namespace, name="burst", role="hub")
    await operator.start()
    at = plane.audit_log.stat().st_size
    async with paper_nodes(kube, 4):
        began = time.perf_counter()
        await hundred.create(kube, studies)
        await hundred.all_there(kube, studies)
        took = time.perf_counter() - began
    calls = hundred.requests(plane, at, f"system:serviceaccount:{namespace}:burst")
    await operator.stop()
    return {"burst_seconds": took, "burst_requests_each": sum(calls.values()) / studies}


async def make(folder: Path, kube: tools.Kube, config: Path, arguments: argparse.Namespace) -> Figures:
    """All studies with all their children, by an operator that is not the measured one."""
    maker = tools.Operator(folder, config, kube.namespace, name="maker", role="hub", everywhere=True)
    await maker.start()
    began = time.perf_counter()
    await populate(kube, arguments.studies, arguments.sites)
    await made(kube, maker, arguments.studies)
    took = time.perf_counter() - began
    assert maker.process is not None
    largest = peak(maker.process.pid)
    maker.send(tools.signal.SIGTERM)
    await maker.wait()
    print(f"made after {took:.0f} s; measuring", flush=True)
    return {"create_seconds": took, "create_peak_mib": largest}


async def begin(operator: tools.Operator, studies: int) -> Figures:
    """Start the measured operator."""
    began = time.perf_counter()
    await operator.start(ready=False)
    while not await operator.is_ready():  # noqa: ASYNC110 - it is a process
        await asyncio.sleep(0.05)
    ready = time.perf_counter() - began
    await settled(operator, studies)
    took = time.perf_counter() - began
    return {"ready_seconds": ready, "start_seconds": took, "start_cpu_seconds": cpu(pid_of(operator))}


async def rest(plane: ControlPlane, operator: tools.Operator, seconds: float) -> Figures:
    """What an operator costs to which nothing happens."""
    pid = pid_of(operator)
    await asyncio.sleep(15)
    at, before = plane.audit_log.stat().st_size, cpu(pid)
    await asyncio.sleep(seconds)
    used = cpu(pid) - before
    with plane.audit_log.open() as log:
        log.seek(at)
        requests = [json.loads(line) for line in log]
    writes = [r for r in requests if r["verb"] not in ("get", "list", "watch")]
    return {
        "idle_cpu_percent": 100 * used / seconds,
        "idle_requests": len(requests),
        "idle_writes": len([r for r in writes if r.get("objectRef", {}).get("resource") != "leases"]),
        "rss_mib": rss(pid),
        "peak_mib": peak(pid),
    }


async def changes(kube: tools.Kube, arguments: argparse.Namespace) -> Figures:
    """How soon a change is handled, one at a time."""
    chosen = random.Random(0).sample(range(arguments.studies), arguments.changes)
    took = sorted([await change(kube.api, kube.namespace, f"study-{n:04d}", n) for n in chosen])
    return {"change_p50": statistics.median(took), "change_p99": took[int(0.99 * (len(took) - 1))]}


async def foreign(kube: tools.Kube, operator: tools.Operator, pods: int) -> Figures:
    """What other people's objects cost."""
    alone = rss(pid_of(operator))
    await crowd(kube.api, pods)
    await asyncio.sleep(15)
    return {"foreign_pods": pods, "foreign_growth_percent": 100 * (rss(pid_of(operator)) / alone - 1)}


async def observe(
    plane: ControlPlane, folder: Path, kube: tools.Kube, config: Path, arguments: argparse.Namespace
) -> Figures:
    """An operator that starts where all studies are, rests, and handles changes."""
    operator = tools.Operator(folder, config, kube.namespace, name="measured", role="hub", everywhere=True)
    result = await begin(operator, arguments.studies)
    result |= await rest(plane, operator, arguments.idle)
    result |= await changes(kube, arguments)
    if arguments.foreign:
        result |= await foreign(kube, operator, arguments.foreign)
    await operator.stop()
    return result


async def measure(plane: ControlPlane, folder: Path, arguments: argparse.Namespace) -> Figures:
    """All figures."""
    api = Api(await connect(str(plane.kubeconfig)))
    kube = tools.Kube(api, "scale")
    result: Figures = {"studies": arguments.studies, "sites": arguments.sites}
    config = await kept(plane, kube, arguments.studies)
    if config is None:
        await api.request("POST", "/api/v1/namespaces", body=tools.namespace_object(kube.namespace))
        config = plane.token_kubeconfig("operator", await kube.account("operator"))
        result |= await make(folder, kube, config, arguments)
    result |= await observe(plane, folder, kube, config, arguments)
    if arguments.burst:
        result |= {"burst_studies": arguments.burst, **await burst(plane, folder, api, arguments.burst)}
    await api.close()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--idle", type=float, default=300.0)
    parser.add_argument("--foreign", type=int, default=10_000)
    parser.add_argument("--burst", type=int, default=100)
    parser.add_argument("--plane", type=Path, help="where the control plane lies, and stays")
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.plane or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        with ControlPlane(folder) as plane:
            asyncio.run(tools._install(plane))
            figures = asyncio.run(measure(plane, Path(name), arguments))
    figures["machine"] = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    for label, value in figures.items():
        print(f"{label:<20} {value:.3f}" if isinstance(value, float) else f"{label:<20} {value}")


if __name__ == "__main__":
    main()
