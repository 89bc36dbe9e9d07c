"""Claims get volumes, names resolve, policies block, memory limits kill, a restricted namespace refuses root, and GPUs run out."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cluster.commands import CommandError
from tests.cluster.fixtures import AnyCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
PATIENCE = 120.0
IMAGE = "localhost/busybox:1"


@pytest.fixture
def namespace(cluster: AnyCluster) -> Iterator[str]:
    """A namespace of the test's own, restricted as ours are."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """A pod of busybox that a restricted namespace takes. `volumes`, `limits` and `ports` as in a pod; the rest goes into its spec."""
    mounts = [
        {"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in spec.get("volumes", [])
    ]
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "volumeMounts": mounts,
        "resources": {"limits": spec.pop("limits", {"memory": "64Mi"}), "requests": {"cpu": "1m"}},
        "ports": spec.pop("ports", []),
        "securityContext": safe,
    }
    user = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    whole = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": user,
        "containers": [container],
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": whole,
    }


def claim(name: str, mode: str) -> dict[str, Any]:
    """A claim on the default class."""
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def apply(cluster: AnyCluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Apply them."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)


def until(what: str, look: Callable[[], Any], wanted: Callable[[Any], bool] = bool) -> Any:
    """Look until it is as wanted; what was seen."""
    end = time.monotonic() + PATIENCE
    while not wanted(seen := look()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {PATIENCE:g} s; last seen: {seen}")
        time.sleep(0.2)
    return seen


def phase(cluster: AnyCluster, namespace: str, name: str) -> str:
    """Of a pod."""
    return cluster.kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.phase}")


def ended(cluster: AnyCluster, namespace: str, name: str) -> str:
    """Wait for a pod's end; its phase."""
    return str(
        until(
            f"the end of {name}",
            lambda: phase(cluster, namespace, name),
            {"Succeeded", "Failed"}.__contains__,
        )
    )


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadOnlyMany"])
def test_a_claim_gets_a_volume_that_the_next_pod_sees(cluster: AnyCluster, namespace: str, mode: str) -> None:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    apply(cluster, namespace, claim("data", mode), pod("writes", "echo images > /data/file", volumes=volumes))
    assert ended(cluster, namespace, "writes") == "Succeeded"
    apply(cluster, namespace, pod("reads", "cat /data/file", volumes=volumes))
    assert ended(cluster, namespace, "reads") == "Succeeded"
    assert cluster.kubectl("-n", namespace, "logs", "reads") == "images\n"


def test_a_service_is_found_by_its_name_and_a_policy_cuts_it_off(cluster: AnyCluster, namespace: str) -> None:
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "served"},
        "spec": {"selector": {"app": "served"}, "ports": [{"port": 80, "targetPort": "web"}]},
    }  # fmt: skip
    apply(
        cluster,
        namespace,
        service,
        pod("served", "mkdir /tmp/w; echo hello > /tmp/w/index.html; httpd -f -p 8080 -h /tmp/w", ports=[{"name": "web", "containerPort": 8080}]),
        pod("asks", "sleep 3600"),
        pod("friend", "sleep 3600"),
    )  # fmt: skip
    for name in ("served", "asks", "friend"):
        until(f"{name} running", lambda name=name: phase(cluster, namespace, name), "Running".__eq__)
    host = f"served.{namespace}.svc.cluster.local"

    def answer(who: str) -> str:
        script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {host} 80"
        return cluster.kubectl("-n", namespace, "exec", who, "--", "sh", "-c", script, check=False)

    assert "hello" in until("an answer before the policy", lambda: answer("asks"))
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "friends"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "served"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}], "ports": [{"port": "web"}]}],
        },
    }  # fmt: skip
    apply(cluster, namespace, policy)
    until("the policy's effect", lambda: answer("asks"), lambda seen: "hello" not in seen)
    assert "hello" in until("a friend's answer", lambda: answer("friend"))
    assert "hello" not in answer("asks")
    closed = {
        **policy,
        "metadata": {"name": "mute"},
        "spec": {"podSelector": {"matchLabels": {"app": "friend"}}, "policyTypes": ["Egress"]},
    }
    apply(cluster, namespace, closed)
    until("the egress policy's effect", lambda: answer("friend"), lambda seen: "hello" not in seen)


def test_a_pod_over_its_memory_is_killed(cluster: AnyCluster, namespace: str) -> None:
    apply(
        cluster, namespace, pod("hungry", "tail -c 200m /dev/zero | wc -c; exit 0", limits={"memory": "16Mi"})
    )
    assert ended(cluster, namespace, "hungry") in ("Failed", "Succeeded")
    path = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"
    assert cluster.kubectl("-n", namespace, "get", "pod", "hungry", "-o", path) == "OOMKilled"


def test_a_restricted_namespace_refuses_a_pod_as_root(cluster: AnyCluster, namespace: str) -> None:
    root = pod("root", "id")
    root["spec"]["securityContext"] = {}
    with pytest.raises(CommandError, match=r"violates PodSecurity .restricted"):
        apply(cluster, namespace, root)


def test_a_third_pod_waits_where_the_node_has_two_gpus(cluster: AnyCluster, namespace: str) -> None:
    limits = {"memory": "16Mi", "nvidia.com/gpu": "1"}
    names = ["first", "second", "third"]
    apply(cluster, namespace, *(pod(name, "sleep 3600", limits=limits) for name in names))

    def phases() -> list[str]:
        return sorted(phase(cluster, namespace, name) for name in names)

    until("two pods running", phases, ["Pending", "Running", "Running"].__eq__)
    path = "jsonpath={.items[*].status.conditions[?(@.reason=='Unschedulable')].message}"
    seen = until("the reason", lambda: cluster.kubectl("-n", namespace, "get", "pods", "-o", path))
    assert "Insufficient nvidia.com/gpu" in seen
