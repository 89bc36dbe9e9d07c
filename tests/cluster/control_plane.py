"""A control plane without nodes: etcd, kube-apiserver and kube-controller-manager of one binary, on free loopback ports.

Real custom resources with CEL, server-side apply, watches, RBAC, garbage collection and Job and StatefulSet controllers; no pod ever runs.
Up in about five seconds. Everything lies in one folder, and every process ends with the one that started it.

    .venv/bin/python tests/cluster/control_plane.py FOLDER        # until Ctrl-C; prints the KUBECONFIG
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "1.34.4"
START_SECONDS = 120.0
_LOOPBACK = "127.0.0.1"
_SERVICES = "10.96.0.0/16"
_FILES = (("certificate", "crt"), ("key", "key"))
_LEASH = (sys.executable, "-I", "-S", str(REPOSITORY / "operator/fedstudy_operator/local/leash.py"))


def hyperkube() -> Path:
    """Where the binary of all components is cached; it need not be there."""
    cache = os.environ.get("FEDSTUDY_CACHE") or Path.home() / ".cache" / "fedstudy"
    return Path(cache) / "cluster" / f"kubernetes-v{VERSION}" / "hyperkube"


class ControlPlane:
    """The three processes, their certificates and their logs.

    Args:
        folder: where all of it lies; kept for the next start.
        binary: hyperkube.
        flags: further flags of the API server.
    """

    components = ("etcd", "kube-apiserver", "kube-controller-manager")
    address = _LOOPBACK
    """Where the API server listens."""
    services = _SERVICES
    """Addresses of Services."""

    def __init__(self, folder: Path, *, binary: Path | None = None, flags: Sequence[str] = ()) -> None:
        self.folder = folder
        self._binary = binary or hyperkube()
        self._flags = tuple(flags)
        self.pki = folder / "pki"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port, self.etcd_port, self._peer_port, self._manager_port = _free_ports(4)

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://{self.address}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        return self.folder / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON object for each request that was answered."""
        return self.folder / "audit.log"

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Start what does not run, and wait until the API server serves and can make objects of a namespace."""
        if not self._binary.is_file():
            raise FileNotFoundError(
                f"{self._binary} is not there: run `python -m tests.cluster.build hyperkube`"
            )
        if not self.pki.is_dir():
            self._make_pki()
        for who in ("admin", "manager"):
            user = {f"client-{what}": str(self.pki / f"{who}.{end}") for what, end in _FILES}
            (self.folder / f"{who}.kubeconfig").write_text(self._kubeconfig(user))
        for name in self.components:
            self.start(name)
        _wait("the default ServiceAccount", self._has_default_account)

    def down(self) -> None:
        """Stop all, in order."""
        for name in reversed(self.components):
            self.stop(name)

    def start(self, name: str) -> None:
        """Start one component, if it does not run, and wait until it serves."""
        if name in self._processes and self._processes[name].poll() is None:
            return
        log = (self.folder / f"{name}.log").open("ab")
        self._processes[name] = subprocess.Popen(
            [*_LEASH, str(os.getpid()), *self.command(name)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        if name == "kube-apiserver":
            _wait("the API server", lambda: self._alive(name) and self._ready())

    def command(self, name: str) -> list[str]:
        """How a component is run."""
        arguments = {
            "etcd": self._etcd,
            "kube-apiserver": self._apiserver,
            "kube-controller-manager": self._controller_manager,
        }
        return [str(self._binary), name, *arguments[name]()]

    def stop(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End one component; at once by default, since nothing of a test is worth waiting for."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait()

    def memory(self, name: str) -> int:
        """The resident set of a component in bytes."""
        text = Path(f"/proc/{self._processes[name].pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    # What tests do to it behind the API server's back

    def etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request to etcd's own JSON interface, for example `/v3/kv/deleterange`."""
        request = urllib.request.Request(
            f"http://{_LOOPBACK}:{self.etcd_port}{path}", data=json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            result: dict[str, Any] = json.load(answer)
        return result

    def erase(self, key: str) -> int:
        """Delete an object from etcd, as nothing of Kubernetes does; returns how many there were. `key` begins with /registry."""
        name = base64.b64encode(key.encode()).decode()
        return int(self.etcd("/v3/kv/deleterange", {"key": name}).get("deleted", 0))

    def compact(self) -> None:
        """Forget etcd's history up to now: watches from an older version end with 410."""
        head = self.etcd("/v3/kv/range", {"key": base64.b64encode(b"/none").decode()})["header"]
        self.etcd("/v3/kv/compaction", {"revision": head["revision"], "physical": True})

    # How they are started

    def _etcd(self) -> list[str]:
        client, peer = f"http://{_LOOPBACK}:{self.etcd_port}", f"http://{_LOOPBACK}:{self._peer_port}"
        return [
            "--name=default",
            f"--data-dir={self.folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        policy = self.folder / "audit.yaml"
        policy.write_text(yaml.safe_dump(_AUDIT))
        pki = self.pki
        return [
            f"--etcd-servers=http://{_LOOPBACK}:{self.etcd_port}",
            f"--secure-port={self.port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            *(["--endpoint-reconciler-type=none"] if self.address == _LOOPBACK else []),
            f"--service-cluster-ip-range={self.services}",
            "--authorization-mode=Node,RBAC",
            "--profiling=false",
            "--allow-privileged=true",
            "--etcd-compaction-interval=0",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--service-account-key-file={pki / 'accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking",
            *self._flags,
        ]

    def _controller_manager(self) -> list[str]:
        config = self.folder / "manager.kubeconfig"
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={_LOOPBACK}",
            f"--secure-port={self._manager_port}",
            "--leader-elect=false",
            "--profiling=false",
            "--use-service-account-credentials=true",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            f"--root-ca-file={self.pki / 'ca.crt'}",
            f"--service-account-private-key-file={self.pki / 'accounts.key'}",
        ]

    # Certificates

    def _make_pki(self) -> None:
        self.pki.mkdir(parents=True)
        authority = ec.generate_private_key(ec.SECP256R1())
        root = _certificate("test-ca", authority.public_key(), authority, None)
        (self.pki / "ca.crt").write_bytes(root.public_bytes(Encoding.PEM))
        for who, name in (
            ("apiserver", [_cn("kube-apiserver")]),
            ("admin", [_cn("test-admin"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")]),
            ("manager", [_cn("system:kube-controller-manager")]),
            *self.users(),
        ):
            self._leaf(who, x509.Name(name), authority, root)
        accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.pki / "accounts.key").write_bytes(_pem(accounts))
        (self.pki / "accounts.pub").write_bytes(
            accounts.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )

    def users(self) -> list[tuple[str, list[x509.NameAttribute[str]]]]:
        """Further certificates: name of the file, subject."""
        return []

    def names(self) -> list[x509.GeneralName]:
        """What every certificate is good for as a server."""
        return [x509.DNSName("localhost"), x509.DNSName("kubernetes"), x509.IPAddress(ip_address(_LOOPBACK))]

    def token_kubeconfig(self, name: str, token: str, *, url: str = "") -> Path:
        """A kubeconfig with a ServiceAccount's token; `url`: of a proxy before the API server."""
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(self._kubeconfig({"token": token}, url=url))
        return path

    def _kubeconfig(self, user: dict[str, str], *, url: str = "") -> str:
        cluster = {"server": url or self.url, "certificate-authority": str(self.pki / "ca.crt")}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": user}],
            }
        )

    def _leaf(
        self, name: str, subject: x509.Name, authority: ec.EllipticCurvePrivateKey, root: x509.Certificate
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(subject, key.public_key(), authority, root, self.names())
        (self.pki / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
        (self.pki / f"{name}.key").write_bytes(_pem(key))

    # Looking

    def _alive(self, name: str) -> bool:
        if self._processes[name].poll() is not None:
            raise RuntimeError(f"{name} ended; its last words: {_tail(self.folder / f'{name}.log')}")
        return True

    def _ready(self) -> bool:
        return self._get("/readyz") == 200

    def _has_default_account(self) -> bool:
        self._alive("kube-controller-manager")
        return self._get("/api/v1/namespaces/default/serviceaccounts/default") == 200

    def _get(self, path: str) -> int:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        try:
            with urllib.request.urlopen(self.url + path, context=context, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            return 0


_AUDIT: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system", "system:masters"]},
        {"level": "Metadata"},
    ],
}
"""What others than the control plane and the administrator ask for."""


def _certificate(
    subject: x509.Name | str,
    public_key: Any,
    authority: ec.EllipticCurvePrivateKey,
    root: x509.Certificate | None,
    names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    name = x509.Name([_cn(subject)]) if isinstance(subject, str) else subject
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.subject if root else name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=root is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
    )
    if root is not None:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(authority, hashes.SHA256())


def _cn(name: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, name)


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((_LOOPBACK, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    telling = [line for line in lines if line.startswith(("E", "F")) or "rror" in line]
    return "\n".join((telling or lines)[-5:])


def _wait(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not there within {START_SECONDS:g} s")
        time.sleep(0.1)


def main() -> None:
    """Run one until Ctrl-C."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with ControlPlane(folder) as plane:
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
