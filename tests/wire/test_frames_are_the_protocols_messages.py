"""Frames made by hand are the messages of federation.proto, byte for byte, and everything else is read by protobuf."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire.framing import Frame, chunk_frame, read_chunk, read_submit, submit_frame

_DATA = st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, 70_000).map(bytes))


@given(_DATA)
def test_a_frame_is_the_message(data: bytes) -> None:
    assert chunk_frame(data).message == pb.Chunk(data=data).SerializeToString()
    assert submit_frame(data).message == pb.SubmitRequest(data=data).SerializeToString()


@given(_DATA)
def test_a_message_is_read_without_a_copy(data: bytes) -> None:
    message = pb.Chunk(data=data).SerializeToString()
    chunk = read_chunk(message)
    assert isinstance(chunk, Frame) and chunk.data == data and chunk.data.obj is message
    part = read_submit(pb.SubmitRequest(data=data).SerializeToString())
    assert isinstance(part, Frame) and part.data == data and part.WhichOneof("part") == "data"


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"\x0a" + tail)))
def test_any_bytes_are_read_as_protobuf_reads_them(message: bytes) -> None:
    for read, kind in ((read_chunk, pb.Chunk), (read_submit, pb.SubmitRequest)):
        try:
            wanted = kind.FromString(message)
        except DecodeError:
            with pytest.raises(DecodeError):
                read(message)
        else:
            found = read(message)
            assert bytes(found.data) == wanted.data


def test_a_header_is_read_by_protobuf() -> None:
    request = pb.SubmitRequest(header=pb.SubmitHeader(instruction_id="0001-000-train-a", size=7))
    assert read_submit(request.SerializeToString()) == request
