"""Protobuf messages of any type with anything in their fields, and bytes that are none."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from fedstudy.wire import federation_pb2 as pb

TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "\0",
            "blake3:" + "0" * 64,
            "../../etc/passwd",
            "x" * 20_000,
            "0001-000-train-hospital-c",
            "'; DROP TABLE answers",
        ]
    ),
)
WHOLE = st.sampled_from([0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
LONG = st.sampled_from([0, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
BYTES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"{}", b"[" * 5000, b'{"kind":"agent"}', b"\xff\xfe", b'{"decision":"Suspend"}', b"0" * 20_000]
    ),
)


def messages(kind: Descriptor) -> st.SearchStrategy[Any]:
    """Messages of a type, each field set or not."""
    fields = {field.name: _field(field) for field in kind.fields}
    maker = getattr(pb, kind.name)
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: _made(maker, values))


def raw(kind: Descriptor) -> st.SearchStrategy[bytes]:
    """A message's bytes, or such bytes with changes, or anything."""
    good = messages(kind).map(lambda m: bytes(m.SerializeToString()))
    return st.one_of(good, good, st.binary(max_size=40), st.tuples(good, st.binary(max_size=8)).map(b"".join))


def _made(maker: Any, values: dict[str, Any]) -> Any:
    return maker(**values)  # of a oneof the last one counts


def _field(field: Any) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            one = messages(field.message_type)
        case FieldDescriptor.TYPE_STRING:
            one = TEXT
        case FieldDescriptor.TYPE_BYTES:
            one = BYTES
        case FieldDescriptor.TYPE_DOUBLE:
            one = st.floats() | st.sampled_from([1e308, -1e308, float("nan"), float("inf")])
        case FieldDescriptor.TYPE_BOOL:
            one = st.booleans()
        case FieldDescriptor.TYPE_ENUM:
            one = st.integers(-1, 9) | st.just(2**31 - 1)
        case FieldDescriptor.TYPE_UINT64:
            one = LONG
        case _:
            one = WHOLE
    return st.lists(one, max_size=3) if field.is_repeated else one
