"""A small study for the tests of the wire: an authority, certificates by role, a server with a store, and a line that can be cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedstudy.identity import Identity, Role
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire import federation_pb2_grpc as rpc
from fedstudy.wire.auth import Refusal
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import Listener, TLSFiles, listen, open_channel
from fedstudy.wire.transfer import serve_fetch, serve_submit
from fedstudy_operator.pki import KeyPair, issue, make_authority

DOMAIN, UID = "hub.example", "study-1"
ROLES = {
    f"/fedstudy.v1.Federation/{method}": frozenset({Role.SITE})
    for method in ("Offer", "Follow", "Fetch", "Inquire", "Submit", "Report")
} | {"/fedstudy.v1.Federation/Enroll": frozenset({Role.INVITATION})}


class Servicer(rpc.FederationServicer):
    """An aggregator that takes every upload up to `limit` bytes."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.limit = 64 << 20
        self.offsets: list[int] = []  # of the uploads
        self.fetches: list[int] = []  # their offsets
        self.outcomes: list[BaseException | None] = []  # of the uploads
        self.refuse: list[Exception] = []  # what the next uploads are refused with
        self.fault: BaseException | None = None  # what Offer answers with

    async def Offer(self, request: pb.OfferRequest, context: Any) -> pb.OfferReply:
        if self.fault is not None:
            raise self.fault
        return pb.OfferReply(digest="sha256:offered")

    async def Follow(self, request: pb.FollowRequest, context: Any) -> AsyncIterator[pb.Instruction]:
        yield pb.Instruction(id="0001-000-train-hospital-a")
        if self.fault is not None:
            raise self.fault

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:
        return pb.EnrollReply(certificate_pem="signed")

    def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.Chunk]:
        self.fetches.append(request.offset)
        return serve_fetch(self.store, request, context)

    async def Inquire(self, request: pb.InquireRequest, context: Any) -> pb.InquireReply:
        return pb.InquireReply(offset=self.store.held(request.digest, request.size))

    async def Submit(self, requests: AsyncIterator[pb.SubmitRequest], context: Any) -> pb.SubmitReply:
        try:
            header = (await serve_submit(self.store, requests, context, expect=self.expect)).header
        except BaseException as error:
            self.outcomes.append(error)
            raise
        self.outcomes.append(None)
        return pb.SubmitReply(accepted=True, offset=header.size)

    def expect(self, header: pb.SubmitHeader) -> Blob:
        self.offsets.append(self.store.held(header.digest, header.size))
        if self.refuse:
            raise self.refuse.pop()
        return Blob(header.digest, min(header.size, self.limit))


@dataclass
class Aggregator:
    """A running server and what it saw."""

    listener: Listener
    servicer: Servicer
    tls: TLSFiles
    refusals: list[Refusal]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.listener.port}"


@dataclass
class Study:
    """Certificates by role, under one authority; folders below `root`."""

    root: Path
    authority: KeyPair
    count: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def files(self, pair: KeyPair, authority: KeyPair | None = None) -> TLSFiles:
        folder = self.root / f"tls-{next(self.count)}"
        folder.mkdir()
        (folder / "tls.crt").write_text(pair.certificate_pem)
        (folder / "tls.key").write_text(pair.key_pem)
        (folder / "ca.crt").write_text((authority or self.authority).certificate_pem)
        return TLSFiles.from_folder(folder)

    def client(
        self, identity: Identity | None = None, *, days: float = 1, signer: KeyPair | None = None
    ) -> TLSFiles:
        identity = identity or Identity(DOMAIN, "study", UID, Role.SITE, "hospital-a")
        return self.files(
            issue(
                signer or self.authority,
                identity=identity,
                dns_names=[],
                days=days,
                server=False,
                client=True,
            )
        )

    def server_pair(self) -> KeyPair:
        identity = Identity(DOMAIN, "study", UID, Role.AGGREGATOR)
        return issue(
            self.authority, identity=identity, dns_names=["aggregator"], days=1, server=True, client=False
        )

    @asynccontextmanager
    async def aggregator(self, tls: TLSFiles | None = None) -> AsyncIterator[Aggregator]:
        tls = tls or self.files(self.server_pair())
        servicer = Servicer(BlobStore(self.root / "aggregator"))
        refusals: list[Refusal] = []
        listener = await listen(
            "127.0.0.1:0",
            tls,
            lambda server: rpc.add_FederationServicer_to_server(servicer, server),
            rules=ROLES,
            on_refusal=refusals.append,
        )
        try:
            yield Aggregator(listener, servicer, tls, refusals)
        finally:
            await listener.stop(0)

    @asynccontextmanager
    async def stub(self, target: str, tls: TLSFiles | None = None) -> AsyncIterator[rpc.FederationStub]:
        async with open_channel(target, tls or self.client(), server_name="aggregator") as channel:
            yield rpc.FederationStub(channel)


class Line:
    """A TCP relay that cuts each of its first connections after so many bytes, in the direction `way`."""

    def __init__(self, target: str, way: str, cuts: list[int]) -> None:
        self.host, _, port = target.rpartition(":")
        self.port = int(port)
        self.way, self.cuts = way, cuts
        self.carried = 0  # bytes in the direction `way`, over all connections

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _connected(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection(self.host, self.port)
        limit = self.cuts.pop(0) if self.cuts else None
        up, down = (limit, None) if self.way == "up" else (None, limit)
        tasks = [
            asyncio.ensure_future(self._carry(near_in, far_out, up, self.way == "up")),
            asyncio.ensure_future(self._carry(far_in, near_out, down, self.way == "down")),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in (near_out, far_out):
                writer.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, limit: int | None, counted: bool
    ) -> None:
        done = 0
        while limit is None or done < limit:
            data = await source.read(65536)
            if not data:
                return
            done += len(data)
            self.carried += len(data) if counted else 0
            sink.write(data)
            await sink.drain()


@pytest.fixture(scope="session")
def authority() -> KeyPair:
    return make_authority("study-1", days=2)


@pytest.fixture
def study(tmp_path: Path, authority: KeyPair) -> Study:
    return Study(tmp_path, authority)


@pytest.fixture
def line() -> type[Line]:
    return Line


@pytest.fixture
def eventually() -> Callable[..., Any]:
    async def wait(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} did not come about"
            await asyncio.sleep(0.01)

    return wait


@contextmanager
def _raises(code: grpc.StatusCode) -> Iterator[Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    assert caught.value.code() is code, caught.value.details()


@pytest.fixture
def raises() -> Callable[[grpc.StatusCode], Any]:
    """`pytest.raises` by gRPC status."""
    return _raises
