"""What a cloud would give the test cluster: NetworkPolicies that are enforced, and volumes for claims.

    addons.py KUBECONFIG NETWORK_NAMESPACE VOLUMES

Policies become one nftables table in the node's network namespace, looked at three times a second; it knows pod and namespace
selectors, address blocks, ports by number, name and range. A claim of the class `folders` gets a folder of the node when a pod wants it.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
PROVISIONER, CLASS = "fedstudy.io/folders", "folders"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""Annotation of a claim: the scheduler has found a node for its first pod."""


class Api:
    """The API server, as administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._url = cluster["server"]
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._context.load_cert_chain(user["client-certificate"], user["client-key"])

    def list(self, path: str) -> list[Object]:
        """The items of a collection."""
        items: list[Object] = self.request("GET", path)["items"]
        return items

    def request(self, method: str, path: str, body: Object | None = None) -> Object:
        """A request; its JSON."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self._url + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, context=self._context, timeout=10) as answer:
            result: Object = json.load(answer)
            return result


# NetworkPolicies


@dataclass(frozen=True)
class Pod:
    """A pod with an address."""

    namespace: str
    labels: Mapping[str, str]
    address: str
    ports: Mapping[str, int]


@dataclass(frozen=True)
class Direction:
    """Ingress or egress: how a policy calls it, and which address of a packet is the peer's."""

    kind: str
    rules: str
    peers: str
    peer_address: str
    own_address: str
    chain: str


INGRESS = Direction("Ingress", "ingress", "from", "saddr", "daddr", "in")
EGRESS = Direction("Egress", "egress", "to", "daddr", "saddr", "eg")


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches."""
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    tests: dict[str, Callable[[str | None, Sequence[str]], bool]] = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, values: value is not None,
        "DoesNotExist": lambda value, values: value is None,
    }
    return all(
        tests[e["operator"]](labels.get(e["key"]), e.get("values") or [])
        for e in selector.get("matchExpressions") or []
    )


def table(
    pods: Sequence[Pod], namespaces: Mapping[str, Mapping[str, str]], policies: Sequence[Object]
) -> str:
    """The body of an nftables table which lets through what the policies let through. Pure."""
    chains, jumps = [], {"in": list[str](), "eg": list[str]()}
    for pod in pods:
        for way in (INGRESS, EGRESS):
            mine = [p["spec"] for p in policies if _applies(p, pod, way)]
            if not mine:
                continue
            rules = [
                rule for spec in mine for entry in spec.get(way.rules) or [] for rule in _rules(entry, way, pod, pods, namespaces)
            ]  # fmt: skip
            name = f"{way.chain}_{pod.address.replace('.', '_')}"
            chains.append(
                f"chain {name} {{\n" + "".join(f"  {rule}\n" for rule in rules) + "  counter drop\n}"
            )
            jumps[way.chain].append(f"{pod.address} : jump {name}")
    egress = _map(jumps["eg"], EGRESS.own_address)
    ingress = _map(jumps["in"], INGRESS.own_address)
    head = "policy accept;\n  ct state established,related accept\n"
    return (
        "\n".join(chains)
        + f"\nchain forward {{ type filter hook forward priority -10; {head}{egress}{ingress}}}\n"
        + f"chain input {{ type filter hook input priority -10; {head}{egress}}}\n"
    )


def _applies(policy: Object, pod: Pod, way: Direction) -> bool:
    spec = policy["spec"]
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and selects(spec.get("podSelector") or {}, pod.labels)
        and way.kind in spec.get("policyTypes", ["Ingress"])
    )


def _rules(
    entry: Object, way: Direction, pod: Pod, pods: Sequence[Pod], namespaces: Mapping[str, Mapping[str, str]]
) -> Iterable[str]:
    for peer, targets in _peers(entry.get(way.peers), way, pod, pods, namespaces):
        ports = entry.get("ports")
        for port in [_port(p, targets) for p in ports] if ports else [""]:
            if port is not None:
                yield f"{peer}{port}return"


def _peers(
    peers: Sequence[Object] | None,
    way: Direction,
    pod: Pod,
    pods: Sequence[Pod],
    namespaces: Mapping[str, Mapping[str, str]],
) -> Iterable[tuple[str, Sequence[Pod]]]:
    """Matches of the peer's address, each with the pods whose named ports are meant."""
    if not peers:
        yield "", pods if way is EGRESS else [pod]
    for peer in peers or []:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            without = ", ".join(block.get("except") or [])
            but = f"ip {way.peer_address} != {{ {without} }} " if without else ""
            yield f"ip {way.peer_address} {block['cidr']} {but}", [pod]
            continue
        hit = [
            other
            for other in pods
            if (
                selects(peer["namespaceSelector"], namespaces.get(other.namespace, {}))
                if "namespaceSelector" in peer
                else other.namespace == pod.namespace
            )
            and selects(peer.get("podSelector") or {}, other.labels)
        ]
        if hit:
            addresses = ", ".join(sorted({other.address for other in hit}))
            yield f"ip {way.peer_address} {{ {addresses} }} ", hit if way is EGRESS else [pod]


