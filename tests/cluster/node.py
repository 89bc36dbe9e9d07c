"""A whole cluster on this machine: the control plane, and one real node with containerd and a kubelet that run real pods.

The control plane is that of `control_plane.py`; the node lives in a network namespace of its own, behind a veth pair, with a bridge for
pods, kube-proxy for Services, CoreDNS for names, and `addons.py` for NetworkPolicies and volumes. From the host, pods and Services are
reached directly. A guardian process takes everything down when the process that started the cluster ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID
from tests.cluster import commands, settings
from tests.cluster.build import binary, cache
from tests.cluster.commands import run
from tests.cluster.control_plane import REPOSITORY, ControlPlane, _cn, _wait
from tests.cluster.images import base
from tests.cluster.leavings import cgroup_roots, down

HERE = Path(__file__).resolve().parent
TOOLS = (
    "containerd",
    "runc",
    "ctr",
    "ip",
    "nft",
    "iptables",
    "nsenter",
    "conntrack",
    "buildah",
    "debootstrap",
    "busybox",
    "cc",
)
PACKAGES = (
    "containerd", "runc", "containernetworking-plugins", "iproute2", "nftables", "iptables", "conntrack", "util-linux",
    "buildah", "debootstrap", "busybox-static", "gcc", "libc6-dev", "binutils", "make",
)  # fmt: skip
"""Debian's packages that a node needs, and those that make images."""
_STOPPED_FIRST = ("kubelet", "kube-proxy", "addons")


