"""Fetch and submit over a line that breaks: what has come is not sent again; what is final is not tried again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedstudy.errors import ConnectionLostError, NoSpaceError, PlanError, RefusedError, UpdateError
from fedstudy.identity import Identity, Role
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire import federation_pb2_grpc as rpc
from fedstudy.wire import transfer
from fedstudy.wire.blobs import BlobStore
from fedstudy.wire.channel import listen
from fedstudy.wire.transfer import CHUNK, fetch, submit
from fedstudy.wire.turns import AT_ONCE

SIZE = 6 * CHUNK + 12345
SLACK = 3 * CHUNK  # what may be under way, and lost, at each cut


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "site")


async def _submit(stub: Any, blob: Blob, store: BlobStore, seconds: float = 30) -> None:
    await submit(stub, "0001-000-train-hospital-a", blob, store, pb.Contribution(samples=3), timeout=seconds)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, SIZE])
async def test_a_blob_of_any_size_goes_up_and_comes_down(study: Any, store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    blob = store.add_bytes(data)
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        await _submit(stub, blob, store)
        assert aggregator.servicer.store.path(blob.digest).read_bytes() == data
        store.delete(blob.digest)
        path = await fetch(stub, blob, store, timeout=30)
        assert path == store.path(blob.digest) and path.read_bytes() == data


async def test_an_upload_goes_on_after_the_line_is_cut_twice(study: Any, store: BlobStore, line: Any) -> None:
    blob = store.add_bytes(os.urandom(SIZE))
    async with study.aggregator() as aggregator:
        cable = line(aggregator.target, "up", [3 * CHUNK, 2 * CHUNK])
        async with cable.open() as target, study.stub(target) as stub:
            await _submit(stub, blob, store)
        assert aggregator.servicer.store.has(blob.digest)
        first, second, *_, last = aggregator.servicer.offsets
        assert first == 0 < second <= last
        assert cable.carried < SIZE + 2 * SLACK
        assert aggregator.servicer.outcomes[-1] is None
        assert not any(isinstance(outcome, UpdateError) for outcome in aggregator.servicer.outcomes)


async def test_a_download_goes_on_after_the_line_is_cut_twice(
    study: Any, store: BlobStore, line: Any
) -> None:
    async with study.aggregator() as aggregator:
        data = os.urandom(SIZE)
        blob = aggregator.servicer.store.add_bytes(data)
        cable = line(aggregator.target, "down", [3 * CHUNK, 2 * CHUNK])
        async with cable.open() as target, study.stub(target) as stub:
            path = await fetch(stub, blob, store, timeout=30)
        assert path.read_bytes() == data
        first, second, *_, last = aggregator.servicer.fetches
        assert first == 0 < second <= last
        assert cable.carried < SIZE + 2 * SLACK


async def test_a_transfer_goes_on_after_both_processes_began_anew(
    study: Any, store: BlobStore, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    blob = store.add_bytes(data)
    for folder in (tmp_path / "aggregator", tmp_path / "later"):
        (folder / "partial").mkdir(parents=True)
        (folder / "partial" / blob.digest[7:]).write_bytes(data[: 2 * CHUNK + 7])
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        await _submit(stub, blob, store)
        await fetch(stub, blob, BlobStore(tmp_path / "later"), timeout=30)
        assert aggregator.servicer.offsets == aggregator.servicer.fetches == [2 * CHUNK + 7]


async def test_a_whole_upload_that_was_never_verified_needs_no_byte_more(
    study: Any, store: BlobStore, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    blob = store.add_bytes(data)
    (tmp_path / "aggregator" / "partial").mkdir(parents=True)
    (tmp_path / "aggregator" / "partial" / blob.digest[7:]).write_bytes(data)
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        await _submit(stub, blob, store)
        assert aggregator.servicer.offsets == [SIZE] and aggregator.servicer.store.has(blob.digest)


async def test_an_upload_that_waits_for_its_place_sends_its_header_alone(
    study: Any, store: BlobStore, line: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SLOW", 0)
    blob = store.add_bytes(os.urandom(SIZE))
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as others:
        cable, offsets = line(aggregator.target, "up", []), aggregator.servicer.offsets
        stalled = [others.Submit(timeout=60) for _ in range(AT_ONCE)]
        for number, call in enumerate(stalled):
            header = pb.SubmitHeader(digest=f"blake3:{number:064d}", size=SIZE)
            await call.write(pb.SubmitRequest(header=header))
            assert dict(await call.initial_metadata())[transfer.OFFSET_KEY] == "0"
        async with cable.open() as target, study.stub(target) as stub, asyncio.TaskGroup() as group:
            group.create_task(_submit(stub, blob, store))
            await eventually(lambda: len(offsets) == AT_ONCE + 1, "the header")
            await stub.Offer(pb.OfferRequest(), timeout=20)  # so much could have come in the meantime
            assert cable.carried < CHUNK // 16
            for call in stalled:
                call.cancel()
        assert aggregator.servicer.store.has(blob.digest)


async def test_a_damaged_part_costs_beginning_anew_and_nothing_else(
    study: Any, store: BlobStore, tmp_path: Path
) -> None:
    blob = store.add_bytes(os.urandom(SIZE))
    for folder in (tmp_path / "aggregator", tmp_path / "later"):
        (folder / "partial").mkdir(parents=True)
        (folder / "partial" / blob.digest[7:]).write_bytes(bytes(CHUNK))
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        await _submit(stub, blob, store)
        await fetch(stub, blob, BlobStore(tmp_path / "later"), timeout=30)
        assert aggregator.servicer.offsets == aggregator.servicer.fetches == [CHUNK, 0]


async def test_what_is_there_already_is_neither_fetched_nor_taken_twice(study: Any, store: BlobStore) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        blob = store.add_bytes(b"weights")
        await _submit(stub, blob, store)
        await _submit(stub, blob, store)
        assert aggregator.servicer.outcomes == [None, None]
        await fetch(stub, blob, store, timeout=30)
        assert aggregator.servicer.fetches == []


async def test_a_peer_that_comes_back_is_waited_for(study: Any, store: BlobStore) -> None:
    blob = store.add_bytes(b"weights")
    async with study.aggregator() as gone:
        target, tls = gone.target, gone.tls
    async with study.stub(target) as stub, asyncio.TaskGroup() as group:
        group.create_task(_submit(stub, blob, store))
        rules = {f"/fedstudy.v1.Federation/{m}": frozenset({Role.SITE}) for m in ("Inquire", "Submit")}
        again = await listen(
            target,
            tls,
            lambda server: rpc.add_FederationServicer_to_server(gone.servicer, server),
            rules=rules,
            on_refusal=lambda refusal: None,
        )
    await again.stop(0)
    assert gone.servicer.store.has(blob.digest)


async def test_a_peer_that_stays_away_is_a_lost_connection_at_the_deadline(
    study: Any, store: BlobStore
) -> None:
    blob = store.add_bytes(b"weights")
    async with study.aggregator() as gone:
        target = gone.target
    async with study.stub(target) as stub:
        with pytest.raises(ConnectionLostError, match="did not succeed in time"):
            await _submit(stub, blob, store, 0.5)
        with pytest.raises(ConnectionLostError, match="did not succeed in time"):
            await fetch(stub, Blob("blake3:" + "0" * 64, 3), store, timeout=0.5)


async def test_a_final_answer_is_not_asked_for_again(study: Any, store: BlobStore) -> None:
    stranger = study.client(Identity("hub.example", "study", "study-2", Role.SITE, "hospital-a"))
    blob = store.add_bytes(b"weights")
    async with study.aggregator() as aggregator:
        async with study.stub(aggregator.target, stranger) as stub:
            with pytest.raises(RefusedError):
                await _submit(stub, blob, store)
        async with study.stub(aggregator.target) as stub:
            aggregator.servicer.limit = 3
            with pytest.raises(UpdateError, match="expected"):
                await _submit(stub, blob, store)
            with pytest.raises(UpdateError, match="No blob"):
                await fetch(stub, Blob("blake3:" + "0" * 64, 3), store, timeout=30)
        assert len(aggregator.refusals) == 1 and len(aggregator.servicer.offsets) == 1


async def test_a_peer_whose_disk_is_full_is_asked_again(study: Any, store: BlobStore) -> None:
    blob = store.add_bytes(b"weights")
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        aggregator.servicer.refuse = [NoSpaceError("No space left.")]
        await _submit(stub, blob, store)
        aggregator.servicer.store.delete(blob.digest)
        aggregator.servicer.refuse = [NoSpaceError("No space left.")] * 100
        with pytest.raises(NoSpaceError, match="No space left"):
            await _submit(stub, blob, store, 0.5)


@pytest.mark.parametrize(
    ("size", "times"), [(7, 20), (SIZE, 3), pytest.param(SIZE, 20, marks=pytest.mark.slow)]
)
async def test_a_refusal_while_bytes_are_under_way_arrives_as_what_it_is(
    study: Any, store: BlobStore, size: int, times: int
) -> None:
    blob = store.add_bytes(os.urandom(size))
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        for _ in range(times):
            aggregator.servicer.refuse = [PlanError("The plan has changed.", "Approve the new one.")] * 9
            with pytest.raises(PlanError, match=r"The plan has changed\. Approve the new one\."):
                await _submit(stub, blob, store)


async def test_a_download_of_more_or_other_bytes_than_announced_is_refused(
    study: Any, store: BlobStore
) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        blob = aggregator.servicer.store.add_bytes(b"twelve bytes")
        with pytest.raises(UpdateError, match="more than the 5 bytes"):
            await fetch(stub, Blob(blob.digest, 5), store, timeout=30)
        assert store.held(blob.digest, 5) == 0
        aggregator.servicer.store.path(blob.digest).write_bytes(b"others bytes")
        with pytest.raises(UpdateError, match="declared as"):
            await fetch(stub, blob, store, timeout=30)
        assert store.digests() == set()


async def test_cancelling_a_transfer_keeps_what_has_come(
    study: Any, store: BlobStore, eventually: Any
) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        blob = aggregator.servicer.store.add_bytes(os.urandom(20 * CHUNK))
        task = asyncio.create_task(fetch(stub, blob, store, timeout=30))
        await eventually(lambda: store.held(blob.digest, blob.size) > 0, "a first chunk")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.held(blob.digest, blob.size) > 0
        path = await fetch(stub, blob, store, timeout=30)
        assert path.stat().st_size == blob.size


async def test_an_offset_beyond_the_end_is_refused(study: Any, store: BlobStore, raises: Any) -> None:
    async with study.aggregator() as aggregator, study.stub(aggregator.target) as stub:
        blob = aggregator.servicer.store.add_bytes(b"twelve bytes")
        with raises(grpc.StatusCode.INVALID_ARGUMENT):
            async for _ in stub.Fetch(pb.FetchRequest(digest=blob.digest, offset=13)):
                pass
