"""What the operator keeps of objects between passes: thousands of them, so each as a few hundred bytes instead of a tree of dictionaries.

A study's status is 10 KB as Python objects, and 600 bytes as compressed JSON.
"""

from __future__ import annotations

import ctypes
import json
import zlib
from collections.abc import Iterator

from fedstudy_operator.cluster import Key, Object


def pack(obj: Object) -> bytes:
    """An object as bytes."""
    return zlib.compress(json.dumps(obj, separators=(",", ":")).encode(), 1)


def unpack(packed: bytes) -> Object:
    """The object again; a new one each time."""
    obj: Object = json.loads(zlib.decompress(packed))
    return obj


def give_back() -> None:
    """Give the system what the lists at start have left free; by itself glibc keeps most of it for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Packed:
    """Objects by key."""

    def __init__(self) -> None:
        self._packed: dict[Key, bytes] = {}

    def put(self, key: Key, obj: Object) -> None:
        """Keep an object, in the place of an earlier one."""
        self._packed[key] = pack(obj)

    def get(self, key: Key) -> Object | None:
        """The object, or None."""
        packed = self._packed.get(key)
        return None if packed is None else unpack(packed)

    def has(self, key: Key) -> bool:
        """Whether there is one."""
        return key in self._packed

    def pop(self, key: Key) -> Object | None:
        """The object, or None; it is not kept any longer."""
        packed = self._packed.pop(key, None)
        return None if packed is None else unpack(packed)

    def drop(self, key: Key) -> None:
        """Keep it no longer."""
        self._packed.pop(key, None)

    def objects(self) -> Iterator[Object]:
        """All of them, one after the other."""
        return map(unpack, list(self._packed.values()))