def missing_tools() -> list[str]:
    """Which commands a node needs and this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Cluster(ControlPlane):
    """Control plane and node number N (0 to 99); several can run beside each other.

    Args:
        number: of the cluster; it decides names and addresses. None: the first that is free.
        gpus: how many `nvidia.com/gpu` the node pretends to have.
    """

    def __init__(self, number: int | None = None, *, gpus: int = 0, flags: Sequence[str] = ()) -> None:
        number, self._lock = reserve(number)
        super().__init__(folder_of(number), binary=binary("hyperkube"), flags=flags)
        self._coredns = binary("coredns").parent
        self.number, self.gpus = number, gpus
        self.name = f"fedstudy-{number}"
        self.address = f"10.200.{number}.254"
        self.node_address = f"10.200.{number}.1"
        self.pods = f"10.210.{number}.0/24"
        self.services = f"10.220.{number}.0/24"
        self.dns = f"10.220.{number}.10"
        self.port = 6443
        self._link = f"fed{number}"
        self._guardian: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Of containerd."""
        return self.folder / "containerd" / "containerd.sock"

    def up(self) -> None:
        """Bring everything up; what an earlier run left is taken down first."""
        if lacking := missing_tools():
            raise FileNotFoundError(f"missing: {', '.join(lacking)}; apt-get install {' '.join(PACKAGES)}")
        down(self.number, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", "guard", str(self.number)],
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
            pass_fds=[self._lock],  # the number is taken until the guardian has ended, too
            start_new_session=True,
        )
        self._network()
        super().up()
        self._configure_node()
        self.start("containerd")
        _wait("containerd", lambda: self._alive("containerd") and self._containerd_answers())
        self._forget_containers()
        for image in (base.pause(), base.busybox()):
            self.load_image(image)
        for name in ("kube-scheduler", *_STOPPED_FIRST):
            self.start(name)
        _wait("the node", lambda: self._alive("kubelet") and self._node_ready())
        self._pretend_gpus()
        self.kubectl("apply", "--server-side", "-f", "-", stdin=self._manifests())
        self.kubectl("-n", "kube-system", "rollout", "status", "deploy/coredns", "--timeout=120s")
        for name in self._processes:
            self._alive(name)

    def down(self) -> None:
        """Take everything down; nothing is left but the folder with certificates and imported images."""
        for name in (*_STOPPED_FIRST, "kube-scheduler"):
            self.stop(name)
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            if self._guardian.wait(120) != 0:  # somebody has killed it
                down(self.number, self.folder)
            self._guardian = None
        self.stop("containerd")
        super().down()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def command(self, name: str) -> list[str]:
        """How a component is run."""
        inside = ["nsenter", f"--net=/run/netns/{self.name}"]
        config = str(self.folder / f"{name}.yaml")
        kubeconfig = f"--kubeconfig={self.folder / f'{name}.kubeconfig'}"
        match name:
            case "kube-scheduler":
                return [
                    str(self._binary), name, kubeconfig, "--leader-elect=false", "--profiling=false", "--secure-port=0",
                    "--kube-api-qps=300", "--kube-api-burst=600", "--pod-max-in-unschedulable-pods-duration=10s",
                ]  # fmt: skip
            case "containerd":
                return [*inside, "containerd", "--config", str(self.folder / "containerd.toml")]
            case "kubelet":
                root = self.folder / "kubelet"
                return [
                    *inside, str(self._binary), name, f"--config={config}", kubeconfig, f"--hostname-override={self.name}",
                    f"--node-ip={self.node_address}", f"--root-dir={root}",
                ]  # fmt: skip
            case "kube-proxy":
                return [*inside, str(self._binary), name, f"--config={config}"]
            case "addons":
                volumes = self.folder / "volumes"
                return [
                    sys.executable,
                    str(HERE / "addons.py"),
                    str(self.kubeconfig),
                    self.name,
                    str(volumes),
                ]
        return super().command(name)

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as administrator; its output.

        Raises:
            CommandError: it failed, unless `check` is False.
        """
        return commands.kubectl(self.kubeconfig, *words, stdin=stdin, check=check)

    def helm(self, *words: str) -> str:
        """Run helm as administrator; its output.

        Raises:
            CommandError: it failed.
        """
        return commands.helm(self.kubeconfig, *words)

    def load_image(self, path: Path, *, also: str = "") -> None:
        """Import a docker archive, unless this very file was imported before, and give its image another name, too."""
        mark = self.folder / "images" / f"{path.name}.{path.stat().st_mtime_ns}"
        if not mark.exists():
            name = json.loads(run("tar", "-xOf", str(path), "manifest.json"))[0]["RepoTags"][0]
            self._ctr("images", "import", str(path))
            mark.parent.mkdir(exist_ok=True)
            mark.write_text(name)
        if also:
            self._ctr("images", "tag", "--force", mark.read_text(), also)

    def users(self) -> list[tuple[str, list[x509.NameAttribute[str]]]]:
        """The node's own certificates and the scheduler's."""
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes")
        masters = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")
        return [
            ("kube-scheduler", [_cn("system:kube-scheduler")]),
            ("kube-proxy", [_cn("system:kube-proxy")]),
            ("kubelet", [organisation, _cn(f"system:node:{self.name}")]),
            ("kubelet-client", [masters, _cn("kube-apiserver-kubelet-client")]),
        ]

    def names(self) -> list[x509.GeneralName]:
        """What every certificate is good for as a server."""
        first = str(ip_address(self.services.partition("/")[0]) + 1)
        addresses = (self.address, self.node_address, first)
        inside = ("kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
        return [
            *super().names(),
            x509.DNSName(self.name),
            *(x509.DNSName(name) for name in inside),
            *(x509.IPAddress(ip_address(address)) for address in addresses),
        ]

    def _apiserver(self) -> list[str]:
        return [
            *super()._apiserver(),
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={self.pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={self.pki / 'kubelet-client.key'}",
            f"--kubelet-certificate-authority={self.pki / 'ca.crt'}",
        ]

    # The node

    def _network(self) -> None:
        """A namespace for the node, joined to the host by a veth pair; the host reaches pods and Services through it."""
        name, link = self.name, self._link
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{self.address}/24", "dev", link)
        run("ip", "link", "set", link, "up")
        inside = ["nsenter", f"--net=/run/netns/{name}"]
        for words in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "addr", "add", f"{self.node_address}/24", "dev", "eth0"),
            ("ip", "link", "set", "eth0", "up"),
            ("ip", "route", "add", "default", "via", self.address),
            ("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"),
        ):
            run(*inside, *words)
        subprocess.run(
            [*inside, "sh", "-c", "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables"],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        for network in (self.pods, self.services):
            run("ip", "route", "add", network, "via", self.node_address)

    def _configure_node(self) -> None:
        for folder in ("containerd", "cni", "kubelet", "volumes"):
            (self.folder / folder).mkdir(exist_ok=True)
        for who in ("kube-scheduler", "kube-proxy", "kubelet"):
            user = {
                "client-certificate": str(self.pki / f"{who}.crt"),
                "client-key": str(self.pki / f"{who}.key"),
            }
            (self.folder / f"{who}.kubeconfig").write_text(self._kubeconfig(user))
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (self.folder / "containerd.toml").write_text(settings.containerd_config(self))
        (self.folder / "cni" / "10-fedstudy.conflist").write_text(json.dumps(settings.cni_config(self)))
        # Block style: a file that begins with a brace would be taken for JSON of another kind.
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(settings.kubelet_config(self)))
        (self.folder / "kube-proxy.yaml").write_text(yaml.safe_dump(settings.proxy_config(self)))
        for root in cgroup_roots():
            (root / self.name).mkdir(exist_ok=True)
            for entry in ("cpuset.cpus", "cpuset.mems"):
                if (root / entry).exists():
                    (root / self.name / entry).write_text((root / entry).read_text())

    def _containerd_answers(self) -> bool:
        command = ["ctr", "-a", str(self.socket), "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _ctr(self, *words: str) -> str:
        return run("ctr", "-a", str(self.socket), "-n", "k8s.io", *words)

    def _forget_containers(self) -> None:
        """Remove what containerd remembers of the last run's containers; its images stay."""
        if containers := self._ctr("containers", "list", "--quiet").split():
            self._ctr("containers", "delete", *containers)
            self.stop("containerd")
            for kind in ("containers", "sandboxes"):
                shutil.rmtree(
                    self.folder / "containerd/root/io.containerd.grpc.v1.cri" / kind, ignore_errors=True
                )
            self.start("containerd")
            _wait("containerd", lambda: self._alive("containerd") and self._containerd_answers())

    def _node_ready(self) -> bool:
        path = '{.status.conditions[?(@.type=="Ready")].status}'
        return "True" in self.kubectl("get", "node", self.name, "-o", f"jsonpath={path}", check=False)

    def _pretend_gpus(self) -> None:
        if not self.gpus:
            return
        patch = [
            {"op": "add", "path": f"/status/{part}/nvidia.com~1gpu", "value": str(self.gpus)}
            for part in ("capacity", "allocatable")
        ]
        self.kubectl(
            "patch", "node", self.name, "--subresource=status", "--type=json", "-p", json.dumps(patch)
        )

    def _manifests(self) -> str:
        text = (HERE / "cluster.yaml").read_text()
        return text.replace("@DNS@", self.dns).replace("@COREDNS@", str(self._coredns))


def install_packages() -> None:
    """Install what a node needs where it is lacking; Debian and Ubuntu only.

    Raises:
        RuntimeError: apt failed.
    """
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update", "--quiet")
    run("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES)


def folder_of(number: int) -> Path:
    """Where cluster N has its files."""
    return (cache() / f"cluster-{number}").resolve()


def reserve(number: int | None) -> tuple[int, int]:
    """A number that no other cluster of this machine has, and the lock that holds it as long as it is open."""
    cache().mkdir(parents=True, exist_ok=True)
    for candidate in range(100) if number is None else [number]:
        if number is None and Path(f"/run/netns/kubelab-{candidate}").exists():
            continue
        lock = os.open(cache() / f".cluster-{candidate}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return candidate, lock
    raise RuntimeError(
        f"cluster {number} is up already" if number is not None else "100 clusters are up already"
    )
