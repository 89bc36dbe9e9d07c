"""Parts of pods: the restricted security context, volumes, environment, probes, and policies of who may talk to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstudy_operator.api.meta import Resources, is_device

PORT = 8443
PORT_NAME = "grpc"
METRICS_NAME = "metrics"
_USER = 65532


def security() -> dict[str, Any]:
    """Of a pod: what the restricted Pod Security Standard asks for. The group may read mounted Secrets."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container(
    component: str,
    image: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    mounts: Mapping[str, str],
    resources: Resources,
    *,
    read_only: Sequence[str] = (),
) -> dict[str, Any]:
    """A container that may change nothing but its writable volumes.

    Args:
        mounts: path → volume.
        read_only: the paths of those that cannot be written.
    """
    result: dict[str, Any] = {
        "name": component,
        "image": image,
        "command": list(command),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "volumeMounts": [
            {"name": volume, "mountPath": path, **({"readOnly": True} if path in read_only else {})}
            for path, volume in mounts.items()
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if written := amounts(resources):
        result["resources"] = written
    return result


def amounts(resources: Resources) -> dict[str, dict[str, str]]:
    """Requests and limits as Kubernetes takes them: of a device both are the same, whichever was written."""
    devices = {k: v for k, v in {**resources.requests, **resources.limits}.items() if is_device(k)}
    written = {
        "requests": {**resources.requests, **devices},
        "limits": {**resources.limits, **devices},
    }
    return {name: {k: str(v) for k, v in values.items()} for name, values in written.items() if values}


def without_devices(resources: Resources) -> Resources:
    """The same without GPUs."""
    return Resources(
        requests={k: v for k, v in resources.requests.items() if not is_device(k)},
        limits={k: v for k, v in resources.limits.items() if not is_device(k)},
    )


def asked(resources: Resources, **least: str) -> Resources:
    """The same, with small requests where nothing is asked: a pod without any is the first to be evicted.

    Args:
        least: resource → amount.
    """
    said = {**resources.requests, **resources.limits}
    missing = {name: amount for name, amount in least.items() if name not in said}
    return Resources(requests={**missing, **resources.requests}, limits=resources.limits)


def serving(made: dict[str, Any], metrics_port: int = 0) -> dict[str, Any]:
    """The container, with its ports and probes of them.

    Args:
        metrics_port: where it serves metrics, /healthz and /readyz; 0: it does not, and an open gRPC port must do.
    """
    ports = [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]
    ready: dict[str, Any] = {"tcpSocket": {"port": PORT_NAME}}
    alive, environment = ready, list(made["env"])
    if metrics_port:
        ports.append({"name": METRICS_NAME, "containerPort": metrics_port, "protocol": "TCP"})
        ready = {"httpGet": {"path": "/readyz", "port": METRICS_NAME}}
        alive = {"httpGet": {"path": "/healthz", "port": METRICS_NAME}}
        environment.append({"name": "FEDSTUDY_METRICS", "value": f"0.0.0.0:{metrics_port}"})
    return {
        **made,
        "env": environment,
        "ports": ports,
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {**alive, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def pull_secrets(names: Sequence[str]) -> dict[str, Any]:
    """The part of a pod's spec that says how its images are pulled; empty where nothing need be said."""
    return {"imagePullSecrets": [{"name": name} for name in dict.fromkeys(names)]} if names else {}


def secret_volume(name: str, secret: str) -> dict[str, Any]:
    """A Secret as files that only the pod's own group reads."""
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}}


def config_volume(name: str, config_map: str) -> dict[str, Any]:
    """A ConfigMap as files."""
    return {"name": name, "configMap": {"name": config_map}}


def scratch_volume(name: str, **options: Any) -> dict[str, Any]:
    """An empty folder that goes with the pod."""
    return {"name": name, "emptyDir": options}


def state_claim(storage: str, storage_class: str | None) -> dict[str, Any]:
    """The claim of a StatefulSet's folder that survives."""
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage}},
    }
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"metadata": {"name": "state"}, "spec": spec}


DNS: dict[str, Any] = {
    "to": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "169.254.20.10/32"}}],
    "ports": [{"port": port, "protocol": protocol} for port in (53, 5353) for protocol in ("UDP", "TCP")],
}
"""An egress rule: names may be looked up, within the cluster: CoreDNS, OpenShift's (5353), or a node's own cache."""

FROM_PROMETHEUS: dict[str, Any] = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}
"""A peer of an ingress rule: a Prometheus, wherever it is."""

FROM_OPERATOR: dict[str, Any] = {
    "namespaceSelector": {},
    "podSelector": {
        "matchLabels": {"app.kubernetes.io/name": "fedstudy", "app.kubernetes.io/component": "operator"}
    },
}
"""A peer of an ingress rule: the operator, wherever it is."""


def metrics_ingress(port: int) -> list[dict[str, Any]]:
    """The ingress rule of metrics; none where there are none."""
    return [{"from": [FROM_PROMETHEUS], "ports": ports(port)}] if port else []


def ports(*numbers: int) -> list[dict[str, Any]]:
    """TCP ports of a NetworkPolicy's rule."""
    return [{"port": number, "protocol": "TCP"} for number in sorted(set(numbers))]
