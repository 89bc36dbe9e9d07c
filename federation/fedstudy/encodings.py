"""In what form a site's trained tensors travel: exact, or in fewer bits with a stated error; whole, or as a change.

The error of a decoded number against the number x that was encoded, as `error_bound` gives it:

| encoding | bytes | error at most |
| --- | --- | --- |
| Float32 | 4 | 0 |
| BFloat16 | 2 | 2⁻⁸·|x|, and half of the smallest subnormal, 2⁻¹³⁴ |
| Float16 | 2 | 2⁻¹¹·|x|, and half of the smallest subnormal, 2⁻²⁵; |x| up to 65504 |
| Int8 | 1 1/64 | (1/254 + 2⁻²¹)·m, m the largest magnitude of the 256 numbers of x's block, and 2⁻¹⁴² |

All round to nearest, ties to even. As a change (`delta`), x is fl(w_k − w): to the error comes 2⁻²⁴·|w_k − w|.
Block-wise scaling: Dettmers et al., ICLR 2022, with linear steps instead of quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedstudy.errors import UpdateError
from fedstudy.plan import Encoding, Transfer
from fedstudy.tensors import BFLOAT16, Array

INT8_BLOCK = 256
"""So many neighbours of a flattened tensor share a scale."""

CHUNK = 1 << 20
"""Numbers that are encoded at a time, so that the copies in between stay small; whole blocks."""

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (dtype code, shape)."""

Read = Callable[[str, int, int], Array]
"""Reads elements [start, start+count) of a flattened tensor by name; bfloat16 as uint16 bit patterns."""


@dataclass(frozen=True)
class _Part:
    """A tensor of the encoded form: what its name ends in, its dtype, and for how many numbers one of its elements stands."""

    suffix: str
    code: str
    dtype: np.dtype[Any]
    per: int = 1


_PARTS: Mapping[Encoding, tuple[_Part, ...]] = {
    Encoding.FLOAT32: (_Part("", "F32", np.dtype("<f4")),),
    Encoding.BFLOAT16: (_Part("", "BF16", BFLOAT16),),
    Encoding.FLOAT16: (_Part("", "F16", np.dtype("<f2")),),
    Encoding.INT8: (
        _Part(".q", "I8", np.dtype("i1")),
        _Part(".scale", "F32", np.dtype("<f4"), INT8_BLOCK),
    ),
}


