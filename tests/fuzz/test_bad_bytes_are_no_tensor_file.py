"""The tensor decoder, the frames of the wire and the JSON documents under arbitrary and nearly right bytes."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedstudy import encodings, tensors
from fedstudy.agent.consent import checked_offer
from fedstudy.agent.relay import parameters
from fedstudy.errors import PlanError, UpdateError
from fedstudy.plan import Encoding
from fedstudy.wire import federation_pb2 as pb
from fedstudy.wire import framing
from fedstudy.wire.admin import DECISION, STATE

TIER = settings(derandomize=True, database=None, deadline=None, max_examples=150)

NUMBERS = st.one_of(
    st.integers(-2, 12), st.sampled_from([2**31, 2**47, 2**48, 2**60, 2**63, 2**64, 10**400]), st.floats()
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.one_of(st.text(max_size=6), st.sampled_from(["\ud800", "a\x00b", "__metadata__", "../../etc", ""]))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*tensors._DTYPES, "F8_E4M3", "", "f32"]) | JSON,
        "shape": st.lists(NUMBERS, max_size=4) | JSON,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | JSON,
    }
)
HEADERS = st.dictionaries(NAMES, ENTRIES | JSON, max_size=4)


def walked(data: bytes) -> None:
    """Open a file of these bytes and touch all that it has; UpdateError is the one refusal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(data)
        try:
            with tensors.TensorFile(path) as file:
                for name in file:
                    array = file.array(name)
                    assert array.nbytes <= len(data)
                    assert (file.block(name, 0, array.size) == array.reshape(-1)).size == array.size
                json.dumps(file.metadata).encode()
                "\n".join(file).encode()
        except UpdateError as error:
            str(error).encode()


def framed(header: Any, payload: bytes, claimed: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) + claimed).to_bytes(8, "little", signed=False) + text + payload


@TIER
@given(st.binary(max_size=64))
def test_arbitrary_bytes(data: bytes) -> None:
    walked(data)


@TIER
@given(HEADERS, st.binary(max_size=64), st.sampled_from([0, 0, 0, 1, 8, 2**40, 2**63 - 2**20]))
def test_headers_that_say_anything(header: dict[str, Any], payload: bytes, claimed: int) -> None:
    walked(framed(header, payload, claimed))


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**47, 2**48 - 1]), max_size=33)


@TIER
@given(st.lists(st.tuples(NAMES, st.sampled_from(list(tensors._DTYPES)), SHAPES), max_size=3), st.booleans())
def test_shapes_whose_bytes_agree(entries: list[tuple[str, str, list[int]]], metadata: bool) -> None:
    """Offsets that follow from the shapes, so that only the shapes themselves can be wrong: 0 × 2⁴⁷ × … is empty, but huge."""
    header: dict[str, Any] = {"__metadata__": {"k": "\ud800"}} if metadata else {}
    end = 0
    for name, dtype, shape in entries:
        size = int(np.prod([float(n) for n in shape], initial=1.0)) * tensors._DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    walked(framed(header, b"\0" * min(end, 4096)))


@TIER
@given(st.data())
def test_a_good_file_with_some_bytes_changed(data: st.DataObject) -> None:
    good = tensors.encode({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0)}, {"k": "v"})
    bad = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        bad[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(good) + 9))
    walked((bytes(bad) + b"\xff" * 9)[:end])


