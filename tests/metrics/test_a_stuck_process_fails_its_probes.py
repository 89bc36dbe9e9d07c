"""The small HTTP server of /metrics and the probes: real sockets, a loop that is really stuck, and callers who misbehave."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from fedstudy.errors import ManifestError, PortInUseError
from fedstudy.metrics import gauge, serving

HOST = "127.0.0.1"


class One(Collector):
    def collect(self) -> Iterator[Metric]:
        yield gauge("fedstudy_one", "One.", 1)


def ask(port: int, request: bytes, seconds: float = 10.0) -> bytes:
    """The whole answer."""
    with socket.create_connection((HOST, port), timeout=seconds) as caller:
        caller.sendall(request)
        answer = b""
        while part := caller.recv(65536):
            answer += part
        return answer


def get(port: int, path: str) -> tuple[int, bytes]:
    head, _, body = ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_pages_and_what_is_wrong() -> None:
    wrong = {"ready": "stopping", "alive": ""}
    async with serving(
        f"{HOST}:0", One(), ready=lambda: wrong["ready"], alive=lambda: wrong["alive"]
    ) as port:
        status, body = await asyncio.to_thread(get, port, "/metrics")
        assert status == 200
        assert b"fedstudy_one 1.0" in body
        assert b"process_open_fds" in body
        assert await asyncio.to_thread(get, port, "/healthz") == (200, b"ok\n")
        assert await asyncio.to_thread(get, port, "/readyz") == (503, b"stopping\n")
        wrong["ready"] = ""
        assert (await asyncio.to_thread(get, port, "/readyz?verbose"))[0] == 200
        assert (await asyncio.to_thread(get, port, "/secrets"))[0] == 404


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200"),
        (b"\x16\x03\x01\x00\r\n\r\n", b"HTTP/1.1 405"),
        (b"GET\r\n\r\n", b"HTTP/1.1 405"),
        (b"GET /" + b"a" * 100_000, b""),
    ],
)
async def test_whoever_asks_badly_gets_an_error_or_nothing(request_bytes: bytes, answer: bytes) -> None:
    def asked(port: int) -> bytes:
        try:
            return ask(port, request_bytes)
        except ConnectionResetError:
            return b""

    async with serving(f"{HOST}:0", One()) as port:
        assert (await asyncio.to_thread(asked, port)).startswith(answer)
        assert (await asyncio.to_thread(get, port, "/healthz"))[0] == 200


async def test_without_an_address_nothing_is_served() -> None:
    async with serving("", One()) as port:
        assert port == 0


@pytest.mark.parametrize("address", ["9090", "x:y", "0.0.0.0:99999", "host:"])
async def test_a_wrong_address_is_named(address: str) -> None:
    with pytest.raises(ManifestError, match="FEDSTUDY_METRICS="):
        async with serving(address, One()):
            pass


async def test_a_taken_port_is_named() -> None:
    async with serving(f"{HOST}:0", One()) as port:
        with pytest.raises(PortInUseError, match=str(port)):
            async with serving(f"{HOST}:{port}", One()):
                pass


@contextmanager
def process() -> Iterator[tuple[asyncio.AbstractEventLoop, int]]:
    """A process's loop, in a thread, that serves its probes."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with serving(f"{HOST}:0", One()) as port:
            ready.set_result((asyncio.get_running_loop(), stop, port))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    loop, stop, port = ready.result(timeout=30)
    try:
        yield loop, port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)


def test_a_stuck_loop_does_not_answer_until_it_goes_on() -> None:
    with process() as (loop, port):
        assert get(port, "/healthz")[0] == 200
        stuck, release = threading.Event(), threading.Event()

        def hang() -> None:
            stuck.set()
            release.wait(60)

        loop.call_soon_threadsafe(hang)
        assert stuck.wait(30)
        try:
            with pytest.raises(TimeoutError):
                ask(port, b"GET /healthz HTTP/1.1\r\n\r\n", seconds=0.5)
        finally:
            release.set()
        assert get(port, "/healthz")[0] == 200
