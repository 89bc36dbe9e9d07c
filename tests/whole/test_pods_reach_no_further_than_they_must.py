"""Real pods that try to connect, to write and to find a token: what the policies and the security context promise is so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.cluster import build
from tests.whole.api import Object
from tests.whole.charts import NAMESPACE, Installed
from tests.whole.small import Small, pod, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

PORT = 8443
LISTENS = f"""
import http.server
http.server.ThreadingHTTPServer(("", {PORT}), http.server.BaseHTTPRequestHandler).serve_forever()
"""
CONNECTS = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reach(target):
    host, _, port = target.rpartition(":")
    try:
        address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4]
    except OSError as error:
        return f"no address: {error}"
    try:
        socket.create_connection(address, timeout=4).close()
    except OSError as error:
        return f"closed: {error}"
    return "open"
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(16) as pool:
    print(json.dumps(dict(zip(targets, pool.map(reach, targets.values())))))
"""
Reach = Callable[[Object], dict[str, str]]


@pytest.fixture(scope="module")
def bystander(installed: Installed) -> Iterator[Object]:
    """A pod that has nothing to do with studies, under no policy, and that listens."""
    namespace = "bystanders"
    installed.namespace(namespace)
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(pod("bystander", namespace, LISTENS)))
    path = f"/api/v1/namespaces/{namespace}/pods/bystander"
    yield until(
        "the bystander",
        lambda: installed.eyes.get(path) or {},
        lambda one: one.get("status", {}).get("phase") == "Running",
    )
    installed.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def reach(busy: Small, bystander: Object) -> Reach:
    """From within a pod: which of all there is can be connected to."""
    south = busy.namespace("south")
    targets = {
        "API server": "kubernetes.default.svc:443",
        "aggregator": f"busy-aggregator.{busy.hub}.svc:443",
        "aggregator's metrics": f"{address(busy.aggregators()[0])}:9090",
        "own agent": f"busy-agent.{busy.namespace('north')}.svc:8443",
        "another's agent": f"busy-agent.{south}.svc:8443",
        "another's trainer": f"{address(busy.running('south', 'trainer')[0])}:{PORT}",
        "bystander": f"{address(bystander)}:{PORT}",
    }

    def look(who: Object) -> dict[str, str]:
        found: dict[str, str] = json.loads(busy.python(who, CONNECTS, json.dumps(targets)))
        assert not [name for name, seen in found.items() if seen.startswith("no address")], found
        return {name: seen.partition(":")[0] for name, seen in found.items()}

    return look


def address(one: Object) -> str:
    """A pod's."""
    return str(one["status"]["podIP"])


def opened(seen: dict[str, str]) -> set[str]:
    """What could be connected to."""
    return {name for name, state in seen.items() if state == "open"}


