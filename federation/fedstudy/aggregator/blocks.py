"""Reading and writing of tensor files block by block, so that memory depends neither on the model nor on the sites.

Blocks are read from the file rather than through its memory mapping: mapped pages would count as resident memory of
every update of a round.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fedstudy.errors import NoSpaceError, UpdateError
from fedstudy.tensors import Array, Blob, TensorFile

BLOCK = 1 << 16
"""Elements of a block: 256 KiB of float32, 512 KiB of float64 while it is added up, so that they stay in a core's cache."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name → (dtype code, shape)."""


def layout(file: TensorFile) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a file holds, by name."""
    return {name: (info.dtype, info.shape) for name, info in file.tensors.items()}


def read_block(file: TensorFile, name: str, start: int, count: int) -> Array:
    """Elements [start, start+count) of a flattened tensor, as a fresh array."""
    return file.block(name, start, count)


def spans(elements: int, at_once: int = 1) -> Iterator[tuple[int, int]]:
    """(start, count) of the blocks of a tensor with so many elements; smaller ones where several are held at once."""
    size = max(1, BLOCK // at_once)
    for start in range(0, elements, size):
        yield start, min(size, elements - start)


def blocks(file: TensorFile, name: str) -> Iterator[Array]:
    """A tensor, flattened, block by block."""
    for start, count in spans(math.prod(file.tensors[name].shape)):
        yield read_block(file, name, start, count)


def write_blocks(
    path: Path,
    shape: Layout,
    fill: Callable[[str], Iterable[Array]],
    metadata: Mapping[str, str],
    *,
    durable: bool = True,
) -> Blob:
    """Write a canonical tensor file (the bytes of `tensors.encode`) without holding it in memory.

    Args:
        path: the file; it is there whole and durable, or not at all.
        shape: names, dtypes and shapes.
        fill: gives a tensor's blocks, in order, in its dtype.
        metadata: strings to keep with the tensors.
        durable: False for a file that can be made again.

    Raises:
        NoSpaceError: the disk is full.
        UpdateError: a dtype that the format lacks.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb", buffering=0) as file:
            sink = _Sink(file.fileno())
            _drain(_batches(_pieces(shape, fill, metadata)), sink)
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (28, 122):
            raise NoSpaceError(
                f"No space left to write {path}.", "Free some space; the study then goes on."
            ) from error
        raise
    return Blob("sha256:" + sink.sha.hexdigest(), sink.size)


Piece = bytes | memoryview


class _Sink:
    """Hashes and writes what it is given."""

    def __init__(self, descriptor: int) -> None:
        self.sha, self.size, self._descriptor = hashlib.sha256(), 0, descriptor

    def take(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.sha.update(piece)
            left = memoryview(piece)
            while left:
                written = os.write(self._descriptor, left)
                self.size += written
                left = left[written:]


def _drain(batches: Iterator[list[Piece]], sink: _Sink) -> None:
    """Give all batches to the sink; from the second on in a thread, so that the next is computed while one is written."""
    sink.take(next(batches, []))
    with ThreadPoolExecutor(1) as pool:
        under_way: deque[Future[None]] = deque()
        for batch in batches:
            under_way.append(pool.submit(sink.take, batch))
            if len(under_way) > _AHEAD:
                under_way.popleft().result()
        for future in under_way:
            future.result()


_AHEAD = 4  # batches that wait to be written
_BATCH = 4 * BLOCK  # bytes at least, so that small tensors do not each cost a hop between threads


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, size = list[Piece](), 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def _pieces(
    shape: Layout, fill: Callable[[str], Iterable[Array]], metadata: Mapping[str, str]
) -> Iterator[Piece]:
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in sorted(shape):
        code, dims = shape[name]
        if code not in DTYPES:
            raise UpdateError(f"Tensor {name!r} has dtype {code}, which cannot be folded.")
        length = math.prod(dims) * DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": list(dims), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in sorted(shape):
        dtype = DTYPES[shape[name][0]]
        for block in fill(name):
            yield np.ascontiguousarray(block, dtype=dtype).reshape(-1).view(np.uint8).data
