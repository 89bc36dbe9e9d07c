"""Submit and Fetch streams that are cut, repeated, reordered, too long, or no messages at all, against a real aggregator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from attacked import ATTACKER, Attacked, attacked, digest_of, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedstudy.errors import UpdateError
from fedstudy.wire import federation_pb2 as pb

TIER = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck)
)
SUBMIT, FETCH = "/fedstudy.v1.Federation/Submit", "/fedstudy.v1.Federation/Fetch"
HUGE = st.sampled_from([1, 2**31, 2**40, 2**62, 2**63, 2**64 - 1])
ODD = st.sampled_from([0, 1, 7, 2**20, 2**40, 2**63 - 1, 2**63, 2**64 - 1])

CHANGES = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 5)),
    st.tuples(st.just("twice"), st.integers(0, 5)),
    st.tuples(st.just("swap"), st.integers(0, 4)),
    st.tuples(st.just("size"), ODD),
    st.tuples(st.just("digest"), st.sampled_from(["", "blake3:", "blake3:" + "0" * 64, "../../study.db", "x" * 9999])),
    st.tuples(st.just("instruction"), st.sampled_from(["", "x" * 9999, "0001-000-train-hospital-a", "\0"])),
    st.tuples(st.just("samples"), ODD),
    st.tuples(st.just("seconds"), st.sampled_from([float("nan"), float("inf"), -1.0, 1e308])),
    st.tuples(st.just("empty"), st.integers(0, 5)),
    st.tuples(st.just("header"), st.integers(0, 5)),
    st.tuples(st.just("nothing"), st.integers(0, 5)),
    st.tuples(st.just("junk"), st.binary(min_size=1, max_size=12)),
    st.tuples(st.just("after"), st.integers(1, 3000)),
    st.tuples(st.just("oversized"), st.just(0)),
)  # fmt: skip


def stream(instruction: str, data: bytes, changes: list[tuple[str, Any]]) -> list[bytes]:
    """A right upload in four chunks, with changes."""
    blob = digest_of(data)
    header = pb.SubmitHeader(
        instruction_id=instruction, digest=blob.digest, size=blob.size,
        contribution=pb.Contribution(samples=10, steps=5, seconds=1.0, loss=0.5),
    )  # fmt: skip
    for what, value in changes:
        match what:
            case "size" | "digest":
                setattr(header, what, value)
            case "instruction":
                header.instruction_id = value
            case "samples":
                header.contribution.samples = header.contribution.events = header.contribution.steps = value
            case "seconds":
                header.contribution.seconds = header.contribution.loss = value
    quarter = -(-len(data) // 4)
    messages = [pb.SubmitRequest(header=header).SerializeToString()]
    messages += [
        pb.SubmitRequest(data=data[i : i + quarter]).SerializeToString() for i in range(0, len(data), quarter)
    ]
    for what, value in changes:
        at = (
            value % (len(messages) + 1)
            if what in ("drop", "twice", "swap", "empty", "header", "nothing")
            else 0
        )
        match what:
            case "drop":
                del messages[at : at + 1]
            case "twice":
                messages[at:at] = messages[at : at + 1]
            case "swap":
                messages[at : at + 2] = messages[at : at + 2][::-1]
            case "empty":
                messages.insert(at, pb.SubmitRequest(data=b"").SerializeToString())
            case "header":
                messages.insert(at, pb.SubmitRequest(header=header).SerializeToString())
            case "nothing":
                messages.insert(at, b"")
            case "junk":
                messages.insert(len(messages) // 2, value)
            case "after":
                messages.append(pb.SubmitRequest(data=b"z" * value).SerializeToString())
            case "oversized":
                messages.append(pb.SubmitRequest(data=b"z" * (5 << 20)).SerializeToString())
    return messages


def spooled(study: Attacked) -> int:
    """Bytes in the blob store."""
    return sum(f.stat().st_size for f in (study.engine.folder / "blobs").rglob("*") if f.is_file())


def test_uploads_changed_in_every_way(tmp_path: Path) -> None:
    with attacked(tmp_path) as study:
        caller = study.caller()

        @TIER
        @given(st.lists(CHANGES, max_size=3))
        def attack(changes: list[tuple[str, Any]]) -> None:
            instruction, data, blob = study.asked()
            messages = stream(instruction, data, changes)
            status = study.status(lambda: caller.upload(SUBMIT, messages))
            row = study.answered(instruction)
            assert (status == "OK") == (row is not None), f"{status} {row}"
            if row is not None:  # only the very bytes are accepted, whatever came with them
                assert row.blob == blob and study.engine.blobs.path(row.blob.digest).read_bytes() == data
            for received, sent in study.engine.traffic.values():
                assert 0 <= received < 2**40 and 0 <= sent < 2**40

        before = psutil.Process().memory_info().rss
        attack()
        assert psutil.Process().memory_info().rss - before < 128 << 20
        study.completes()
        assert spooled(study) < 1 << 20, "what was refused stays on no disk"


def test_a_stream_of_nothing_but_uploads_of_others_blobs_is_refused(tmp_path: Path) -> None:
    """A header that names a blob which is there, with a size that is not its own."""
    with attacked(tmp_path) as study:
        caller = study.caller()
        for size in (5, 1, 2**20):
            instruction, _, _ = study.asked(kind="train")
            assert study.engine.state.model is not None
            header = pb.SubmitHeader(
                instruction_id=instruction, digest=study.engine.state.model.digest, size=size
            )
            messages = [pb.SubmitRequest(header=header).SerializeToString()]
            assert (
                study.status(lambda messages=messages: caller.upload(SUBMIT, messages)) == "INVALID_ARGUMENT"
            )
            assert all(0 <= n < 2**40 for pair in study.engine.traffic.values() for n in pair)
            study.completes()


def test_fetches_of_anything_from_anywhere(tmp_path: Path) -> None:
    with attacked(tmp_path) as study:
        caller = study.caller()
        study.asked(kind="train")
        model = study.engine.state.model
        assert model is not None
        digests = st.one_of(st.just(model.digest), st.text(max_size=80), st.just("blake3:" + "f" * 64))

        @TIER
        @given(digests, ODD | st.integers(0, model.size + 2))
        def attack(digest: str, offset: int) -> None:
            request = pb.FetchRequest(digest=digest, offset=offset).SerializeToString()
            status = study.status(lambda: caller.serve(FETCH, request))
            assert (status == "OK") == (digest == model.digest and offset <= model.size)

        attack()
        study.completes()


def test_the_same_upload_many_times_at_once_counts_once(tmp_path: Path) -> None:
    with attacked(tmp_path) as study:
        caller = study.caller()
        for changes in ([], [("samples", 2**63)]):
            instruction, data, _ = study.asked()
            header = stream(instruction, data, changes)[0]  # type: ignore[arg-type]

            def rest(begin: int, data: bytes = data) -> bytes:
                return pb.SubmitRequest(data=data[begin:]).SerializeToString()

            async def many(header: bytes = header, rest: Callable[[int], bytes] = rest) -> list[str]:
                calls = [outcome(caller.upload_in_turn(SUBMIT, header, rest)) for _ in range(8)]
                return await asyncio.gather(*calls)

            statuses = study.now(many())
            answers = study.answered(instruction)
            assert (answers is not None) == ("OK" in statuses) == (not changes), statuses
        study.completes()
        assert ATTACKER in study.engine.state.sites


def test_bytes_that_two_sites_send_are_kept_when_one_of_them_is_refused(tmp_path: Path) -> None:
    with attacked(tmp_path) as study:
        instruction, data, blob = study.asked(kind="train")

        async def both() -> list[Any]:
            study.engine.blobs.add_bytes(data)
            headers = [
                pb.SubmitHeader(instruction_id=name, digest=blob.digest, size=blob.size, contribution=said)
                for name, said in (
                    (instruction, pb.Contribution(samples=2**50)),
                    (instruction.replace(ATTACKER, "hospital-b"), pb.Contribution(samples=10)),
                )
            ]
            return await asyncio.gather(
                *(study.engine.accept(h.instruction_id.split("train-")[1], h) for h in headers),
                return_exceptions=True,
            )

        refused, accepted = study.now(both())
        assert isinstance(refused, UpdateError) and accepted is None
        assert study.engine.blobs.has(blob.digest)
        study.completes()
