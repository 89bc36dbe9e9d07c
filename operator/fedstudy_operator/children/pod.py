"""Parts of pods: the restricted security context, volumes, environment, probes, and policies of who may talk to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstudy_operator.api.meta import Resources

PORT = 8443
PORT_NAME = "grpc"
_GROUP = 65532


def security() -> dict[str, Any]:
    """Of a pod: what the restricted Pod Security Standard asks for. The group may read mounted Secrets."""
    return {
        "runAsNonRoot": True,
        "fsGroup": _GROUP,
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
    amounts = {
        name: {k: str(v) for k, v in values.items()}
        for name, values in (("requests", resources.requests), ("limits", resources.limits))
        if values
    }
    if amounts:
        result["resources"] = amounts
    return result


def serving(made: dict[str, Any]) -> dict[str, Any]:
    """The container, with a port and probes of it."""
    probe = {"tcpSocket": {"port": PORT_NAME}}
    return {
        **made,
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {**probe, "periodSeconds": 5},
        "livenessProbe": {**probe, "periodSeconds": 20, "failureThreshold": 6},
    }


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


DNS: dict[str, Any] = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
"""An egress rule: names may be looked up."""

FROM_OPERATOR: dict[str, Any] = {
    "namespaceSelector": {},
    "podSelector": {
        "matchLabels": {"app.kubernetes.io/name": "fedstudy", "app.kubernetes.io/component": "operator"}
    },
}
"""A peer of an ingress rule: the operator, wherever it is."""


def ports(*numbers: int) -> list[dict[str, Any]]:
    """TCP ports of a NetworkPolicy's rule."""
    return [{"port": number, "protocol": "TCP"} for number in sorted(set(numbers))]
