"""Blobs over the wire: streams of 1 MiB chunks that go on where they broke off, in either direction.

The event loop does the reading, hashing and writing of each chunk itself: at 1 MiB that costs less than a hop to a thread and
back. Only what takes as long as the disk likes (fsync) is sent to a thread. Nothing of an upload is sent before the server has
a place for it (`fedstudy.wire.turns`): so a site that waits costs the server no memory, and hears a refusal before it sends.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from fedstudy.errors import (
    ConnectionLostError,
    FedstudyError,
    InterruptedByUserError,
    NoSpaceError,
    UpdateError,
)
from fedstudy.tensors import Blob
from fedstudy.wire.blobs import BlobStore, Receiver
from fedstudy.wire.federation_pb2 import (
    Contribution,
    FetchRequest,
    InquireRequest,
    SubmitHeader,
    SubmitRequest,
)
from fedstudy.wire.framing import Frame, chunk_frame, submit_frame
from fedstudy.wire.status import from_rpc_error
from fedstudy.wire.turns import SLOW, Place, Places

CHUNK = 1 << 20
"""Bytes of payload in one message."""

OFFSET_KEY = "fedstudy-offset"
"""In the initial metadata that answers the header of an upload: at which byte the sender shall begin, now."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0  # seconds between attempts
_LAST_WORD = 0.25  # seconds after a failed write in which the peer's status may still come
_PASSING = (
    ConnectionLostError,
    NoSpaceError,
    InterruptedByUserError,
)  # of the other side: worth another attempt


@dataclass(frozen=True)
class Submission:
    """An answer whose bytes are here.

    Attributes:
        header: what was said of it.
        came: bytes that came with this call; the others were here.
    """

    header: SubmitHeader
    came: int


@dataclass
class _Patience:
    """How long to go on trying, and how long to wait in between."""

    deadline: float
    pause: float = _FIRST_PAUSE

    @classmethod
    def of(cls, timeout: float) -> _Patience:
        return cls(asyncio.get_running_loop().time() + timeout)

    def left(self) -> float:
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    async def rest(self, error: FedstudyError, what: str) -> None:
        """Wait before the next attempt.

        Raises:
            FedstudyError: the error itself, where it is final, or the time is over.
        """
        if not isinstance(error, _PASSING):
            raise error
        if self.left() <= self.pause:
            if isinstance(error, NoSpaceError):
                raise error
            raise ConnectionLostError(
                f"{what} did not succeed in time: {error.message}", error.remedy
            ) from error
        await asyncio.sleep(self.pause)
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)


async def fetch(stub: Any, blob: Blob, store: BlobStore, *, timeout: float) -> Path:  # noqa: ASYNC109 - it spans attempts
    """Have a blob in the store: at once where it is there, else from the peer.

    Args:
        stub: a FederationStub.
        blob: what to fetch; more bytes than its size are refused.
        store: where it goes; what it holds of an earlier attempt is not fetched again.
        timeout: seconds in which to go on trying.

    Raises:
        ConnectionLostError: it did not succeed in time; what has come is kept.
        NoSpaceError: our disk is full (or the peer's, until the end of the time).
        UpdateError: the peer does not have it, or sent something else.
        RefusedError: the peer refused.
    """
    patience = _Patience.of(timeout)
    while not store.has(blob.digest):
        offset = store.held(blob.digest, blob.size)
        receiver = store.receive(blob, offset)
        try:
            request = FetchRequest(digest=blob.digest, offset=offset)
            with receiver:
                async for chunk in stub.Fetch(request, timeout=patience.left()):
                    receiver.write(chunk.data)
                    patience.pause = _FIRST_PAUSE
                await _finish(receiver)
        except grpc.aio.AioRpcError as error:
            await patience.rest(from_rpc_error(error), f"Fetching {blob.digest}")
        except ConnectionLostError as error:
            await patience.rest(error, f"Fetching {blob.digest}")
    return store.path(blob.digest)


async def submit(
    stub: Any,
    instruction_id: str,
    blob: Blob,
    store: BlobStore,
    contribution: Contribution,
    *,
    timeout: float,  # noqa: ASYNC109 - it spans attempts
) -> None:
    """Hand in the answer to an instruction; returns when the peer has accepted it, durably.

    Args:
        stub: a FederationStub.
        instruction_id: what is answered.
        blob: the answer; it is in the store.
        store: where it is read from.
        contribution: what is said of it.
        timeout: seconds in which to go on trying.

    Raises:
        ConnectionLostError: it did not succeed in time; calling again goes on where it broke off.
        NoSpaceError: the peer's disk was full until the end of the time.
        UpdateError: the peer refused the bytes.
        RefusedError, PlanError, …: whatever else the peer said that is final.
    """
    patience = _Patience.of(timeout)
    inquiry = InquireRequest(instruction_id=instruction_id, digest=blob.digest, size=blob.size)
    header = SubmitHeader(
        instruction_id=instruction_id,
        digest=blob.digest,
        size=blob.size,
        contribution=contribution,
    )
    first = True
    while True:
        try:
            if not first and (await stub.Inquire(inquiry, timeout=patience.left())).accepted:
                return
            first = False
            reply = await _upload(stub.Submit(timeout=patience.left()), header, store.path(blob.digest))
            if reply.accepted:
                return
            error: FedstudyError = ConnectionLostError("The peer has not accepted the answer yet.")
        except grpc.aio.AioRpcError as failure:
            error = from_rpc_error(failure)
        await patience.rest(error, f"Submitting the answer to {instruction_id}")


