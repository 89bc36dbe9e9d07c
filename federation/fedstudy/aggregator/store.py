"""What survives a kill -9: the study's database (SQLite, WAL, fully synchronous). Blobs lie beside it.

Every method is one transaction or a read; what a method has written is on disk when it returns.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedstudy.aggregator import history, refused
from fedstudy.aggregator.state import STATE, State
from fedstudy.errors import NoSpaceError, PlanError, StudyFailedError
from fedstudy.tensors import Blob

DATABASE = "study.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sites (
  site TEXT PRIMARY KEY, first_seen TEXT NOT NULL DEFAULT '', last_seen TEXT NOT NULL DEFAULT '',
  bytes_in INTEGER NOT NULL DEFAULT 0, bytes_out INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS enrolments (
  invitation TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, csr TEXT NOT NULL, decision TEXT NOT NULL,
  site TEXT NOT NULL DEFAULT '', certificate TEXT NOT NULL DEFAULT '', authority TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS stages (
  stage TEXT PRIMARY KEY, kind TEXT NOT NULL, round INTEGER NOT NULL, idx INTEGER NOT NULL, opened REAL NOT NULL,
  closed REAL, missing TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS answers (
  instruction TEXT PRIMARY KEY, stage TEXT NOT NULL, site TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
  samples INTEGER NOT NULL, events INTEGER NOT NULL, steps INTEGER NOT NULL, seconds REAL NOT NULL, loss REAL, norm REAL,
  accepted TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS answers_stage ON answers (stage, site);
CREATE TABLE IF NOT EXISTS rounds (
  round INTEGER PRIMARY KEY, seconds REAL NOT NULL, sites TEXT NOT NULL, missing TEXT NOT NULL, loss REAL,
  model TEXT NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS models (stage TEXT PRIMARY KEY, round INTEGER NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations (
  stage TEXT PRIMARY KEY, round INTEGER NOT NULL, split TEXT NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS history (
  seq INTEGER PRIMARY KEY, time TEXT NOT NULL, type TEXT NOT NULL, detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL);
"""


@dataclass(frozen=True)
class AnswerRow:
    """An accepted answer."""

    instruction: str
    stage: str
    site: str
    blob: Blob
    samples: int
    events: int
    steps: int
    seconds: float
    loss: float | None
    norm: float | None


@dataclass(frozen=True)
class Enrolment:
    """A CSR and what became of it; decision is Pending, Accepted or Refused."""

    invitation: str
    fingerprint: str
    csr: str
    decision: str
    site: str = ""
    certificate: str = ""
    authority: str = ""
    reason: str = ""


Note = tuple[str, Mapping[str, Any]]
"""A row for the history: type and detail."""


