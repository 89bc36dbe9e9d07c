"""A thousand connections that never finish TLS, and some that do and then say nothing, while a study goes on."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.aggregator.test_a_study_over_mutual_tls import Hub, play, running, watch

from fedstudy.identity import Role
from fedstudy.wire.admin import Phase
from fedstudy.wire.channel import TLSFiles

HALF_OPEN, SILENT = 1000, 20
ROOM = 256 << 20
"""Far above what the connections cost (both ends are in this process), far below what an unbounded buffer for each would."""


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Room for both ends of every connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HALF_OPEN + 1000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@contextmanager
def half_open(hub: Hub) -> Iterator[None]:
    """Connections of which every other has sent the beginning of a handshake, and no more."""
    with ExitStack() as stack:
        for n in range(HALF_OPEN):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", hub.port), timeout=20))
            if n % 2:
                peer.sendall(b"\x16\x03\x01\x02\x00\x01")
        yield


async def silent(hub: Hub, tls: TLSFiles) -> asyncio.StreamWriter:
    """A connection that is a site's by its certificate, and says nothing."""
    context = ssl.create_default_context(cafile=str(tls.authority))
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(
        "127.0.0.1", hub.port, ssl=context, server_hostname="aggregator"
    )
    return writer


@pytest.mark.slow
async def test_a_thousand_half_open_connections_stop_no_round(tmp_path: Path, fedstudy_fakes: Any) -> None:
    sites = fedstudy_fakes.SITES[:2]
    async with running(tmp_path, fedstudy_fakes.plan_of(), sites) as hub:
        certificates = {site: hub.issued(Role.SITE, site) for site in sites}
        before = resident()
        with half_open(hub):
            mute = [await silent(hub, certificates[sites[0]]) for _ in range(SILENT)]
            async with asyncio.TaskGroup() as group:
                playing = [
                    group.create_task(play(hub, fedstudy_fakes, s, c)) for s, c in certificates.items()
                ]
            state = await watch(hub, lambda s: s.phase is Phase.COMPLETE)
            assert {task.result() for task in playing} == {state.model_digest}
            assert resident() - before < ROOM
            for writer in mute:
                writer.close()
