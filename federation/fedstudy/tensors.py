"""The wire and disk form of model state: a safetensors file, memory-mapped rather than parsed, named by its content.

Layout (https://github.com/huggingface/safetensors, format description): 8 bytes little-endian length N, N bytes of JSON header,
then one contiguous payload. Files written here are canonical: tensors in order of name, header padded with blanks to a multiple
of 8; equal tensors and metadata give equal bytes. The reader accepts any valid file and refuses everything else.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from fedstudy.errors import NoSpaceError, UpdateError

Array = npt.NDArray[Any]

MAX_HEADER = 16 << 20
"""Largest header that is read, in bytes."""

MAX_TENSORS = 1 << 15
"""Most tensors in a file. Python makes 30 times a header's bytes of many small JSON values: they are counted before they are read."""

CONSTANT_PREFIX = "constant."
"""Tensors of a model whose name begins so are set once, by Initialise; a site never sends them back."""

HASH = "blake3"
"""What names content (https://github.com/BLAKE3-team/BLAKE3-specs, 256 bits; docs/decisions/0020). Plans, ledgers and certificates are
named by sha256."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip

BFLOAT16: np.dtype[Any] = np.dtype([("bits", "<u2")])
"""dtype of an array of bfloat16 bit patterns that is to be written: `bits.view(BFLOAT16)`. numpy has no bfloat16."""

_CODES = {dtype: code for code, dtype in _DTYPES.items() if code != "BF16"} | {BFLOAT16: "BF16"}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: dtype code, shape, and its bytes [begin, end) within the payload."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Blob:
    """A file by content: `blake3:…` and its length in bytes."""

    digest: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """What these bytes are called."""
        return cls(digest_of(blake3(data)), len(data))


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """The canonical file of some tensors, as bytes.

    Args:
        tensors: name → array; dtypes of safetensors, with `BFLOAT16` for bfloat16.
        metadata: strings to keep with them.

    Raises:
        UpdateError: a dtype that the format does not have.
    """
    arrays = {name: _contiguous(name, tensors[name]) for name in sorted(tensors)}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays.values())])


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> Blob:
    """Write the canonical file durably (fsync, then rename) and return its name by content.

    Raises:
        NoSpaceError: the disk is full; nothing is left behind.
    """
    data = encode(tensors, metadata)
    write_bytes(path, data)
    return Blob.of(data)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file durably: all of it, or none.

    Raises:
        NoSpaceError: the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (28, 122):
            raise NoSpaceError(f"No space left to write {path}.", "Free some space, then resume.") from error
        raise


def digest_of(state: blake3) -> str:
    """`blake3:` and 64 hexadecimal digits, of all that the state was given."""
    return f"{HASH}:{state.hexdigest()}"


def digest_file(path: Path) -> Blob:
    """The name by content of any file."""
    state, size = blake3(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
            size += len(block)
    return Blob(digest_of(state), size)


class TensorFile:
    """A tensor file, memory-mapped; arrays are read-only views that live as long as the file is open.

    Raises:
        UpdateError: the file is not a valid safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size < 8:
                raise UpdateError(f"{path.name} is shorter than a tensor file's length field.")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._descriptor = os.dup(file.fileno())
        try:
            self._payload, self.tensors, self.metadata = parse_header(self._map, self.size)
        except UpdateError:
            self.close()
            raise
        # Reading the header may have mapped much more of a cached file: hundreds of open files would count as memory.
        self._map.madvise(mmap.MADV_DONTNEED)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def array(self, name: str) -> Array:
        """A read-only view of one tensor; bfloat16 comes as uint16 bit patterns."""
        info = self.tensors[name]
        count = math.prod(info.shape)
        flat = np.frombuffer(
            self._map, dtype=_DTYPES[info.dtype], count=count, offset=self._payload + info.begin
        )
        return flat.reshape(info.shape)

    def block(self, name: str, start: int, count: int, room: Array | None = None) -> Array:
        """Elements [start, start+count) of a flattened tensor, read rather than mapped.

        Args:
            room: where to put them, where its dtype fits and it is large enough; else they are a fresh array, whose memory the
                kernel has to clear first.

        Raises:
            UpdateError: the file has become shorter.
        """
        info = self.tensors[name]
        dtype = _DTYPES[info.dtype]
        fits = room is not None and room.dtype == dtype and room.size >= count
        array = room[:count] if room is not None and fits else np.empty(count, dtype=dtype)
        offset = self._payload + info.begin + start * array.itemsize
        if os.preadv(self._descriptor, [array.data], offset) != array.nbytes:
            raise UpdateError(f"{self.path.name} ends within tensor {name!r}.")
        return array

    def arrays(self) -> dict[str, Array]:
        """All tensors as copies, which outlive the file."""
        return {name: self.array(name).copy() for name in self.tensors}

    def close(self) -> None:
        """Unmap; views handed out keep the mapping until they are gone."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        with contextlib.suppress(
            BufferError
        ):  # a view is still alive: the mapping goes with the last of them
            self._map.close()


def read(path: Path) -> dict[str, Array]:
    """All tensors of a file, copied into memory.

    Raises:
        UpdateError: the file is not a valid safetensors file.
    """
    with TensorFile(path) as file:
        return file.arrays()


def parse_header(data: Any, size: int) -> tuple[int, dict[str, TensorInfo], dict[str, str]]:
    """Check a header and return (start of the payload, tensors by name, metadata).

    Every byte of the payload belongs to exactly one tensor; nothing is allocated beyond the header.

    Args:
        data: the file's bytes, or a mapping of them.
        size: its length.

    Raises:
        UpdateError: anything that the format does not allow.
    """
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER or 8 + length > size:
        raise UpdateError(
            f"The tensor file declares a header of {length} bytes; the file has {size}, the limit is {MAX_HEADER}."
        )
    text = bytes(data[8 : 8 + length])
    tensors, metadata, end = _known(text) if len(text) <= _SHORT else _read(text)
    if 8 + length + end != size:
        raise UpdateError(f"The tensor file has {size} bytes; its header describes {8 + length + end}.")
    return 8 + length, dict(tensors), dict(metadata)


_SHORT = 1 << 16
"""Bytes of a header whose meaning is kept: a model's is read for each answer, an answer's twice."""


def _read(text: bytes) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """A header's tensors, its metadata, and where the payload ends."""
    if text.count(b"{") > MAX_TENSORS + 2 or text.count(b",") > 16 * MAX_TENSORS:
        raise UpdateError(f"The tensor file's header describes more than {MAX_TENSORS} tensors.")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UpdateError(f"The tensor file's header is not valid JSON: {error}.") from None
    if not isinstance(header, dict):
        raise UpdateError("The tensor file's header is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(_is_text(k) and _is_text(v) for k, v in metadata.items()):
        raise UpdateError("The tensor file's metadata is not a map of strings.")
    tensors = {name: _tensor_info(name, entry) for name, entry in header.items()}
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != end:
            raise UpdateError(
                f"Tensor {name!r} begins at byte {info.begin}, expected {end}: the payload has gaps or overlaps."
            )
        end = info.end
    return tensors, metadata, end


_known = lru_cache(maxsize=64)(_read)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 has: JSON's escapes can make halves of characters, which nothing can write."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _tensor_info(name: str, entry: Any) -> TensorInfo:
    if not _is_text(name):
        raise UpdateError(f"The tensor name {name!r} is not valid text.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UpdateError(f"Tensor {name!r} is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UpdateError(f"Tensor {name!r} has the unknown dtype {dtype!r}.")
    if (
        not isinstance(shape, list)
        or len(shape) > 32
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
        or math.prod(max(1, n) for n in shape)
        >= 1 << 60  # numpy refuses it, though a 0 among them makes it empty
    ):
        raise UpdateError(f"Tensor {name!r} has an invalid shape.")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int and 0 <= n < 1 << 60 for n in offsets)
    ):
        raise UpdateError(f"Tensor {name!r} has invalid offsets.")
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise UpdateError(
            f"Tensor {name!r} takes {end - begin} bytes, which its shape {shape} and dtype {dtype} do not."
        )
    return TensorInfo(dtype, tuple(shape), begin, end)


def _contiguous(name: str, array: Array) -> Array:
    little = np.asarray(array)
    dtype = little.dtype.newbyteorder("<") if little.dtype.byteorder == ">" else little.dtype
    if dtype not in _CODES:
        raise UpdateError(f"Tensor {name!r} has dtype {little.dtype}, which a tensor file cannot hold.")
    return np.asarray(little, dtype=dtype, order="C")