def now_text() -> str:
    """The time, RFC 3339, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Figures:
    """What of the database metrics show.

    Attributes:
        rounds: seconds of each closed round.
        stages: kind → seconds of each closed stage.
        answers: kind → how many were accepted.
        refusals: Handshake, or the method's name → how many.
    """

    rounds: list[float]
    stages: dict[str, list[float]]
    answers: dict[str, float]
    refusals: dict[str, float]


class Store:
    """The database of one study.

    Raises (from every method that writes):
        NoSpaceError: the disk is full; nothing of the transaction has happened.
    """

    def __init__(
        self, folder: Path, *, plan: bytes, digest: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open or create.

        Args:
            clock: monotonic seconds, by which refusals are gathered.

        Raises:
            PlanError: the folder holds another plan's study.
            StudyFailedError: the database cannot be opened.
        """
        self.folder = folder
        self.closed = False
        self._tally = refused.Tally(clock)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(folder / DATABASE, isolation_level=None)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
        except (OSError, sqlite3.DatabaseError) as error:
            raise StudyFailedError(
                f"The study's database in {folder} cannot be opened: {error}.",
                "Check that the folder is writable, and free of other programs' files.",
            ) from error
        with self._transaction():
            for statement in (*_SCHEMA.split(";\n"), refused.SCHEMA):
                self.db.execute(statement)
            known = self._meta("plan_digest")
            if known is None:
                self._put_meta("plan_digest", digest)
                self._put_meta("plan", plan.decode())
                history.append(self.db, now_text(), "StudyCreated", {"planDigest": digest})
        if known is not None and known != digest:
            self.close()
            raise PlanError(
                f"The folder {folder} holds a study with the plan {known}, not {digest}.",
                "A plan does not change once its study has begun: make a new study, or remove the folder.",
            )

    def close(self) -> None:
        """Close the database; its write-ahead log is folded in. Refusals that a full disk has no room for are forgotten."""
        if not self.closed:
            with suppress(NoSpaceError):
                self.write_refusals()
        self.closed = True
        self.db.close()

    # State and history

    def load(self) -> State | None:
        """The state after the last step; None for a new study."""
        text = self._meta("state")
        return None if text is None else STATE.validate_json(text)

    def commit(
        self,
        state: State,
        notes: Sequence[Note] = (),
        *,
        answers: Sequence[AnswerRow] = (),
        statements: Sequence[tuple[str, tuple[Any, ...]]] = (),
        traffic: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Write one step or several: the new state, its rows and its history, and bytes that were counted, all or nothing."""
        now = now_text()
        with self._transaction():
            self._put_meta("state", STATE.dump_json(state).decode())
            for answer in answers:
                self.db.execute(
                    "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (answer.instruction, answer.stage, answer.site, answer.blob.digest, answer.blob.size, answer.samples,
                     answer.events, answer.steps, answer.seconds, answer.loss, answer.norm, now),
                )  # fmt: skip
            for sql, values in statements:
                self.db.execute(sql, values)
            self._add_traffic(traffic or {})
            for kind, detail in notes:
                history.append(self.db, now, kind, detail)
            self._tally.write(self.db)
        self._tally.written()

    def note(self, kind: str, **detail: Any) -> None:
        """Add to the history alone."""
        with self._transaction():
            history.append(self.db, now_text(), kind, detail)

    def refuse(self, peer: str, method: str, reason: str) -> None:
        """Record a connection or an update that was refused; written now, or a second after the last writing at the latest."""
        if self._tally.add(now_text(), peer, method, reason):
            self.write_refusals()

    def write_refusals(self) -> None:
        """Write the refusals that wait."""
        if self._tally.waits:
            with self._transaction():
                self._tally.write(self.db)
            self._tally.written()

    def refusals(self) -> int:
        """How many refusals there were."""
        self.write_refusals()
        return refused.total(self.db)

    def figures(self) -> Figures:
        """What metrics show."""
        self.write_refusals()
        stages: dict[str, list[float]] = {}
        for kind, seconds in self.db.execute(
            "SELECT kind, closed - opened FROM stages WHERE closed IS NOT NULL"
        ):
            stages.setdefault(kind, []).append(seconds)
        answers = "SELECT kind, COUNT(*) FROM answers JOIN stages USING (stage) GROUP BY kind"
        return Figures(
            [row[0] for row in self.db.execute("SELECT seconds FROM rounds")],
            stages,
            dict(self.db.execute(answers)),
            refused.by_what(self.db),
        )

    # Answers

    def answer(self, instruction: str) -> AnswerRow | None:
        """The accepted answer to an instruction."""
        found = self._answers("instruction = ?", instruction)
        return found[0] if found else None

    def answers(self, stage: str) -> list[AnswerRow]:
        """A stage's accepted answers, by site."""
        return self._answers("stage = ?", stage)

    def round_answers(self, round: int, kind: str) -> list[AnswerRow]:
        """Accepted answers of a round's stages of one kind, in the order of stages, then sites."""
        stages = self.db.execute(
            "SELECT stage FROM stages WHERE round = ? AND kind = ? ORDER BY idx", (round, kind)
        ).fetchall()
        return [row for (stage,) in stages for row in self.answers(stage)]

    def round_missing(self, round: int, kind: str) -> dict[str, str]:
        """Site → why it is missing from a round's closed stages of one kind."""
        rows = self.db.execute(
            "SELECT missing FROM stages WHERE round = ? AND kind = ? ORDER BY idx", (round, kind)
        )
        return {site: why for (text,) in rows for site, why in json.loads(text).items()}

    def norms(self) -> list[float]:
        """Norms of the last 512 accepted updates of closed stages.

        Those of an open stage would make what is refused depend on the order of arrival.
        """
        rows = self.db.execute(
            "SELECT norm FROM answers JOIN stages USING (stage) WHERE norm IS NOT NULL AND closed IS NOT NULL"
            " ORDER BY stage DESC, site LIMIT 512"
        )
        return [float(row[0]) for row in rows]

    def _answers(self, where: str, value: str) -> list[AnswerRow]:
        rows = self.db.execute(
            "SELECT instruction, stage, site, digest, size, samples, events, steps, seconds, loss, norm"
            f" FROM answers WHERE {where} ORDER BY site",
            (value,),
        )
        return [AnswerRow(r[0], r[1], r[2], Blob(r[3], r[4]), *r[5:]) for r in rows]

    # Sites and enrolments

    def seen(self, site: str) -> None:
        """A site is there."""
        now = now_text()
        with self._transaction():
            self.db.execute(
                "INSERT INTO sites (site, first_seen, last_seen) VALUES (?, ?, ?)"
                " ON CONFLICT (site) DO UPDATE SET last_seen = excluded.last_seen",
                (site, now, now),
            )

    def traffic(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Add bytes received and sent, by site."""
        with self._transaction():
            self._add_traffic(counts)

    def _add_traffic(self, counts: Mapping[str, tuple[int, int]]) -> None:
        for site, (received, sent) in counts.items():
            self.db.execute(
                "INSERT INTO sites (site, bytes_in, bytes_out) VALUES (?, ?, ?) ON CONFLICT (site) DO UPDATE"
                " SET bytes_in = bytes_in + excluded.bytes_in, bytes_out = bytes_out + excluded.bytes_out",
                (site, received, sent),
            )

    def sites(self) -> dict[str, tuple[str, int, int]]:
        """Site → last seen, bytes received, bytes sent."""
        return {
            r[0]: (r[1], r[2], r[3])
            for r in self.db.execute("SELECT site, last_seen, bytes_in, bytes_out FROM sites")
        }

    def enrolment(self, invitation: str) -> Enrolment | None:
        """What became of an invitation."""
        row = self.db.execute("SELECT * FROM enrolments WHERE invitation = ?", (invitation,)).fetchone()
        return Enrolment(*row) if row else None

    def enrolments(self) -> list[Enrolment]:
        """All, by invitation."""
        return [Enrolment(*row) for row in self.db.execute("SELECT * FROM enrolments ORDER BY invitation")]

    def put_enrolment(self, entry: Enrolment) -> None:
        """Write what became of an invitation."""
        with self._transaction():
            self.db.execute(
                "INSERT OR REPLACE INTO enrolments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (entry.invitation, entry.fingerprint, entry.csr, entry.decision, entry.site, entry.certificate,
                 entry.authority, entry.reason),
            )  # fmt: skip
            detail = {
                "invitation": entry.invitation,
                "key": entry.fingerprint,
                "site": entry.site,
                "reason": entry.reason,
            }
            history.append(self.db, now_text(), f"Enrolment{entry.decision}", detail)

    # Plumbing

    def latest_evaluation(self, split: str) -> dict[str, Any] | None:
        """The last evaluation of a split, as results.Evaluation's JSON."""
        row = self.db.execute(
            "SELECT document FROM evaluations WHERE split = ? ORDER BY round DESC LIMIT 1", (split,)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def kept_digests(self) -> set[str]:
        """Blobs of statistics and evaluations, which are kept for ever."""
        rows = self.db.execute(
            "SELECT digest FROM answers JOIN stages USING (stage) WHERE kind IN ('statistics', 'evaluate')"
        )
        return {str(row[0]) for row in rows}

    def _meta(self, key: str) -> str | None:
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def _put_meta(self, key: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")
        except BaseException as error:
            if self.db.in_transaction:  # a full disk has ended it already
                self.db.execute("ROLLBACK")
            if not isinstance(error, sqlite3.OperationalError):
                raise
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise NoSpaceError(
                    f"No space left for the study's database in {self.folder}.",
                    "Free some space; the study then goes on.",
                ) from error
            raise StudyFailedError(
                f"The study's database in {self.folder} cannot be used: {error}."
            ) from error
