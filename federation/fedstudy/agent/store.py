"""What an agent remembers over a crash: instructions with their answers, and a few facts. SQLite; every write is durable.

An instruction goes RECEIVED (its inputs are being fetched) → OFFERED (the trainer has to answer) → ANSWERED (the answer is
in the blob store, on its way to the hub) → ACCEPTED or REFUSED by the hub; or CANCELLED at any time before.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fedstudy.errors import NoSpaceError
from fedstudy.tensors import Blob
from fedstudy.wire import federation_pb2 as pb

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS instructions (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,        -- in order of arrival
    round INTEGER NOT NULL,
    content BLOB NOT NULL,          -- the Instruction, without its deadline
    deadline REAL NOT NULL,         -- Unix time; 0: none
    state TEXT NOT NULL,
    digest TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0,   -- of the answer
    contribution BLOB NOT NULL DEFAULT x''
) STRICT;
"""


class Stage(StrEnum):
    """Where an instruction is in its life; see the module's docstring."""

    RECEIVED = "Received"
    OFFERED = "Offered"
    ANSWERED = "Answered"
    ACCEPTED = "Accepted"
    REFUSED = "Refused"
    CANCELLED = "Cancelled"


@dataclass(frozen=True)
class Held:
    """An instruction as the agent holds it.

    Attributes:
        content: the instruction; its deadline is not in it.
        deadline: Unix time at which the hub stops waiting; 0: never.
        answer, contribution: what the trainer answered, from ANSWERED on.
    """

    content: pb.Instruction
    deadline: float
    stage: Stage
    answer: Blob | None
    contribution: pb.Contribution

    @property
    def id(self) -> str:
        """The instruction's name for ever."""
        return self.content.id

    def input(self, name: str) -> Blob | None:
        """An input by name."""
        return next((Blob(i.digest, i.size) for i in self.content.inputs if i.name == name), None)

    def timed(self) -> pb.Instruction:
        """The instruction with the time that is left now (at least a second), as a trainer takes it."""
        timed = pb.Instruction()
        timed.CopyFrom(self.content)
        timed.deadline_seconds = max(1, int(self.deadline - time.time())) if self.deadline else 0
        return timed


class Store:
    """The agent's database; one process at a time uses it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def fact(self, name: str) -> bytes:
        """A fact; empty where it was never set."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else b""

    def set_fact(self, name: str, value: bytes) -> None:
        """Remember a fact.

        Raises:
            NoSpaceError: the disk is full.
        """
        self._write("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    def get(self, instruction_id: str) -> Held | None:
        """An instruction by id."""
        found = self._select("WHERE id = ?", (instruction_id,))
        return found[0] if found else None

    def at(self, *stages: Stage) -> list[Held]:
        """The instructions at some stages, in order of arrival."""
        marks = ",".join("?" * len(stages))
        return self._select(f"WHERE state IN ({marks}) ORDER BY number", stages)

    def receive(self, instruction: pb.Instruction) -> None:
        """Take a new instruction, at RECEIVED."""
        content = without_deadline(instruction).SerializeToString(deterministic=True)
        self._write(
            "INSERT INTO instructions (id, number, round, content, deadline, state)"
            " SELECT ?, COALESCE(MAX(number), 0) + 1, ?, ?, ?, ? FROM instructions",
            (instruction.id, instruction.round, content, _deadline(instruction), Stage.RECEIVED),
        )

    def move(self, instruction_id: str, stage: Stage) -> None:
        """Set an instruction's stage."""
        self._write("UPDATE instructions SET state = ? WHERE id = ?", (stage, instruction_id))

    def set_deadline(self, instruction: pb.Instruction) -> None:
        """Take over the time left of an instruction that was sent again."""
        self._write(
            "UPDATE instructions SET deadline = ? WHERE id = ?", (_deadline(instruction), instruction.id)
        )

    def answer(self, instruction_id: str, blob: Blob, contribution: pb.Contribution) -> None:
        """Keep an answer, at ANSWERED."""
        self._write(
            "UPDATE instructions SET state = ?, digest = ?, size = ?, contribution = ? WHERE id = ?",
            (Stage.ANSWERED, blob.digest, blob.size, contribution.SerializeToString(), instruction_id),
        )

    def forget_instructions(self) -> None:
        """Drop all instructions: they belonged to another plan."""
        self._write("DELETE FROM instructions", ())

    def prune(self, keep_rounds: int) -> None:
        """Drop what is over, but for the latest rounds: the hub may ask for those again after a crash."""
        self._write(
            "DELETE FROM instructions WHERE state IN (?, ?, ?)"
            " AND round <= (SELECT MAX(round) FROM instructions) - ?",
            (Stage.ACCEPTED, Stage.REFUSED, Stage.CANCELLED, keep_rounds),
        )

    def wanted_blobs(self) -> set[str]:
        """Digests that the instructions here name as input or answer."""
        held = self._select("", ())
        inputs = {i.digest for one in held for i in one.content.inputs}
        return inputs | {one.answer.digest for one in held if one.answer}

    def _select(self, where: str, values: Iterable[str]) -> list[Held]:
        query = f"SELECT content, deadline, state, digest, size, contribution FROM instructions {where}"
        return [
            Held(
                content=pb.Instruction.FromString(content),
                deadline=deadline,
                stage=Stage(state),
                answer=Blob(digest, size) if digest else None,
                contribution=pb.Contribution.FromString(contribution),
            )
            for content, deadline, state, digest, size, contribution in self._db.execute(query, tuple(values))
        ]

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise NoSpaceError(
                    "No space left to write the agent's database.",
                    "Free some space, then start the agent again.",
                ) from error
            raise


def without_deadline(instruction: pb.Instruction) -> pb.Instruction:
    """What an id names for ever: all but the time left."""
    content = pb.Instruction()
    content.CopyFrom(instruction)
    content.ClearField("deadline_seconds")
    return content


def _deadline(instruction: pb.Instruction) -> float:
    return time.time() + instruction.deadline_seconds if instruction.deadline_seconds else 0.0
