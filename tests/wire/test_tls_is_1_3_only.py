"""Handshakes as another TLS implementation makes them: 1.3 or nothing; a renewed certificate file is used from the next one on."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography import x509

from fedstudy.wire.channel import TLSFiles


def _context(tls: TLSFiles, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.authority))
    context.load_cert_chain(tls.certificate, tls.key)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    return context


async def _handshake(port: int, context: ssl.SSLContext) -> tuple[str, int]:
    """TLS version and the server certificate's serial number."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="aggregator", ssl_handshake_timeout=20
    )
    tls = writer.get_extra_info("ssl_object")
    writer.close()
    serial = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).serial_number
    return tls.version(), serial


async def test_tls_1_3_is_spoken(study: Any) -> None:
    async with study.aggregator() as aggregator:
        context = _context(study.client(), ssl.TLSVersion.TLSv1_3)
        assert (await _handshake(aggregator.listener.port, context))[0] == "TLSv1.3"


_SERVER = """
{first}
import asyncio, sys
from fedstudy.wire import federation_pb2_grpc as rpc
from fedstudy.wire.channel import TLSFiles, listen

async def serve():
    listener = await listen(
        "127.0.0.1:0", TLSFiles.from_folder(sys.argv[1]),
        lambda server: rpc.add_FederationServicer_to_server(rpc.FederationServicer(), server),
        rules={{}}, on_refusal=lambda refusal: print(refusal.reason, flush=True),
    )
    print(listener.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@asynccontextmanager
async def _server(tls: TLSFiles, first: str = "") -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """A server in a process of its own, where the order of imports is ours to choose: its port, and the refusals line by line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _SERVER.format(first=first),
        str(tls.key.parent),
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "GRPC_SSL_CIPHER_SUITES"},
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline()), process.stdout
    finally:
        process.kill()
        await process.wait()


async def test_a_tls_1_2_handshake_is_refused_and_recorded(study: Any) -> None:
    async with _server(study.files(study.server_pair())) as (port, refusals):
        context = _context(study.client(), ssl.TLSVersion.TLSv1_2)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await _handshake(port, context)
        assert await asyncio.wait_for(refusals.readline(), 20) == b"TLS older than 1.3\n"


async def test_a_call_over_tls_1_2_is_refused_where_the_handshake_was_not(study: Any) -> None:
    """In a process that imported grpc before fedstudy the handshake succeeds; HTTP/2 is spoken here by hand."""
    async with _server(study.files(study.server_pair()), first="import grpc") as (port, refusals):
        context = _context(study.client(), ssl.TLSVersion.TLSv1_2)
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="aggregator"
        )
        headers = {
            ":method": "POST", ":scheme": "https", ":path": "/fedstudy.v1.Federation/Offer",
            ":authority": "aggregator", "te": "trailers", "content-type": "application/grpc",
        }  # fmt: skip
        block = b"".join(  # HPACK literals without indexing (RFC 7541, 6.2.2)
            b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers.items()
        )
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        writer.write(_frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5)))  # an empty message, the end
        await writer.drain()
        line = await asyncio.wait_for(refusals.readline(), 20)
        writer.transport.abort()
        assert line == b"The connection uses TLSv1.2; only TLSv1.3 is spoken here.\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


async def test_what_is_not_tls_is_refused_and_recorded(study: Any, eventually: Any) -> None:
    async with study.aggregator() as aggregator:
        reader, writer = await asyncio.open_connection("127.0.0.1", aggregator.listener.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()
        await eventually(lambda: aggregator.refusals, "the record of the failed handshake")
        assert {refusal.reason for refusal in aggregator.refusals} == {"not TLS"}


async def test_a_renewed_certificate_file_is_used_from_the_next_handshake_on(study: Any) -> None:
    tls = study.files(study.server_pair())
    async with study.aggregator(tls) as aggregator:
        context = _context(study.client(), ssl.TLSVersion.TLSv1_3)
        _, before = await _handshake(aggregator.listener.port, context)
        renewed = study.server_pair()
        tls.certificate.write_text(renewed.certificate_pem)
        _, half_way = await _handshake(aggregator.listener.port, context)
        assert half_way == before  # certificate and key do not fit: the old pair stays in use
        tls.key.unlink()
        assert (await _handshake(aggregator.listener.port, context))[
            1
        ] == before  # nor is a missing file a fault
        tls.key.write_text(renewed.key_pem)
        _, after = await _handshake(aggregator.listener.port, context)
        expected = x509.load_pem_x509_certificate(renewed.certificate_pem.encode()).serial_number
        assert after == expected != before
