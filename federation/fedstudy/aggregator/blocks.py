"""Reading and writing of tensor files block by block, so that memory depends neither on the model nor on the sites.

Blocks are read from the file rather than through its memory mapping: mapped pages would count as resident memory of
every update of a round.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from fedstudy.errors import NoSpaceError, UpdateError
from fedstudy.tensors import Array, Blob, TensorFile, digest_of
from fedstudy.wire.writeback import Writeback

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


def read_block(file: TensorFile, name: str, start: int, count: int, room: Array | None = None) -> Array:
    """Elements [start, start+count) of a flattened tensor; in `room`, where they fit there."""
    return file.block(name, start, count, room)


def spans(elements: int, at_once: int = 1) -> Iterator[tuple[int, int]]:
    """(start, count) of the blocks of a tensor with so many elements; smaller ones where several are held at once."""
    size = max(1, BLOCK // at_once)
    for start in range(0, elements, size):
        yield start, min(size, elements - start)


def blocks(file: TensorFile, name: str) -> Iterator[Array]:
    """A tensor, flattened, block by block."""
    for start, count in spans(math.prod(file.tensors[name].shape)):
        yield read_block(file, name, start, count)


def runs(files: Sequence[TensorFile], names: Iterable[str], between: Iterable[str] = ()) -> dict[str, int]:
    """Tensors that can be read as one: the first one's name → how many numbers it and those after it hold together.

    Neighbours by name that are float32 and lie side by side in all the files make a run; `read_block` reads over their borders.
    A network has many small tensors, and each costs more than its numbers. Those of `between` belong to no run, and end one
    that they come between.
    """
    found: dict[str, int] = {}
    first, before, apart = "", "", set(between)
    for name in sorted({*names, *apart}):
        if name in apart:
            before = ""
            continue
        count = math.prod(files[0].tensors[name].shape)
        if before and all(_side_by_side(file, before, name) for file in files):
            found[first] += count
        else:
            first, found[name] = name, count
        before = name
    return found


def _side_by_side(file: TensorFile, one: str, other: str) -> bool:
    left, right = file.tensors[one], file.tensors[other]
    return left.dtype == right.dtype == "F32" and left.end == right.begin


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
        path: the file; it is there whole and durable, or not at all. One that is there before is written over, which is cheaper
            than a new one.
        shape: names, dtypes and shapes.
        fill: gives a tensor's blocks, in order, in its dtype. It is asked in the order of names, and may give the blocks of
            some neighbours with the first of them (`runs`).
        metadata: strings to keep with the tensors.
        durable: False for a file that can be made again.

    Raises:
        NoSpaceError: the disk is full.
        UpdateError: a dtype that the format lacks.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            path.rename(part)
        with part.open("r+b" if part.exists() else "wb", buffering=0) as file:
            sink = _Sink(file.fileno(), Writeback(file.fileno()) if durable else None)
            _drain(_batches(_pieces(shape, fill, metadata)), sink)
            file.truncate(sink.size)
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
    return Blob(digest_of(sink.state), sink.size)


Piece = bytes | memoryview


class _Sink:
    """Hashes and writes what it is given."""

    def __init__(self, descriptor: int, writeback: Writeback | None) -> None:
        self.state, self.size, self._descriptor = blake3(), 0, descriptor
        self._writeback = writeback

    def take(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.state.update(piece)
            left = memoryview(piece)
            while left:
                written = os.write(self._descriptor, left)
                self.size += written
                left = left[written:]
        if self._writeback is not None:
            self._writeback.grown(self.size)


def _drain(batches: Iterator[list[Piece]], sink: _Sink) -> None:
    """Give all batches to the sink; after the first few in a thread, so that the next is computed while one is written."""
    for batch in islice(batches, _ALONE):
        sink.take(batch)
    if (first := next(batches, None)) is None:
        return
    with ThreadPoolExecutor(1) as pool:
        under_way: deque[Future[None]] = deque()
        for batch in chain([first], batches):
            under_way.append(pool.submit(sink.take, batch))
            if len(under_way) > _AHEAD:
                under_way.popleft().result()
        for future in under_way:
            future.result()


_ALONE = 8  # batches (2 MiB) that are written before a thread is worth its start: a small model needs none
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