async def serve_fetch(store: BlobStore, request: FetchRequest, context: Any) -> AsyncIterator[Frame]:
    """The server's half of `fetch`: a blob's bytes from an offset.

    Raises:
        UpdateError: no such blob is here, or the offset lies beyond its end.
    """
    blob = store.blob(request.digest)
    if blob is None:
        raise UpdateError(f"No blob {request.digest} is here.")
    if request.offset > blob.size:
        raise UpdateError(
            f"Blob {request.digest} has {blob.size} bytes; byte {request.offset} was asked for."
        )
    async with _places(store).down.one() as place:
        with store.path(request.digest).open("rb", buffering=0) as file:
            for data in _chunks(file.fileno(), request.offset, blob.size):
                yield chunk_frame(data)
                place.moved(len(data))


async def serve_submit(
    store: BlobStore,
    requests: AsyncIterator[SubmitRequest],
    context: Any,
    *,
    expect: Callable[[SubmitHeader], Blob | None],
) -> Submission:
    """The server's half of `submit`: spool and verify. The blob is in the store, durably, on return; accepting it is the caller's.

    Args:
        store: where it goes.
        requests: the stream.
        context: the RPC's.
        expect: given the header, the blob that is acceptable, None where the answer is accepted already; raises a
            FedstudyError to refuse before any byte is taken.

    Raises:
        UpdateError: no header; other bytes than declared, or more.
        NoSpaceError: our disk is full; what has come is kept.
        ConnectionLostError: fewer bytes than declared, or else: the sender has to ask again where to go on.
    """
    requests = aiter(requests)
    first = await anext(requests, None)
    if first is None:
        raise ConnectionLostError("The stream ended before its header.", "Ask again.")
    if first.WhichOneof("part") != "header":
        raise UpdateError("The answer does not begin with its header.")
    header = first.header
    if (blob := expect(header)) is None:
        return Submission(header, 0)
    if (blob.digest, blob.size) != (header.digest, header.size):
        raise UpdateError(f"The answer declares {header.digest} with {header.size} bytes; expected {blob}.")
    if (there := store.blob(blob.digest)) is not None:
        if there != blob:
            raise UpdateError(f"The answer declares {blob.size} bytes; {there.digest} has {there.size}.")
        return Submission(header, 0)
    async with _places(store).up.one() as place:
        begin = store.held(blob.digest, blob.size)
        with store.receive(blob, begin) as receiver:
            await context.send_initial_metadata(((OFFSET_KEY, str(begin)),))
            await _spool(receiver, requests, place)
            place.end()
            await _finish(receiver)
    return Submission(header, blob.size - begin)


async def _spool(receiver: Receiver, requests: AsyncIterator[SubmitRequest], place: Place) -> None:
    async for request in requests:
        if request.WhichOneof("part") != "data":
            raise UpdateError("The answer has a second header among its bytes.")
        receiver.write(request.data)
        place.moved(len(request.data))
        del request  # not to be held while the next one comes


async def _upload(call: Any, header: SubmitHeader, path: Path) -> Any:
    """Send the header, wait for the word, send the bytes; the reply. A call that ends early says why by its status, or has
    its reply already."""
    try:
        await call.write(SubmitRequest(header=header))
        if (begin := _where(await call.initial_metadata())) is not None:
            with path.open("rb", buffering=0) as file:
                for data in _chunks(file.fileno(), begin, header.size):
                    await call.write(submit_frame(data))
            await call.done_writing()
    except asyncio.InvalidStateError:
        pass  # the peer has answered before the end: its answer follows
    except grpc.aio.AioRpcError:
        await _last_word(call)
    except BaseException:
        call.cancel()
        raise
    return await call


def _where(metadata: Any) -> int | None:
    """At which byte the server wants the upload to begin; None: not at all, its answer is there."""
    offset = dict(metadata or ()).get(OFFSET_KEY)
    if offset is None:
        return None
    if not (isinstance(offset, str) and offset.isdecimal() and len(offset) < 20):
        raise UpdateError("The peer does not say where to begin.", "Use the same release on both sides.")
    return int(offset)


async def _last_word(call: Any) -> None:
    """After a failed write, wait for the status that the peer gave.

    grpc.aio (1.85) ends a call with INTERNAL as soon as a write fails. The status that made it fail mostly comes a moment later
    and takes its place; where it came a moment before, it is lost, and the next attempt hears it again.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _LAST_WORD
    while await call.code() is grpc.StatusCode.INTERNAL and loop.time() < end:  # noqa: ASYNC110 - grpc has no event for it
        await asyncio.sleep(0.01)


def _chunks(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """The bytes [begin, end) of a file, by CHUNK; pread fills each message's bytes from the page cache in one copy."""
    while begin < end:
        data = _chunk(descriptor, begin, end)
        begin += len(data)
        yield data


def _chunk(descriptor: int, begin: int, end: int) -> bytes:
    data = os.pread(descriptor, min(CHUNK, end - begin), begin)
    if not data:
        raise UpdateError(f"A blob's file ends at byte {begin}, expected {end}.")
    return data


@dataclass(frozen=True)
class _Both:
    """The places of a store's streams, for each direction."""

    up: Places = field(default_factory=lambda: Places(SLOW))
    down: Places = field(default_factory=Places)


_PLACES: WeakKeyDictionary[BlobStore, _Both] = WeakKeyDictionary()


def _places(store: BlobStore) -> _Both:
    """All streams that move bytes of one store wait for each other."""
    return _PLACES.setdefault(store, _Both())


async def _finish(receiver: Receiver) -> None:
    """Verify in a thread; a wrong digest after a resumption may be our old part's fault, so that one begins again."""
    try:
        await asyncio.to_thread(receiver.finish)
    except UpdateError as error:
        if receiver.resumed:
            raise ConnectionLostError(f"{error.message} It has to begin anew.", "Ask again.") from error
        raise
