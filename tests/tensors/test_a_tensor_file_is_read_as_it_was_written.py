"""The tensor format: round trips, canonical bytes, agreement with the safetensors library, and faults that are typed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstudy import tensors
from fedstudy.errors import UpdateError
from fedstudy.tensors import MAX_HEADER, TensorFile, encode, parse_header

DTYPES = [
    np.dtype(code)
    for code in ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?")
]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
# safetensors itself refuses nothing of these; "__metadata__" is the format's own
NAMES = st.text(max_size=20).filter(lambda name: name != "__metadata__")
STATES = st.dictionaries(NAMES, ARRAYS, max_size=5)
METADATA = st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


@settings(deadline=None)
@given(STATES, METADATA)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "file"
    blob = tensors.write(path, state, metadata)
    assert blob == tensors.digest_file(path)
    with TensorFile(path) as file:
        assert file.metadata == metadata
        assert list(file) == sorted(state)
        assert _same({name: file.array(name) for name in file}, state)
        assert all(not file.array(name).flags.writeable for name in file)
    assert _same(tensors.read(path), state)


@settings(deadline=None)
@given(STATES, METADATA, st.randoms())
def test_equal_tensors_give_equal_bytes(state: dict[str, Any], metadata: dict[str, str], random: Any) -> None:
    names, keys = list(state), list(metadata)
    random.shuffle(names)
    random.shuffle(keys)
    shuffled = {
        name: np.asfortranarray(state[name]) if state[name].ndim > 1 else state[name] for name in names
    }
    data = encode(state, metadata)
    assert encode(shuffled, {key: metadata[key] for key in keys}) == data
    assert (int.from_bytes(data[:8], "little") + 8) % 8 == 0


@settings(deadline=None)
@given(STATES, METADATA)
def test_the_safetensors_library_reads_what_we_write(state: dict[str, Any], metadata: dict[str, str]) -> None:
    assert _same(safetensors.numpy.load(encode(state, metadata)), state)


@settings(deadline=None)
@given(STATES, METADATA)
def test_we_read_what_the_safetensors_library_writes(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "file"
    path.write_bytes(
        safetensors.numpy.save(state, metadata or None)
    )  # {} with no tensor: invalid JSON in 0.8
    with TensorFile(path) as file:
        assert _same(file.arrays(), state) and file.metadata == metadata


def test_big_endian_arrays_are_written_little_endian() -> None:
    assert encode({"a": np.arange(3, dtype=">f4")}) == encode({"a": np.arange(3, dtype="<f4")})


@pytest.mark.parametrize("dtype", ["complex64", "U3", "M8[s]", "object"])
def test_a_dtype_that_the_format_lacks_is_refused(dtype: str) -> None:
    with pytest.raises(UpdateError, match="cannot hold"):
        encode({"a": np.zeros(2, dtype=dtype)})


def test_views_outlive_the_file(tmp_path: Path) -> None:
    tensors.write(tmp_path / "file", {"a": np.arange(4, dtype=np.float32)})
    with TensorFile(tmp_path / "file") as file:
        view = file.array("a")
    assert view.tolist() == [0, 1, 2, 3]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    import os

    part = tmp_path / f".file.{os.getpid()}.part"
    part.symlink_to("/dev/full")
    from fedstudy.errors import NoSpaceError

    with pytest.raises(NoSpaceError, match="No space left"):
        tensors.write(tmp_path / "file", {"a": np.zeros(4)})
    assert list(tmp_path.iterdir()) == []


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _file(header: Any, payload: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


FAULTS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "an empty header": bytes(8),
    "a header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "a header longer than memory": (1 << 63).to_bytes(8, "little") + b"{}",
    "a header over the limit": (MAX_HEADER + 1).to_bytes(8, "little") + b"{}",
    "no JSON": _file(b"{nonsense"),
    "no UTF-8": _file(b'{"\xff": 1}'),
    "a list": _file([]),
    "deep nesting": _file(b'{"a":' * 100_000),
    "deep lists": _file(b"[" * 1_000_000),
    "a huge number": _file(b'{"a":' + b"9" * 100_000 + b"}"),
    "not a number": _file(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "a name twice": _file(b'{"a":%s,"a":%s}' % ((json.dumps(GOOD).encode(),) * 2)),
    "metadata that is no map": _file({"__metadata__": [], "a": GOOD}),
    "metadata that are no strings": _file({"__metadata__": {"a": 1}, "a": GOOD}),
    "a tensor that is no map": _file({"a": 3}),
    "a field too many": _file({"a": {**GOOD, "x": 1}}),
    "a field too few": _file({"a": {"dtype": "F32", "shape": [2]}}),
    "an unknown dtype": _file({"a": {**GOOD, "dtype": "F31"}}),
    "a dtype that is a list": _file({"a": {**GOOD, "dtype": ["F32"]}}),
    "a shape that is a number": _file({"a": {**GOOD, "shape": 2}}),
    "a negative side": _file({"a": {**GOOD, "shape": [-2]}}),
    "a fractional side": _file({"a": {**GOOD, "shape": [2.0]}}),
    "a side that is true": _file({"a": {**GOOD, "shape": [True, 2]}}),
    "too many sides": _file({"a": {**GOOD, "shape": [1] * 33}}),
    "sides whose product is astronomical": _file({"a": {**GOOD, "shape": [(1 << 48) - 1] * 32}}),
    "three offsets": _file({"a": {**GOOD, "data_offsets": [0, 8, 8]}}),
    "offsets backwards": _file({"a": {**GOOD, "data_offsets": [8, 0]}}),
    "offsets that do not fit the shape": _file({"a": {**GOOD, "data_offsets": [0, 4]}}),
    "a gap": _file({"a": GOOD, "b": {**GOOD, "data_offsets": [12, 20]}}, bytes(20)),
    "an overlap": _file({"a": GOOD, "b": {**GOOD, "data_offsets": [4, 12]}}, bytes(12)),
    "a payload too short": _file({"a": GOOD}, bytes(7)),
    "a payload too long": _file({"a": GOOD}, bytes(9)),
    "a payload of nobody": _file({}, bytes(1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_a_typed_error(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(FAULTS[fault])
    with pytest.raises(UpdateError):
        TensorFile(path)


def test_a_whole_file_of_no_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(_file({}, b""))
    assert tensors.read(path) == {}


_VALID = encode({"weight": np.ones((2, 3), np.float32), "bias": np.zeros(3)}, {"kind": "TRAIN"})
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["F32", "dtype", "shape", "data_offsets"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["a", "b", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4
    ),
    max_leaves=20,
)  # fmt: skip
_HOSTILE = st.one_of(
    st.binary(max_size=200),
    _JSON.map(_file),
    st.fixed_dictionaries({"a": st.fixed_dictionaries({"dtype": _JSON, "shape": _JSON, "data_offsets": _JSON})})
    .map(_file),
    st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)).map(
        lambda change: _VALID[: change[0]] + bytes([change[1]]) + _VALID[change[0] + 1 :]
    ),
    st.integers(0, len(_VALID)).map(lambda end: _VALID[:end]),
)  # fmt: skip


@settings(deadline=None)
@given(_HOSTILE)
def test_hostile_bytes_are_refused_or_described_in_full(data: bytes) -> None:
    """Fuzzing: UpdateError and nothing else; what is accepted stays within the file."""
    try:
        begin, infos, metadata = parse_header(data, len(data))
    except UpdateError:
        return
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items())
    assert begin + sum(info.end - info.begin for info in infos.values()) == len(data)
    for info in infos.values():
        assert 0 <= info.begin <= info.end <= len(data) - begin
        assert (info.end - info.begin) % max(1, math.prod(info.shape)) == 0
