"""The ledger: an append-only, hash-chained file of everything that leaves the hospital, for its auditor.

One JSON object a line, in canonical form. An entry is on disk (fsync) before what it describes is sent. Each has the hash
of the one before, so a change, an insertion or a deletion breaks the chain; a truncation shows against any head noted
elsewhere (the agent's database, the SiteParticipant's status).

What makes an entry: `enrolment` (the CSR), `presence` (the stream that follows a plan), `answer` (tensors and contribution),
`progress` (the first report on an instruction, with the names of the fields that this and later ones carry; the answer's or
failure's entry says how many there were), `failure` (its code), `repaired` (a line torn by a crash was cut off).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedstudy.errors import NoSpaceError, RefusedError
from fedstudy.plan import canonical_json

GENESIS = "0" * 64
"""The hash before the first entry."""

_KEYS = {
    "seq", "time", "what", "instruction", "kind", "digest", "bytes", "fields", "previous", "hash",
}  # fmt: skip
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many entries there are, and the last one's hash."""

    entries: int
    hash: str

    def __str__(self) -> str:
        return f"{self.entries}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head that `str` wrote; an empty text is the start of every chain.

        Raises:
            RefusedError: the text is no head.
        """
        count, _, value = text.partition(":")
        if not text:
            return cls(0, GENESIS)
        if not count.isascii() or not count.isdecimal() or not _HASH.fullmatch(value):
            raise RefusedError(f"{text!r} is no ledger head.", "A head is written COUNT:SHA256.")
        return cls(int(count), value)


@dataclass(frozen=True)
class Entry:
    """One thing that left the hospital.

    Attributes:
        seq: counts from 1.
        time: RFC 3339, UTC.
        what: see the module's docstring.
        instruction, kind: what it answers; empty where it answers nothing.
        digest, bytes: content and size of what left.
        fields: what was declared beside it, for example the contribution.
        previous, hash: the chain.
    """

    seq: int
    time: str
    what: str
    instruction: str
    kind: str
    digest: str
    bytes: int
    fields: dict[str, Any]
    previous: str
    hash: str


class Ledger:
    """A ledger open for appending. A last line torn by a crash is cut off, which is recorded.

    Raises:
        RefusedError: the file was changed, or is shorter than the known head says.
    """

    def __init__(self, path: Path, *, known_head: Head | None = None) -> None:
        self.path = path
        path.touch(mode=0o600)
        torn = _cut_torn_line(path)
        self._seen: set[tuple[str, str, str]] = set()
        self.bytes_sent = 0
        self.head = Head(0, GENESIS)
        for entry in entries(path):
            self._count(entry)
            _hold_against(known_head, self.head, path)
        _demand(known_head, self.head, path)
        if torn:
            digest = "sha256:" + hashlib.sha256(torn).hexdigest()
            self.append("repaired", digest=digest, fields={"torn_bytes": len(torn)})

    def append(
        self,
        what: str,
        *,
        instruction: str = "",
        kind: str = "",
        digest: str = "",
        size: int = 0,
        fields: dict[str, Any] | None = None,
    ) -> Entry:
        """Write an entry durably; what it describes may be sent once this has returned.

        Raises:
            NoSpaceError: the disk is full; nothing was written.
        """
        body: dict[str, Any] = {
            "seq": self.head.entries + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "what": what,
            "instruction": instruction,
            "kind": kind,
            "digest": digest,
            "bytes": size,
            "fields": fields or {},
            "previous": self.head.hash,
        }
        entry = Entry(hash=_hash(body), **body)
        _append_line(self.path, canonical_json({**body, "hash": entry.hash}) + b"\n")
        self._count(entry)
        return entry

    def has(self, what: str, instruction: str = "", digest: str = "") -> bool:
        """Whether such an entry stands in the ledger."""
        return (what, instruction, digest) in self._seen

    def _count(self, entry: Entry) -> None:
        self._seen.add((entry.what, entry.instruction, entry.digest))
        self.bytes_sent += entry.bytes
        self.head = Head(entry.seq, entry.hash)


def verify(path: Path, *, known_head: Head | None = None) -> Head:
    """Walk the whole chain and return its head.

    Raises:
        RefusedError: a line was changed, inserted or taken out (the message says which), or the file ends before the known
            head.
    """
    head = Head(0, GENESIS)
    for entry in entries(path):
        head = Head(entry.seq, entry.hash)
        _hold_against(known_head, head, path)
    _demand(known_head, head, path)
    return head


def entries(path: Path) -> Iterator[Entry]:
    """The entries in order, each checked against the chain.

    Raises:
        RefusedError: the chain is broken.
    """
    previous = GENESIS
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            entry = _checked(line, number, previous, path)
            previous = entry.hash
            yield entry


def _checked(line: bytes, number: int, previous: str, path: Path) -> Entry:
    try:
        body = json.loads(line)
        genuine = isinstance(body, dict) and set(body) == _KEYS and canonical_json(body) + b"\n" == line
        whole = genuine and _hash({k: v for k, v in body.items() if k != "hash"}) == body["hash"]
    except (ValueError, RecursionError):
        whole = False
    if not whole or body["seq"] != number or body["previous"] != previous:
        raise RefusedError(
            f"The ledger {path.name} was changed at line {number}: the chain of hashes breaks there.",
            "Keep the file for the auditor; restore it from a copy before the agent goes on.",
        )
    return Entry(**body)


def _hold_against(known: Head | None, head: Head, path: Path) -> None:
    if known is not None and known.entries == head.entries and known.hash != head.hash:
        raise RefusedError(
            f"The ledger {path.name} was rewritten: entry {head.entries} is not the one that was known.",
            "Keep the file for the auditor; restore it from a copy before the agent goes on.",
        )


def _demand(known: Head | None, head: Head, path: Path) -> None:
    if known is not None and known.entries > head.entries:
        raise RefusedError(
            f"The ledger {path.name} has {head.entries} entries, but {known.entries} were known: it was cut short.",
            "Keep the file for the auditor; restore it from a copy before the agent goes on.",
        )


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()


def _cut_torn_line(path: Path) -> bytes:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return data[whole:]


def _append_line(path: Path, line: bytes) -> None:
    """All of the line durably, or none of it."""
    size = path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.truncate(path, size)
        if error.errno in (28, 122):
            raise NoSpaceError(
                f"No space left to write the ledger {path}.", "Free some space; nothing was sent."
            ) from error
        raise