def declared(trained: Layout, transfer: Transfer) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What an answer holds by the plan: the tensors `trained`, encoded.

    Raises:
        UpdateError: a tensor is not float32 and is to be encoded.
    """
    if transfer.encoding is Encoding.FLOAT32:
        return dict(trained)
    return {
        name + part.suffix: (part.code, _shape(shape, part))
        for name, (code, shape) in trained.items()
        for part in _parts_of(name, code, transfer.encoding)
    }


def encode(tensors: Mapping[str, Array], model: Mapping[str, Array], transfer: Transfer) -> dict[str, Array]:
    """The tensors of an answer in the plan's form. Float32 without delta gives them as they are.

    Args:
        tensors: what was trained, float32.
        model: the round's model; used where the change is sent.

    Raises:
        UpdateError: a number is not finite, or too large for the encoding.
    """
    if transfer == Transfer():
        return dict(tensors)
    encoded: dict[str, Array] = {}
    for name, trained in tensors.items():
        base = model[name] if transfer.delta else None
        encoded |= _encode_tensor(name, trained, base, transfer.encoding)
    return encoded


def decode(read: Read, name: str, start: int, count: int, encoding: Encoding) -> Array:
    """Elements [start, start+count) of a tensor that was encoded under `name`, as float32."""
    if encoding is not Encoding.INT8:
        return _widened(read(name, start, count), encoding)
    first, last = start // INT8_BLOCK, -(-(start + count) // INT8_BLOCK)
    scales = np.repeat(read(f"{name}.scale", first, last - first), INT8_BLOCK)
    offset = start - first * INT8_BLOCK
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a hostile scale; what comes of it is checked by the reader
        decoded: Array = read(f"{name}.q", start, count) * scales[offset : offset + count]
    return decoded


def error_bound(values: Array, encoding: Encoding) -> Array:
    """The largest |decoded − x| for each x of a tensor (any shape), float64; see the table above."""
    size = np.abs(np.asarray(values, dtype=np.float64))
    match encoding:
        case Encoding.FLOAT32:
            return np.zeros_like(size)
        case Encoding.BFLOAT16:
            return size * 2.0**-8 + 2.0**-134
        case Encoding.FLOAT16:
            return size * 2.0**-11 + 2.0**-25
        case Encoding.INT8:
            largest = np.repeat(_blocked(size.ravel()).max(axis=1), INT8_BLOCK)[: size.size]
            return np.asarray(largest * (1 / 254 + 2.0**-21) + 2.0**-142).reshape(size.shape)


def _encode_tensor(name: str, trained: Array, base: Array | None, encoding: Encoding) -> dict[str, Array]:
    parts = _parts_of(name, "F32" if trained.dtype == np.float32 else str(trained.dtype), encoding)
    flat, before = trained.reshape(-1), None if base is None else base.reshape(-1)
    stored = [np.empty(-(-flat.size // part.per), dtype=part.dtype) for part in parts]
    for start in range(0, flat.size, CHUNK):
        values = flat[start : start + CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):
            if before is not None:
                values = values - before[start : start + CHUNK]
            packed = _packed(values, encoding)
        if packed is None:
            raise UpdateError(
                f"Tensor {name!r} holds a number that is not finite, or too large for the encoding {encoding.value}.",
                "Lower the learning rate, clip the gradient, or set federation.transfer.encoding: Float32.",
            )
        for array, part, piece in zip(stored, parts, packed, strict=True):
            array[start // part.per :][: piece.size] = piece
    return {
        name + part.suffix: array.reshape(_shape(trained.shape, part))
        for part, array in zip(parts, stored, strict=True)
    }


def _packed(values: Array, encoding: Encoding) -> tuple[Array, ...] | None:
    """A chunk in the encoding's parts; None where a number does not fit."""
    match encoding:
        case Encoding.FLOAT32:
            return (values,) if np.isfinite(values).all() else None
        case Encoding.BFLOAT16:
            bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
            upper = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
            fits = np.isfinite(values).all() and ((upper & 0x7F80) != 0x7F80).all()
            return (upper.view(BFLOAT16),) if fits else None
        case Encoding.FLOAT16:
            half = values.astype("<f2")
            return (half,) if np.isfinite(half).all() else None
        case Encoding.INT8:
            return _quantised(values)


def _quantised(values: Array) -> tuple[Array, Array] | None:
    blocked = _blocked(values)
    scale = np.abs(blocked).max(axis=1) / np.float32(127)
    if not np.isfinite(scale * np.float32(127)).all():
        return None
    steps = np.divide(blocked, scale[:, None], out=np.zeros_like(blocked), where=scale[:, None] > 0)
    whole = np.clip(np.rint(steps), -127, 127).astype("i1")
    return whole.reshape(-1)[: values.size], scale


def _blocked(values: Array) -> Array:
    """[blocks, 256] with zeros after the end."""
    return np.pad(values, (0, -values.size % INT8_BLOCK)).reshape(-1, INT8_BLOCK)


def _widened(stored: Array, encoding: Encoding) -> Array:
    if encoding is Encoding.BFLOAT16:
        return (stored.astype("<u4") << 16).view("<f4")
    return stored if encoding is Encoding.FLOAT32 else stored.astype("<f4")


def _parts_of(name: str, code: str, encoding: Encoding) -> tuple[_Part, ...]:
    if code != "F32":
        raise UpdateError(
            f"Tensor {name!r} is {code}; only float32 can be encoded.",
            "Leave federation.transfer unset for this model.",
        )
    return _PARTS[encoding]


def _shape(shape: tuple[int, ...], part: _Part) -> tuple[int, ...]:
    return shape if part.per == 1 else (-(-math.prod(shape) // part.per),)
