"""Uploads that lie: each is refused with a typed status, and nothing of it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstudy.errors import ConnectionLostError, UpdateError
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.status import from_rpc_error
from fedstudy.wire.transfer import serve_submit

DATA = b"0123456789" * 10
DIGEST = Blob.of(DATA).digest
INVALID, LATER = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE


def _header(digest: str = DIGEST, size: int = len(DATA)) -> pb.SubmitRequest:
    return pb.SubmitRequest(header=pb.SubmitHeader(digest=digest, size=size))


def _data(data: bytes = DATA) -> pb.SubmitRequest:
    return pb.SubmitRequest(data=data)


CASES: dict[str, tuple[list[pb.SubmitRequest], grpc.StatusCode, int]] = {
    "nothing at all": ([], LATER, 0),
    "bytes without a header": ([_data()], INVALID, 0),
    "an empty part": ([pb.SubmitRequest()], INVALID, 0),
    "a second header": ([_header(), _data(DATA[:5]), _header()], INVALID, 5),
    "an empty part among the bytes": ([_header(), _data(DATA[:5]), pb.SubmitRequest()], INVALID, 5),
    "fewer bytes than declared": ([_header(), _data(DATA[:50])], LATER, 50),
    "more bytes than declared": ([_header(), _data(DATA + b"x")], INVALID, 0),
    "more bytes than declared, after a while": ([_header(), _data(), _data(b"x")], INVALID, 0),
    "other bytes than declared": ([_header(), _data(DATA[::-1])], INVALID, 0),
    "a size that is too large": ([_header(size=1 << 62), _data()], INVALID, 0),
    "a digest that is a path": ([_header(digest="blake3:../../../../etc/passwd"), _data()], INVALID, 0),
    "a digest of capitals": ([_header(digest=DIGEST.upper()), _data()], INVALID, 0),
    "no digest": ([_header(digest=""), _data()], INVALID, 0),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_upload_that_lies_is_refused(study: Any, case: str) -> None:
    requests, code, held = CASES[case]
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Submit(iter(requests), timeout=20)
        assert caught.value.code() is code, caught.value.details()
        assert isinstance(
            from_rpc_error(caught.value), UpdateError if code is INVALID else ConnectionLostError
        )
        store: BlobStore = aggregator.servicer.store
        assert store.digests() == set() and store.held(DIGEST, len(DATA)) == held


async def test_a_message_larger_than_4_mib_is_refused(study: Any, raises: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        with raises(grpc.StatusCode.RESOURCE_EXHAUSTED):
            await stub.Submit(iter([_header(size=8 << 20), _data(bytes(5 << 20))]), timeout=20)


async def test_a_newer_upload_takes_over_from_a_stalled_one(study: Any, eventually: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        stalled = stub.Submit(timeout=20)
        await stalled.write(_header())
        await stalled.write(_data(DATA[:30]))
        store: BlobStore = aggregator.servicer.store
        await eventually(lambda: store.held(DIGEST, len(DATA)) == 30, "the first part")
        reply = await stub.Submit(iter([_header(), _data(DATA[30:])]), timeout=20)
        assert reply.accepted and store.path(DIGEST).read_bytes() == DATA
        await stalled.write(_data(DATA[30:]))
        await stalled.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stalled
        assert caught.value.code() is LATER
        assert store.path(DIGEST).read_bytes() == DATA


_PARTS = st.lists(
    st.one_of(
        st.binary(max_size=60).map(_data),
        st.tuples(st.sampled_from([DIGEST, "blake3:", "x"]), st.integers(0, 200)).map(
            lambda fields: _header(*fields)
        ),
        st.sampled_from([pb.SubmitRequest(), _header(), _data(DATA), _data(DATA[:50]), _data(DATA[50:])]),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(_PARTS)
def test_whatever_is_sent_a_blob_in_the_store_has_its_digest(
    tmp_path_factory: pytest.TempPathFactory, parts: list[pb.SubmitRequest]
) -> None:
    from fedstudy.errors import FedstudyError

    store = BlobStore(tmp_path_factory.mktemp("store"))

    async def stream() -> AsyncIterator[pb.SubmitRequest]:
        for part in parts:
            yield part

    async def serve() -> None:
        await serve_submit(
            store, stream(), AsyncMock(), expect=lambda header: Blob(header.digest, header.size)
        )

    try:
        asyncio.run(serve())
    except FedstudyError:
        assert store.digests() == set()
    else:
        assert store.digests() == {DIGEST} and store.path(DIGEST).read_bytes() == DATA