@contextmanager
def listening(busy: Small, who: Object) -> Iterator[None]:
    """Something listens within a pod that by itself does not."""
    metadata = who["metadata"]
    words = ["exec", "-n", metadata["namespace"], metadata["name"], "--", "python3", "-c", LISTENS]
    command = [
        str(build.binary("hyperkube")), "kubectl", f"--kubeconfig={busy.installed.cluster.kubeconfig}", *words,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            itself = json.dumps({"itself": f"{address(who)}:{PORT}"})
            until(
                "the listener",
                lambda: json.loads(busy.python(who, CONNECTS, itself))["itself"],
                "open".__eq__,
            )
            yield
        finally:
            process.kill()


def test_who_is_under_no_policy_reaches_all_that_listens_for_everybody(
    bystander: Object, reach: Reach
) -> None:
    """Without this the tests below would prove nothing: names resolve, pods answer, and what is closed is closed by a policy."""
    assert opened(reach(bystander)) == {"API server", "aggregator", "bystander"}


def test_a_trainer_reaches_its_agent_alone(busy: Small, reach: Reach) -> None:
    """Checklist 17: its agent, and names (each target above was looked up); not the hub, not the API server, nobody else."""
    assert opened(reach(busy.running("north", "trainer")[0])) == {"own agent"}


def test_an_agent_reaches_the_hub_alone(busy: Small, reach: Reach) -> None:
    """Checklist 17: the aggregator of its study; it has no business with the API server."""
    seen = opened(reach(busy.running("north", "agent")[0]))
    assert seen == {"aggregator"}


def test_an_aggregator_calls_nobody(busy: Small) -> None:
    targets = json.dumps({"API server": f"{cluster_ip(busy)}:443", "agent": agent_of(busy)})
    found = json.loads(busy.python(busy.aggregators()[0], CONNECTS, targets))
    assert opened({name: seen.partition(":")[0] for name, seen in found.items()}) == set()


def cluster_ip(busy: Small) -> str:
    """The API server's Service."""
    service = busy.installed.eyes.get("/api/v1/namespaces/default/services/kubernetes")
    assert service is not None
    return str(service["spec"]["clusterIP"])


def agent_of(busy: Small) -> str:
    """A hospital's agent, by address."""
    return f"{address(busy.running('north', 'agent')[0])}:{PORT}"


def operators(installed: Installed) -> dict[str, Object]:
    """A pod of each release's operator."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    found = installed.eyes.list(path, component="operator")
    return {one["metadata"]["labels"]["app.kubernetes.io/instance"]: one for one in found}


def test_an_operator_reaches_the_api_server_and_its_own(installed: Installed, reach: Reach) -> None:
    """Checklist 17: the hub's operator its aggregators, the hospitals' operator their agents; no trainer, no stranger."""
    seen = {name: opened(reach(one)) for name, one in operators(installed).items()}
    assert seen == {
        "fedstudy-hub": {"API server", "aggregator"},
        "fedstudy-site": {"API server", "own agent", "another's agent"},
    }


def test_nobody_reaches_a_trainer(installed: Installed, busy: Small, bystander: Object, reach: Reach) -> None:
    """Checklist 17: even where something in it listens; not its agent, not its neighbour, not the operator, not the hub."""
    with listening(busy, busy.running("south", "trainer")[0]):
        others = {
            "bystander": bystander,
            "own agent": busy.running("south", "agent")[0],
            "another's trainer": busy.running("north", "trainer")[0],
            "another's agent": busy.running("north", "agent")[0],
            "operator": operators(installed)["fedstudy-site"],
        }
        seen = {name: reach(one)["another's trainer"] for name, one in others.items()}
    assert seen == dict.fromkeys(others, "closed")


CONFINED = """
import json, os, pathlib
def tried(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        return os.strerror(error.errno)
    return "written"
status = dict(line.split(":\\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines() if ":\\t" in line)
secrets = [key for key in os.environ if any(word in key.upper() for word in ("TOKEN", "KEY", "SECRET", "PASSWORD"))]
print(json.dumps({
    "table": tried("/data/participants.tsv"), "data": tried("/data/new"), "root": tried("/opt/new"), "tls": tried("/etc/fedstudy/tls/new"),
    "token": os.path.exists("/var/run/secrets/kubernetes.io"), "uid": os.getuid(), "secrets": secrets,
    "capabilities": int(status["CapEff"], 16), "no new privileges": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
}))
"""


def test_a_trainer_cannot_change_its_data_and_has_no_token(busy: Small) -> None:
    """Checklist 18, from within the pod."""
    seen = json.loads(busy.python(busy.running("north", "trainer")[0], CONFINED))
    read_only = "Read-only file system"
    assert seen == {
        "table": read_only, "data": read_only, "root": read_only, "tls": read_only, "token": False, "uid": 65532,
        "secrets": [], "capabilities": 0, "no new privileges": "1", "seccomp": "2",
    }  # fmt: skip


@pytest.mark.parametrize("component", ["agent", "aggregator"])
def test_neither_agent_nor_aggregator_has_a_token(busy: Small, component: str) -> None:
    one = busy.aggregators()[0] if component == "aggregator" else busy.running("north", component)[0]
    code = "import os; print(os.path.exists('/var/run/secrets/kubernetes.io'))"
    assert busy.python(one, code).strip() == "False"


def test_every_pod_of_ours_is_admitted_where_restricted_is_enforced(
    installed: Installed, busy: Small
) -> None:
    """Checklist 16: operator, aggregator, agent, preflight and trainer."""
    pods = installed.eyes.list("/api/v1/pods", **{"app.kubernetes.io/name": "fedstudy"})
    mine = [
        one
        for one in pods
        if one["metadata"]["namespace"] in {NAMESPACE, busy.hub, *map(busy.namespace, busy.sites)}
    ]
    components = {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in mine}
    assert components >= {"operator", "aggregator", "agent", "preflight", "trainer"}
    for name in {one["metadata"]["namespace"] for one in mine}:
        namespace = installed.eyes.get(f"/api/v1/namespaces/{name}") or {}
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
