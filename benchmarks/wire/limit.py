"""The raw limit of this machine: the same bytes over bare gRPC streams with mutual TLS, and a numpy fold, and nothing else.

A round: the server streams the model to each of K client processes, each streams as many bytes back, and the server adds
every chunk to one float32 accumulator as it comes. No disk, no digest, no state: what a federation can at best reach.

The durable limit is the same, but what a study must not lose is on disk before it is answered: each update is written to a
file of its own and synced (fdatasync) before its client hears of it, and the sum likewise before the next round. Still no
digest, no check, no state, and no fold in a fixed order.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from benchmarks.wire.deploy import environment, site
from benchmarks.wire.probe import Measured, cpu_seconds

CHUNK = 1 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _read(folder: Path, name: str) -> tuple[bytes, bytes, bytes]:
    tls = folder / "tls" / name
    return (tls / "ca.crt").read_bytes(), (tls / "tls.key").read_bytes(), (tls / "tls.crt").read_bytes()


class _Server:
    """K clients, one barrier a round; `spool` is where updates are made durable, None where they are not."""

    def __init__(self, clients: int, size: int, spool: Path | None) -> None:
        self.spool = spool
        self.clients, self.size = clients, size
        self.model = np.ones(size // 4, dtype=np.float32)
        self.total = np.zeros(size // 4, dtype=np.float32)
        self.scratch = np.empty(CHUNK // 4, dtype=np.float32)
        self.waiting = self.begun = self.done = 0
        self.start, self.over = asyncio.Event(), asyncio.Event()

    async def down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """The model, once all clients are there."""
        self.waiting += 1
        start = self.start
        if self.waiting == self.clients:
            self.waiting, self.start = 0, asyncio.Event()
            start.set()
        await start.wait()
        view = memoryview(self.model).cast("B")
        for begin in range(0, self.size, CHUNK):
            yield bytes(view[begin : begin + CHUNK])

    async def up(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """An update, added to the accumulator as it comes; the last one ends the round."""
        at, weight = 0, np.float32(1 / self.clients)
        number, self.begun = self.begun % self.clients, self.begun + 1
        file = _Durable(self.spool, f"update-{number}")
        async for data in requests:
            file.write(data)
            part = np.frombuffer(data, dtype=np.float32)
            scratch = self.scratch[: part.size]
            np.multiply(part, weight, out=scratch)
            total = self.total[at : at + part.size]
            np.add(total, scratch, out=total)
            at += part.size
        await file.finish()
        self.done += 1
        if self.done % self.clients == 0:
            model = _Durable(self.spool, "model")
            model.write(self.total)
            await model.finish()
            print(time.monotonic(), flush=True)
        return b""


class _Durable:
    """A file that is on disk once it is finished; nothing where there is no folder for it."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._file = (folder / name).open("wb", buffering=0) if folder is not None else None

    def write(self, data: Any) -> None:
        if self._file is not None:
            self._file.write(data)

    async def finish(self) -> None:
        if self._file is not None:
            await asyncio.to_thread(os.fdatasync, self._file.fileno())
            self._file.close()


async def serve(folder: Path, clients: int, size: int, *, durable: bool) -> None:
    """The server's process: prints its port, then the time at the end of each round, until it is ended."""
    state = _Server(clients, size, folder if durable else None)
    server = grpc.aio.server(options=UNLIMITED)
    handlers = {
        "Down": grpc.unary_stream_rpc_method_handler(state.down),
        "Up": grpc.stream_unary_rpc_method_handler(state.up),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("limit", handlers),))
    authority, key, certificate = _read(folder, "server")
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
    await server.start()
    await server.wait_for_termination()


async def client(folder: Path, name: str, port: int, rounds: int) -> None:
    """One client: receives the model whole, then sends as much back."""
    authority, key, certificate = _read(folder, name)
    options = [("grpc.ssl_target_name_override", "aggregator"), ("grpc.enable_http_proxy", 0), *UNLIMITED]
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        down, up = channel.unary_stream("/limit/Down"), channel.stream_unary("/limit/Up")
        for _ in range(rounds + 1):
            parts = [part async for part in down(b"")]
            await up(iter(parts))
            del parts


async def _clients(folder: Path, first: int, last: int, port: int, rounds: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(first, last + 1):
            group.create_task(client(folder, site(number), port, rounds))


def measure(
    folder: Path, groups: Sequence[tuple[int, int]], size: int, rounds: int, *, durable: bool
) -> Measured:
    """Rounds at the limit, after one that does not count; `<folder>/tls` is that of `deploy.prepare`.

    Args:
        folder: on the disk that is to be measured.
        groups: first and last client of each process.
        durable: what is received is made durable.
    """
    here = [sys.executable, "-m", "benchmarks.wire.limit"]
    clients = groups[-1][1] + 1
    with ExitStack() as stack:
        argv = [*here, "serve-durably" if durable else "serve", str(folder), str(clients), str(size)]
        server = subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment()}
        )
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        started = [server]
        for first, last in groups:
            argv = [*here, "client", str(folder), str(first), str(last), port, str(rounds)]
            process = subprocess.Popen(argv, env={**os.environ, **environment()})
            stack.callback(process.wait)
            started.append(process)
        pids = [process.pid for process in started]
        ends = [(float(server.stdout.readline()), cpu_seconds(pids)) for _ in range(rounds + 1)]
    seconds = [after[0] - before[0] for before, after in pairwise(ends)]
    return Measured(seconds, (ends[-1][1] - ends[0][1]) / rounds)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve" | "serve-durably" as how, place, count, size]:
            asyncio.run(serve(Path(place), int(count), int(size), durable=how != "serve"))
        case ["client", place, first, last, port, rounds]:
            asyncio.run(_clients(Path(place), int(first), int(last), int(port), int(rounds)))
