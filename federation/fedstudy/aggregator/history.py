"""The study's history as a hash chain: each row's hash covers the row before, so that nothing can be changed unseen."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from typing import Any

from fedstudy.plan import canonical_json

GENESIS = "0" * 64


def append(db: sqlite3.Connection, time: str, kind: str, detail: Mapping[str, Any]) -> None:
    """Add a row within the caller's transaction."""
    row = db.execute("SELECT seq, hash FROM history ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (row[0] + 1, row[1]) if row else (1, GENESIS)
    text = canonical_json(detail).decode()
    db.execute(
        "INSERT INTO history (seq, time, type, detail, previous, hash) VALUES (?, ?, ?, ?, ?, ?)",
        (seq, time, kind, text, previous, row_hash(seq, time, kind, text, previous)),
    )


def row_hash(seq: int, time: str, kind: str, detail: str, previous: str) -> str:
    """sha256 of the canonical JSON of [seq, time, type, detail, previous], hexadecimal."""
    return hashlib.sha256(canonical_json([seq, time, kind, detail, previous])).hexdigest()


def first_fault(db: sqlite3.Connection) -> int | None:
    """The first row that does not fit the chain; None where all do."""
    expected, before = 1, GENESIS
    for seq, time, kind, detail, previous, found in db.execute(
        "SELECT seq, time, type, detail, previous, hash FROM history ORDER BY seq"
    ):
        if seq != expected or previous != before or row_hash(seq, time, kind, detail, previous) != found:
            return int(seq)
        expected, before = seq + 1, found
    return None
