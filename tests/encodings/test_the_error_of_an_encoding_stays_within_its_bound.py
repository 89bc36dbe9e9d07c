"""Encoding and decoding of any float32 numbers: the stated error, the same bits each time, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedstudy import encodings
from fedstudy.encodings import INT8_BLOCK, declared, encode, error_bound
from fedstudy.errors import UpdateError
from fedstudy.plan import Encoding, Transfer
from fedstudy.tensors import BFLOAT16, Array

LARGEST = {Encoding.FLOAT16: 65504.0, Encoding.INT8: 2.0**127, Encoding.BFLOAT16: 2.0**127}
unhurried = settings(deadline=None)
each_encoding = pytest.mark.parametrize("encoding", list(Encoding))


def numbers(largest: float = 2.0**127) -> st.SearchStrategy[Array]:
    """Tensors of any shape, with subnormals, of every magnitude up to `largest`."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12)
    return hnp.arrays(np.float32, shapes, elements=st.floats(-largest, largest, width=32))


def decoded(sent: dict[str, Array], like: Array, encoding: Encoding, step: int = 10**9) -> Array:
    """The tensor `x` again, decoded in pieces of `step` numbers."""
    pieces = [
        encodings.decode(partial(_read, sent), "x", start, min(step, like.size - start), encoding)
        for start in range(0, like.size, step)
    ]
    return np.concatenate([np.zeros(0, np.float32), *pieces]).reshape(like.shape)


def _read(sent: dict[str, Array], name: str, start: int, count: int) -> Array:
    flat = sent[name].reshape(-1)[start : start + count]
    return flat.view("<u2") if flat.dtype == BFLOAT16 else flat


@each_encoding
@unhurried
@given(data=st.data())
def test_the_error_is_at_most_what_is_stated(encoding: Encoding, data: st.DataObject) -> None:
    x = data.draw(numbers(LARGEST.get(encoding, 2.0**127)))
    sent = encode({"x": x}, {}, Transfer(encoding=encoding))
    back = decoded(sent, x, encoding)
    assert back.dtype == np.float32 and back.shape == x.shape
    assert (np.abs(back.astype(np.float64) - x) <= error_bound(x, encoding)).all()


@each_encoding
@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1.0, 1e4])
def test_the_error_of_many_numbers_is_at_most_what_is_stated(encoding: Encoding, scale: float) -> None:
    x = (np.random.default_rng(1).standard_normal(100_003) * scale).astype(np.float32)
    back = decoded(encode({"x": x}, {}, Transfer(encoding=encoding)), x, encoding)
    error = np.abs(back.astype(np.float64) - x)
    bound = error_bound(x, encoding)
    assert (error <= bound).all()
    if encoding is not Encoding.FLOAT32 and scale >= 1e-2:
        assert error.max() > 0.4 * bound.max(), "the bound says far more than there is"


@each_encoding
@unhurried
@given(data=st.data())
def test_a_change_comes_back_within_the_bound_of_the_change(encoding: Encoding, data: st.DataObject) -> None:
    w = data.draw(numbers(1e4))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    trained = (w + random.normal(size=w.shape) * 10.0 ** random.integers(-8, 4)).astype(np.float32)
    sent = encode({"x": trained}, {"x": w}, Transfer(encoding=encoding, delta=True))
    back = w.astype(np.float64) + decoded(sent, w, encoding)
    change = trained.astype(np.float64) - w
    rounded = np.abs(change) * 2.0**-24
    assert (np.abs(back - trained) <= error_bound((trained - w), encoding) + rounded).all()


@each_encoding
@unhurried
@given(x=numbers(1e4), step=st.integers(20, 700))
def test_pieces_decode_to_what_the_whole_decodes_to(encoding: Encoding, x: Array, step: int) -> None:
    sent = encode({"x": x}, {}, Transfer(encoding=encoding))
    assert decoded(sent, x, encoding, step).tobytes() == decoded(sent, x, encoding).tobytes()


@each_encoding
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 5000])
def test_chunks_of_any_size_encode_to_the_same_bits(
    encoding: Encoding, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = np.random.default_rng(2).standard_normal((2, size)).astype(np.float32)
    transfer = Transfer(encoding=encoding, delta=True)
    whole = encode({"x": x}, {"x": w}, transfer)
    monkeypatch.setattr(encodings, "CHUNK", INT8_BLOCK)
    pieces = encode({"x": x}, {"x": w}, transfer)
    assert {n: a.tobytes() for n, a in whole.items()} == {n: a.tobytes() for n, a in pieces.items()}


@unhurried
@given(numbers(1e4))
@example(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32))  # ties: to even
def test_bfloat16_is_torchs_bfloat16(x: Array) -> None:
    torch: Any = pytest.importorskip("torch")
    bits = encode({"x": x}, {}, Transfer(encoding=Encoding.BFLOAT16))["x"].view("<u2")
    theirs = torch.from_numpy(x.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
    assert (bits == theirs).all()


@each_encoding
@unhurried
@given(x=numbers(1e4))
def test_names_dtypes_and_shapes_are_those_declared(encoding: Encoding, x: Array) -> None:
    codes = {np.dtype("<f4"): "F32", np.dtype("<f2"): "F16", np.dtype("i1"): "I8", BFLOAT16: "BF16"}
    for delta in (False, True):
        transfer = Transfer(encoding=encoding, delta=delta)
        sent = encode({"x": x}, {"x": x}, transfer)
        found = {name: (codes[array.dtype], array.shape) for name, array in sent.items()}
        assert found == declared({"x": ("F32", x.shape)}, transfer)


def test_float32_whole_is_sent_as_it_is() -> None:
    tensors = {"x": np.ones(3, np.float32), "n": np.arange(3)}
    sent = encode(tensors, {}, Transfer())
    assert sent.keys() == tensors.keys() and all(sent[name] is tensors[name] for name in sent)


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        (Encoding.FLOAT16, 65520.0),
        (Encoding.BFLOAT16, 3.4e38),
        (Encoding.FLOAT16, np.nan),
        (Encoding.BFLOAT16, np.nan),
        (Encoding.BFLOAT16, -np.inf),
        (Encoding.INT8, np.nan),
        (Encoding.INT8, np.inf),
    ],
)
def test_a_number_that_does_not_fit_is_refused_by_the_tensors_name(encoding: Encoding, value: float) -> None:
    x = np.array([1, value, 2], np.float32)
    with pytest.raises(UpdateError, match=r"'head\.weight'.*" + encoding.value):
        encode({"head.weight": x}, {}, Transfer(encoding=encoding))


def test_a_change_that_is_not_finite_is_refused_in_float32_too() -> None:
    x, w = np.array([3e38], np.float32), np.array([-3e38], np.float32)
    with pytest.raises(UpdateError, match="'x'"):
        encode({"x": x}, {"x": w}, Transfer(delta=True))


def test_only_float32_can_be_encoded() -> None:
    with pytest.raises(UpdateError, match="'n' is int64"):
        encode({"n": np.arange(3)}, {}, Transfer(encoding=Encoding.INT8))
    with pytest.raises(UpdateError, match="'n' is I64"):
        declared({"n": ("I64", (3,))}, Transfer(encoding=Encoding.INT8))
