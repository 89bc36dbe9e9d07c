"""Mutations that keep what would else be refused at once: lengths in front of headers, JSON that parses, digests of uploads."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

from fedstudy import tensors
from fedstudy.plan import canonical_json
from fedstudy.wire import federation_pb2 as pb
from fuzz import examples
from fuzz.study import METHODS
from fuzz.targets import TARGETS, as_call, messages

Raw = Callable[[bytes, int], bytes]
"""The engine's own mutation: bytes, most bytes of the result."""

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 255, 2**31, 2**32, 2**47, 2**48, 2**53, 2**60, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308,
    5e-324, "", "a", "\0", "\ud800", "x" * 300, [], {}, [[]], [0, 0], "F32", "BF16", "__metadata__", "NaN",
]  # fmt: skip


def mutated(data: bytes, most: int, seed: int, raw: Raw) -> bytes:
    """A neighbour of an input.

    Args:
        most: bytes that it may have.
        seed: of the choice.
        raw: for what has no structure.
    """
    chance = random.Random(seed)
    if len(data) < 2 or chance.random() < 0.2:
        return raw(data, most)
    form, head, body = TARGETS[data[0] % len(TARGETS)].form, data[:1], data[1:]
    match form:
        case "tensors":
            body = _tensors(body, chance, most, raw)
        case "answer":
            body = body[:1] + _tensors(body[1:], chance, most, raw)
        case "json":
            body = _json(body, chance, raw, most, lambda d: json.dumps(d, separators=(",", ":")).encode())
        case "plan":
            body = _json(body, chance, raw, most, canonical_json)
        case "calls":
            body = _calls(body, chance, most, raw)
        case _:
            body = raw(body, most)
    return (head + body)[:most]


def _tensors(data: bytes, chance: random.Random, most: int, raw: Raw) -> bytes:
    """Change the header and make its length right again, or change the payload alone."""
    length = int.from_bytes(data[:8], "little")
    text, payload = data[8 : 8 + length], data[8 + length :]
    if payload and chance.random() < 0.3:
        return data[: 8 + length] + raw(payload, len(payload))[: len(payload)].ljust(len(payload), b"\0")
    text = _json(text, chance, raw, most, lambda d: json.dumps(d).encode())
    if chance.random() < 0.5:
        text, payload = _agreeing(text, payload)
    return len(text).to_bytes(8, "little") + text + payload


def _agreeing(text: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """Offsets and a payload that follow from dtypes and shapes, as far as these are any."""
    try:
        header, end = json.loads(text), 0
        for entry in (value for name, value in header.items() if name != "__metadata__"):
            if not all(type(n) is int for n in entry["shape"]):
                return text, payload  # a product of a text and 2⁶⁰ is a very long text
            size = math.prod(entry["shape"]) * tensors._DTYPES[entry["dtype"]].itemsize
            entry["data_offsets"], end = [end, end + size], end + size
        return json.dumps(header).encode(), payload[:end].ljust(min(max(end, 0), 4096), b"\0")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return text, payload


def _json(data: bytes, chance: random.Random, raw: Raw, most: int, written: Callable[[Any], bytes]) -> bytes:
    """Change one place of a document; what is none is changed as bytes."""
    try:
        if chance.random() < 0.15:
            raise ValueError
        box = [json.loads(data)]
        _change(box, chance)
        return written(box[0])
    except (ValueError, RecursionError, TypeError):
        return raw(data, most)


def _change(box: Any, chance: random.Random) -> None:
    """Go down to a random place and replace, remove, double or rename what is there."""
    while True:
        keys = list(box) if isinstance(box, dict) else list(range(len(box)))
        key = chance.choice(keys)
        inner = box[key]
        if not (isinstance(inner, (dict, list)) and inner) or chance.random() < 0.15:
            break
        box = inner
    match chance.randrange(6):
        case 0 if isinstance(box, dict):
            box[chance.choice([*box, *(w.decode() for w in examples.words())])] = box.pop(key)
        case 1 if len(box) > 1:
            del box[key]
        case 2 if isinstance(box, list):
            box.append(inner)
        case 3 if type(inner) is int:
            box[key] = inner + chance.choice([-1, 1, 8, 256, -inner, inner])
        case 4 if isinstance(box, dict):
            box[chance.choice([w.decode() for w in examples.words()])] = inner
        case _:
            box[key] = chance.choice(ODD)


def _calls(data: bytes, chance: random.Random, most: int, raw: Raw) -> bytes:
    """Change, drop, double or swap messages of a call; an upload's header may be made right again."""
    number, said = data[0], list(messages(data[1:])) or [b""]
    at = chance.randrange(len(said))
    match chance.randrange(6):
        case 0 if len(said) > 1:
            del said[at]
        case 1:
            said.insert(at, said[chance.randrange(len(said))])
        case 2:
            number = chance.randrange(len(METHODS))
        case _:
            said[at] = raw(said[at], min(most, 60_000))
    if METHODS[number % len(METHODS)].name == "Submit" and chance.random() < 0.6:
        said = _right_upload(said)
    return as_call(number, [m[:65535] for m in said])


def _right_upload(said: list[bytes]) -> list[bytes]:
    """The header names the bytes that follow it."""
    try:
        first, rest = pb.SubmitRequest.FromString(said[0]), [pb.SubmitRequest.FromString(m) for m in said[1:]]
    except Exception:  # noqa: BLE001 - not one, so it stays as it is
        return said
    blob = examples.blob_of(b"".join(part.data for part in rest))
    first.header.digest, first.header.size = blob.digest, blob.size
    return [first.SerializeToString(), *said[1:]]
