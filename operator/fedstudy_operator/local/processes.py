"""Operating-system processes of containers: started on a leash, ended in order, never left behind.

A process leads a group of its own, gets SIGKILL when we die (leash.py), and is written down in a file, so that a
later run can end what an earlier one could not.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LEASH = Path(__file__).with_name("leash.py")


def start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks: with the pid it names one process for ever. Empty: it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


@dataclass(frozen=True)
class Command:
    """What to run: arguments, the whole environment, and the folder to be in."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class Exit:
    """How a process ended. `code` is 128 + the signal where one ended it."""

    code: int
    signal: int
    ours: bool

    @property
    def reason(self) -> str:
        """Kubernetes' word for it. A SIGKILL that we did not send is taken for the kernel's, out of memory."""
        if self.code == 0:
            return "Completed"
        return "OOMKilled" if self.signal == signal.SIGKILL and not self.ours else "Error"


class Started(Protocol):
    """A process that was started, however."""

    @property
    def pid(self) -> int:
        """Its id, and that of its group."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, below 0 for the signal that ended it; None while it runs."""

    async def wait(self) -> int:
        """Its exit code, when it has ended."""


class Starter(Protocol):
    """A way to start commands."""

    def serves(self, command: Command) -> bool:
        """Whether this command can be started so."""

    async def start(self, command: Command, log: Path) -> Started:
        """Start a command; its output is added to a file."""


class _Exec:
    """The ordinary way."""

    def serves(self, command: Command) -> bool:
        return True

    async def start(self, command: Command, log: Path) -> Started:
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *leashed(*command.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(command.environment),
                cwd=command.folder,
                start_new_session=True,
            )


def leashed(*arguments: str) -> list[str]:
    """A command that gets SIGKILL when we die."""
    return [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *arguments]


class Process:
    """A running command; made by `start`."""

    def __init__(self, process: Started, record: Path) -> None:
        self._process = process
        self._record = record
        self._ours = False

    @classmethod
    async def start(
        cls, command: Command, *, log: Path, record: Path, forks: Starter | None = None
    ) -> Process:
        """Start a command.

        Args:
            log: the file to which its output is added.
            record: the file that says which process it is, while it runs.
            forks: starts the commands that it serves.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        starter = forks if forks is not None and forks.serves(command) else _Exec()
        started = cls(await starter.start(command, log), record)
        started._write_down()
        return started

    def _write_down(self) -> None:
        self._record.write_text(json.dumps({"pid": self.pid, "started": start_time(self.pid)}))

    @property
    def pid(self) -> int:
        """The process, which is also its group."""
        return self._process.pid

    async def wait(self) -> Exit:
        """How it ended, when it has; what it left in its group is ended too."""
        returned = await self._process.wait()
        self._signal(signal.SIGKILL)
        self._record.unlink(missing_ok=True)
        return Exit(128 - returned if returned < 0 else returned, max(0, -returned), self._ours)

    async def stop(self, grace: float) -> Exit:
        """End the whole group: SIGTERM, and SIGKILL after `grace` seconds."""
        self._ours = True
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await self._process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
        return await self.wait()

    def kill(self) -> None:
        """End the whole group at once, without waiting."""
        self._ours = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def kill_left_behind(records: Sequence[Path]) -> list[int]:
    """End processes that an earlier run wrote down and did not end. Returns which."""
    killed = []
    for record in records:
        try:
            entry = json.loads(record.read_text())
        except ValueError:  # cut off in writing: the leash has ended that process
            entry = {"pid": 0, "started": ""}
        if entry["started"] and start_time(entry["pid"]) == entry["started"]:
            with suppress(ProcessLookupError):
                os.killpg(entry["pid"], signal.SIGKILL)
                killed.append(entry["pid"])
        record.unlink()
    return killed
