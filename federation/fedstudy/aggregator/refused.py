"""Refused connections, calls and updates, counted by who, what and why: a peer that knocks for ever fills no disk.

A group (peer, method, reason) is one row with its first and last time and its count. Once there are many groups, new ones go
into coarser rows; every total stays exact. What comes within a second of the last writing waits in memory. The history has a row at a group's 1st, 10th, 100th, … refusal.
"""

from __future__ import annotations

import ipaddress
import math
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from fedstudy.aggregator import history

SCHEMA = """
CREATE TABLE IF NOT EXISTS refused (
  peer TEXT NOT NULL, method TEXT NOT NULL, reason TEXT NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (peer, method, reason))"""

MAX_ROWS = 256
"""Most rows of the table."""
MAX_TEXT = 1000
"""Most characters of a peer, a method or a reason."""

WRITE_SECONDS = 1.0
"""Least time between two writings of a flood; so much of it a killed process forgets."""

_WHOLE, _COARSE = MAX_ROWS - 32, MAX_ROWS - 1
"""Rows up to which a new group is kept whole, and those up to which it is still kept by its method."""
_OTHERS = "others"

_Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Some:
    """Refusals of one group: the first's and the last's time, and how many."""

    first: str
    last: str
    count: int


_ADDRESS = re.compile(r"ipv[46]:\[?([^\]]+?)\]?:\d+")


class Tally:
    """Refusals that are counted and not yet written: so that a flood of them costs a transaction a second, and not one each.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due = -math.inf
        self._waiting: dict[_Key, _Some] = {}

    def add(self, time: str, peer: str, method: str, reason: str) -> bool:
        """Count a refusal; whether what waits is to be written now, since the last writing is a second ago, or much waits."""
        key = (peer_group(peer)[:MAX_TEXT], method[:MAX_TEXT], reason[:MAX_TEXT])
        for coarser in ((_OTHERS, _name(key[1]), _OTHERS), (_OTHERS, _OTHERS, _OTHERS)):
            if (
                key not in self._waiting and len(self._waiting) >= MAX_ROWS
            ):  # nor fill memory while the disk is full
                key = coarser
        before = self._waiting.get(key)
        self._waiting[key] = _Some(before.first if before else time, time, before.count + 1 if before else 1)
        return self._clock() >= self._due or len(self._waiting) >= MAX_ROWS

    def write(self, db: sqlite3.Connection) -> None:
        """Write what waits, within the caller's transaction."""
        self._due = self._clock() + WRITE_SECONDS
        for key, some in self._waiting.items():
            _add(db, key, some)

    def written(self) -> None:
        """The transaction has succeeded."""
        self._waiting.clear()

    @property
    def waits(self) -> bool:
        """Whether there is something to write."""
        return bool(self._waiting)


def _add(db: sqlite3.Connection, whole: _Key, some: _Some) -> None:
    key = _row_for(db, whole)
    (count,) = db.execute(
        "INSERT INTO refused VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (peer, method, reason)"
        " DO UPDATE SET last = excluded.last, count = count + excluded.count RETURNING count",
        (*key, some.first, some.last, some.count),
    ).fetchone()
    for power in range(len(str(count - some.count)) if count > some.count else 0, len(str(count))):
        detail = {"peer": key[0], "method": key[1], "reason": key[2], "count": 10**power}
        history.append(db, some.last, "Refused", detail)


def total(db: sqlite3.Connection) -> int:
    """How many refusals there were."""
    return int(db.execute("SELECT COALESCE(SUM(count), 0) FROM refused").fetchone()[0])


def by_what(db: sqlite3.Connection) -> dict[str, float]:
    """Handshake, or the method's name → how many."""
    found: dict[str, float] = {}
    for method, count in db.execute("SELECT method, SUM(count) FROM refused GROUP BY method"):
        what = _name(method) or "Handshake"
        found[what] = found.get(what, 0) + count
    return found


def peer_group(peer: str) -> str:
    """A peer without what it may change at will: of an address the port, and of IPv6 all but the network of 64 bits."""
    match = _ADDRESS.fullmatch(unquote(peer))
    if match is None:
        return peer
    try:
        address = ipaddress.ip_address(match[1])
    except ValueError:
        return peer
    return (
        str(address)
        if address.version == 4
        else str(ipaddress.ip_network((address.packed, 64), strict=False))
    )


def _name(method: str) -> str:
    """`Submit` of `/fedstudy.v1.Federation/Submit` and of `Submit 0001-000-train-north`."""
    return method.split(" ")[0].rpartition("/")[2]


def _row_for(db: sqlite3.Connection, whole: tuple[str, str, str]) -> tuple[str, str, str]:
    """The finest row that is there, or that there is room for."""
    rows = db.execute("SELECT COUNT(*) FROM refused").fetchone()[0]
    for key, room in ((whole, _WHOLE), ((_OTHERS, _name(whole[1]), _OTHERS), _COARSE)):
        there = db.execute(
            "SELECT 1 FROM refused WHERE peer = ? AND method = ? AND reason = ?", key
        ).fetchone()
        if there or rows < room:
            return key
    return _OTHERS, _OTHERS, _OTHERS
