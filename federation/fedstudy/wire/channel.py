"""Connections: mutual TLS 1.3 channels and listeners, with one set of options for all processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fedstudy.errors import ConnectionLostError, PortInUseError
from fedstudy.wire.auth import Expectation, Gate, Refusal, Rules
from fedstudy.wire.credentials import certificate_identity
from fedstudy.wire.framing import use_frames
from fedstudy.wire.handshakes import watch_handshakes

MAX_MESSAGE = 4 << 20
"""Largest message, in bytes; models travel in chunks of 1 MiB."""

_COMMON = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),  # of TCP: nothing acknowledges our bytes
    ("grpc.http2.ping_timeout_ms", 10_000),  # of the peer: something acknowledges them, but nobody answers
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CLIENT = [
    *_COMMON,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection: with the renewed certificate
]
_SERVER = [
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 20_000),
    # Each connection keeps the buffers of its fastest moment: unlimited, about a MB for each site that has sent a model.
    ("grpc.experimental.tcp_max_read_buffer_size", 64 << 10),
]


@dataclass(frozen=True)
class TLSFiles:
    """Where a process has its certificate, its key, and the authority that it trusts (PEM)."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def from_folder(cls, folder: Path | str) -> TLSFiles:
        """`tls.crt`, `tls.key` and `ca.crt` of a folder, as a Kubernetes TLS Secret is mounted."""
        root = Path(folder)
        return cls(root / "tls.crt", root / "tls.key", root / "ca.crt")

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Certificate, key and authority.

        Raises:
            ConnectionLostError: one of them cannot be read.
        """
        try:
            return self.certificate.read_bytes(), self.key.read_bytes(), self.authority.read_bytes()
        except OSError as error:
            raise ConnectionLostError(
                f"The TLS file {error.filename} cannot be read: {error.strerror}.",
                "Check the folder that FEDSTUDY_TLS names, and the Secret mounted there.",
            ) from error

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when one of the files does."""
        stats = [path.stat() for path in (self.certificate, self.key, self.authority)]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def open_channel(target: str, tls: TLSFiles, *, server_name: str) -> grpc.aio.Channel:
    """A channel to a peer; it connects, and reconnects for ever, when it is used.

    The certificate is read once: after a renewal, open a new channel.

    Args:
        target: `host:port`.
        tls: our client certificate, and the one authority that we trust.
        server_name: the DNS name that the server's certificate must carry, whatever the target is called.

    Raises:
        ConnectionLostError: a TLS file cannot be read.
    """
    certificate, key, authority = tls.read()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    options: list[tuple[str, Any]] = [*_CLIENT, ("grpc.ssl_target_name_override", server_name)]
    if target.rpartition(":")[0].strip("[]") in ("localhost", "127.0.0.1", "::1"):
        options.append(("grpc.enable_http_proxy", 0))
    return use_frames(grpc.aio.secure_channel(target, credentials, options=options))


@dataclass
class Listener:
    """A started server.

    Attributes:
        port: where it listens.
    """

    port: int
    _server: grpc.aio.Server = field(repr=False)
    _end_watch: Callable[[], None] = field(repr=False)

    async def stop(self, grace: float) -> None:
        """Accept nothing new, give open calls `grace` seconds, then cut them."""
        await self._server.stop(grace)
        self._end_watch()


async def listen(
    address: str,
    tls: TLSFiles,
    add: Callable[[grpc.aio.Server], None],
    *,
    rules: Rules,
    on_refusal: Callable[[Refusal], None],
    expect_uid: str | None = None,
    expect_trust_domain: str | None = None,
) -> Listener:
    """Start a server that knows every caller by certificate. A renewed certificate file is used from the next handshake on.

    Args:
        address: `host:port`; port 0 takes a free one.
        tls: our server certificate, and the one authority whose clients may connect.
        add: adds the servicers.
        rules: who may call what.
        on_refusal: told, on the event loop, of every refused call and failed handshake.
        expect_uid: the study or participant that callers must be of; None: that of our own certificate.
        expect_trust_domain: likewise their trust domain.

    Raises:
        PortInUseError: the address cannot be listened on.
        ConnectionLostError: a TLS file cannot be read.
        RefusedError: our own certificate carries no identity.
    """
    own = certificate_identity(tls.read()[0])
    expect = Expectation(expect_trust_domain or own.trust_domain, own.scope, expect_uid or own.uid)
    server = grpc.aio.server(interceptors=(Gate(rules, expect, on_refusal),), options=_SERVER)
    add(server)
    try:
        port = server.add_secure_port(address, _server_credentials(tls))
    except RuntimeError as error:
        raise PortInUseError(
            f"Cannot listen on {address}: {_why_not(address)}.",
            "Stop the process that has the port, or choose another.",
        ) from error
    loop = asyncio.get_running_loop()
    end_watch = watch_handshakes(lambda refusal: _tell(loop, on_refusal, refusal))
    await server.start()
    return Listener(port, server, end_watch)


def _tell(loop: asyncio.AbstractEventLoop, on_refusal: Callable[[Refusal], None], refusal: Refusal) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(on_refusal, refusal)


def _server_credentials(tls: TLSFiles) -> grpc.ServerCredentials:
    version = tls.version()

    def load() -> Any:
        certificate, key, authority = tls.read()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def renewed() -> Any:
        """Called by grpc before each handshake; None keeps what it has, as does a half-written file."""
        nonlocal version
        current = tls.version()
        if current == version:
            return None
        configuration, version = load(), current
        return configuration

    return grpc.dynamic_ssl_server_credentials(load(), renewed, require_client_authentication=True)


def _why_not(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError) as error:
        return str(error)
    return "grpc could not bind to it"