def _port(port: Object, targets: Sequence[Pod]) -> str | None:
    protocol, value = port.get("protocol", "TCP").lower(), port.get("port")
    if value is None:
        return f"meta l4proto {protocol} "
    if isinstance(value, str):
        numbers = sorted({target.ports[value] for target in targets if value in target.ports})
        return f"{protocol} dport {{ {', '.join(map(str, numbers))} }} " if numbers else None
    return (
        f"{protocol} dport {value}-{port['endPort']} "
        if port.get("endPort")
        else f"{protocol} dport {value} "
    )


def _map(entries: Sequence[str], address: str) -> str:
    return f"  ip {address} vmap {{ {', '.join(entries)} }}\n" if entries else ""


def live(objects: Sequence[Object]) -> list[Pod]:
    """The pods that have an address of their own."""
    return [
        Pod(
            obj["metadata"]["namespace"],
            obj["metadata"].get("labels") or {},
            obj["status"]["podIP"],
            {
                port["name"]: port["containerPort"]
                for container in obj["spec"]["containers"]
                for port in container.get("ports") or []
                if "name" in port
            },
        )
        for obj in objects
        if obj["status"].get("podIP")
        and not obj["spec"].get("hostNetwork")
        and obj["status"].get("phase") in ("Pending", "Running")
    ]


def enforce(api: Api, namespace: str, last: str) -> str:
    """Put the present policies into force, if they differ from the last."""
    namespaces = {
        n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in api.list("/api/v1/namespaces")
    }
    policies = api.list("/apis/networking.k8s.io/v1/networkpolicies")
    body = table(live(api.list("/api/v1/pods")), namespaces, policies)
    if body != last:
        text = f"table inet policies\ndelete table inet policies\ntable inet policies {{\n{body}}}\n"
        command = ["nsenter", f"--net=/run/netns/{namespace}", "nft", "-f", "-"]
        subprocess.run(command, input=text, text=True, check=True)
    return body


# Volumes


def provide(api: Api, root: Path) -> None:
    """A folder for each claim that waits for one, and none for those whose claim is gone."""
    volumes = {v["metadata"]["name"]: v for v in api.list("/api/v1/persistentvolumes")}
    for claim in api.list("/api/v1/persistentvolumeclaims"):
        spec, metadata = claim["spec"], claim["metadata"]
        wanted = SELECTED_NODE in (metadata.get("annotations") or {}) and not spec.get("volumeName")
        if spec.get("storageClassName") != CLASS or not wanted or "deletionTimestamp" in metadata:
            continue
        name = f"folder-{metadata['uid']}"
        if name not in volumes:
            folder = root / f"{metadata['namespace']}-{metadata['name']}-{metadata['uid'][:8]}"
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            api.request("POST", "/api/v1/persistentvolumes", _volume(claim, name, folder))
    for name, volume in volumes.items():
        if name.startswith("folder-") and (volume.get("status") or {}).get("phase") in ("Released", "Failed"):
            api.request("DELETE", f"/api/v1/persistentvolumes/{name}")


def _volume(claim: Object, name: str, folder: Path) -> Object:
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "storageClassName": CLASS,
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
        },
    }


def main() -> None:
    """Look at both for ever; what fails is said, and tried again."""
    api, namespace, root = Api(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    last = ""
    while True:
        try:
            last = enforce(api, namespace, last)
            provide(api, root)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
            print(time.strftime("%H:%M:%S"), repr(error), file=sys.stderr, flush=True)
        time.sleep(0.3)


if __name__ == "__main__":
    main()
