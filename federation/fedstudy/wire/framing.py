"""Chunks on the wire without protobuf's copies: the bytes are those of federation.proto, made and read by hand.

A message with one bytes field is a tag, the length as a varint, and the bytes. Writing it is one copy (into the frame), reading
it none (a view of the message). What does not look exactly so is left to protobuf, so that both accept the same messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from fedstudy.wire import federation_pb2 as pb

FETCH, SUBMIT = "/fedstudy.v1.Federation/Fetch", "/fedstudy.v1.Federation/Submit"
EXPORT = "/fedstudy.v1.Admin/Export"

_CHUNK_TAG, _SUBMIT_TAG = (
    b"\x0a",
    b"\x12",
)  # Chunk.data is field 1, SubmitRequest.data field 2, both length-delimited


class Frame:
    """A message that is one bytes field; it answers like a `Chunk`, or a `SubmitRequest` whose part is data.

    Attributes:
        message: the encoded message.
        data: the payload, a view of it.
    """

    __slots__ = ("data", "message")

    def __init__(self, message: bytes, data: memoryview) -> None:
        self.message, self.data = message, data

    def WhichOneof(self, group: str) -> str:
        """As protobuf has it."""
        return "data"

    def SerializeToString(self) -> bytes:
        """As protobuf has it."""
        return self.message


def chunk_frame(data: Any) -> Frame:
    """A `Chunk` of some bytes."""
    return _framed(_CHUNK_TAG, data)


def submit_frame(data: Any) -> Frame:
    """A `SubmitRequest` of some bytes."""
    return _framed(_SUBMIT_TAG, data)


def read_chunk(message: bytes) -> Any:
    """A `Chunk`: as a Frame where it is plain, else as protobuf reads it."""
    return _parsed(_CHUNK_TAG, message) or pb.Chunk.FromString(message)


def read_submit(message: bytes) -> Any:
    """A `SubmitRequest`, likewise."""
    return _parsed(_SUBMIT_TAG, message) or pb.SubmitRequest.FromString(message)


def serialise(message: Any) -> bytes:
    """The bytes of a Frame or of a protobuf message."""
    encoded: bytes = message.SerializeToString()
    return encoded


READERS: dict[str, Callable[[bytes], Any]] = {FETCH: read_chunk, EXPORT: read_chunk, SUBMIT: read_submit}
"""Method → how its stream of bytes is read, where not by protobuf: Fetch's and Export's by the client, Submit's by the server."""


def use_frames(channel: grpc.aio.Channel) -> grpc.aio.Channel:
    """Have the channel's stubs use frames for the two methods that move models; returns the channel."""
    unary_stream, stream_unary = channel.unary_stream, channel.stream_unary

    def fetching(method: str, serializer: Any = None, deserializer: Any = None, **rest: Any) -> Any:
        reader = READERS.get(method, rest.pop("response_deserializer", deserializer))
        return unary_stream(method, rest.pop("request_serializer", serializer), reader, **rest)

    def submitting(method: str, serializer: Any = None, deserializer: Any = None, **rest: Any) -> Any:
        rest.pop("request_serializer", serializer)  # a Frame's or a message's own
        return stream_unary(method, serialise, rest.pop("response_deserializer", deserializer), **rest)

    channel.unary_stream = fetching  # type: ignore[method-assign, assignment]
    channel.stream_unary = submitting  # type: ignore[method-assign, assignment]
    return channel


def _framed(tag: bytes, data: Any) -> Frame:
    size = len(data)
    head = tag + _varint(size)
    message = b"".join((head, data))
    return Frame(message, memoryview(message)[len(head) :])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _parsed(tag: bytes, message: bytes) -> Frame | None:
    """The frame, if the message is the tag, a length of at most four bytes in its shortest form, and exactly so many bytes."""
    if message[:1] != tag:
        return None
    size, at = 0, 1
    while at < 5:
        byte = message[at : at + 1]
        if not byte:
            return None
        size |= (byte[0] & 0x7F) << 7 * (at - 1)
        at += 1
        if byte[0] < 0x80:
            return Frame(message, memoryview(message)[at:]) if len(message) - at == size else None
    return None