@pytest.mark.parametrize("unit", [b'"%07d":{},', b"[],", b'"%07d":[1,1,1],'])
def test_a_header_of_the_largest_size_costs_little_memory_whatever_is_in_it(unit: bytes) -> None:
    """The header may have 16 MiB; of so many small JSON values Python makes hundreds of megabytes, if it is let."""
    count = tensors.MAX_HEADER // 20
    many = b"".join(unit % i if b"%" in unit else unit for i in range(count))
    text = (b"{" + many[:-1] + b"}") if unit.startswith(b'"') else b'{"a":[' + many[:-1] + b"]}"
    data = framed(text, b"")
    tracemalloc.start()
    with pytest.raises(UpdateError):
        tensors.parse_header(data, len(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data) + (32 << 20)


@TIER
@given(st.binary(max_size=40) | st.binary(max_size=300).map(lambda d: pb.Chunk(data=d).SerializeToString()))
def test_a_frame_is_read_as_protobuf_reads_it(message: bytes) -> None:
    for read, kind in ((framing.read_chunk, pb.Chunk), (framing.read_submit, pb.SubmitRequest)):
        try:
            expected: Any = kind.FromString(message)
        except Exception as error:  # noqa: BLE001 - whatever protobuf raises, the frame's reader has to
            with pytest.raises(type(error)):
                read(message)
            continue
        found = read(message)
        assert bytes(found.data) == expected.data
        if kind is pb.SubmitRequest:
            assert found.WhichOneof("part") == expected.WhichOneof("part")


@TIER
@given(st.sampled_from(list(Encoding)), st.integers(0, 600), st.data())
def test_decoding_any_bits_gives_numbers_and_no_error(
    encoding: Encoding, count: int, data: st.DataObject
) -> None:
    noise = np.random.default_rng(data.draw(st.integers(0, 2**32))).integers(0, 256, 8 * count + 64, np.uint8)
    dtypes = {Encoding.FLOAT32: "<f4", Encoding.BFLOAT16: "<u2", Encoding.FLOAT16: "<f2", Encoding.INT8: "i1"}

    def read(name: str, start: int, number: int) -> Any:
        dtype = np.dtype("<f4" if name.endswith(".scale") else dtypes[encoding])
        return noise.view(dtype)[start : start + number].copy()

    with np.errstate(all="ignore"):
        decoded = encodings.decode(read, "w", 0, count, encoding)
    assert decoded.shape == (count,) and decoded.dtype == np.float32


def test_a_plan_with_a_number_that_json_does_not_have_is_refused(plan: dict[str, Any]) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 400):
        for key in ("learningRate", "weightDecay", "momentum"):
            changed = json.loads(json.dumps(plan))
            changed["training"]["optimizer"][key] = "@"
            document = json.dumps(changed).replace('"@"', number).encode()
            with pytest.raises(PlanError):
                checked_offer(document, "sha256:" + "0" * 64)


@pytest.fixture
def plan() -> dict[str, Any]:
    return {
        "study": "s", "uid": "u", "purpose": "DUO:0000007",
        "task": {"type": "Classification", "covariates": [{"name": "age"}], "target": {"label": "l", "classes": ["a", "b"]}},
        "model": {"network": {"name": "Linear"}}, "preprocessing": {}, "augmentation": {},
        "training": {"localEpochs": 1, "optimizer": {"learningRate": 0.1}, "seed": 7},
        "federation": {"rounds": 2}, "cohort": {},
    }  # fmt: skip


@TIER
@given(st.data())
def test_a_plan_with_anything_anywhere_is_a_plan_or_refused(data: st.DataObject) -> None:
    document: Any = {
        "study": "s", "uid": "u", "purpose": "DUO:0000007",
        "task": {"type": "Classification", "covariates": [{"name": "age"}], "target": {"label": "l", "classes": ["a", "b"]}},
        "model": {"network": {"name": "Linear", "arguments": {"x": 1}}}, "preprocessing": {}, "augmentation": {},
        "training": {"localEpochs": 1, "optimizer": {"learningRate": 0.1, "decay": 1}, "seed": 7},
        "federation": {"rounds": 2, "algorithm": {"name": "FedProx", "parameters": {"mu": 1}}}, "cohort": {},
    }  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        at = document
        while True:
            keys = sorted(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else []
            if not keys:
                break
            key = data.draw(st.sampled_from(list(keys)))
            if not isinstance(at[key], (dict, list)) or data.draw(st.booleans()):
                at[key] = data.draw(JSON)
                break
            at = at[key]
    text = json.dumps(document).encode()
    try:
        offered = checked_offer(text, "sha256:" + "0" * 64)
    except PlanError as error:
        str(error).encode(errors="backslashreplace")
    else:
        raise AssertionError(f"a wrong digest was taken for {offered}")


@TIER
@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()))
def test_documents_that_are_none_are_refused(document: bytes) -> None:
    for kind in (DECISION, STATE):
        with pytest.raises(ValidationError):
            kind.validate_json(document)
    try:
        found = parameters(pb.Instruction(id="x", parameters=document))
    except PlanError:
        return
    assert isinstance(found, dict)
