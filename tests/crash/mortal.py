"""Processes of ours that kill themselves (SIGKILL) before or after their n-th durable moment.

Run as a program with a module's name, it imports the module once and forks one process for each line of its standard input,
so that a start costs milliseconds. A durable moment is a commit of SQLite, an fsync, or a change to a folder (a file moved in
place or removed): whatever the code under test is, the operating system sees no other change that a restart could find, but
for bytes that were not yet vouched for.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE")


@dataclass(frozen=True)
class Kill:
    """When a process kills itself; at 0 never.

    Attributes:
        files: whether fsyncs and changes to folders are moments too, beside commits.
    """

    at: int = 0
    after: bool = False
    files: bool = True


# In the process itself


class Moments:
    """Counts durable moments, leaves the count and the latest one's name in a file, and kills the process at one of them."""

    def __init__(self, kill: Kill, counter: Path) -> None:
        self._kill, self._count, self._lock = kill, 0, threading.Lock()
        self._file = os.open(counter, os.O_CREAT | os.O_WRONLY, 0o600)

    def guard(self, what: str, act: Callable[[], Any]) -> Any:
        """Do something durable."""
        with self._lock:
            self._count += 1
            mine = self._count == self._kill.at
            os.pwrite(self._file, f"{self._count:8d} {what[:120]:120s}".encode(), 0)
        if mine and not self._kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = act()
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def install(self) -> None:
        """From now on every durable moment of this process counts."""
        guard = self.guard

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                durable = sql == "COMMIT" or (not self.in_transaction and sql.lstrip().startswith(WRITES))
                run = super().execute
                return guard(sql, lambda: run(sql, *values)) if durable else run(sql, *values)

            def executescript(self, sql: str) -> sqlite3.Cursor:
                run = super().executescript
                return guard(sql, lambda: run(sql))

        real = sqlite3.connect
        sqlite3.connect = lambda *values, **named: real(*values, **named, factory=Connection)
        if self._kill.files:
            for name in ("fsync", "replace", "rename", "unlink", "link"):
                setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*values: Any, **named: Any) -> Any:
            return self.guard(f"{name} {values}", lambda: real(*values, **named))

        return act


def _be(module: str, job: Mapping[str, Any]) -> None:
    """Become the process; does not return."""
    code = 1
    try:
        os.environ.update(job["environment"])
        log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        Moments(Kill(**job["kill"]), Path(job["counter"])).install()
        runpy.run_module(f"{module}.__main__", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork a process for each job; tell its number, then how it ended."""
    module = sys.argv[1]
    __import__(f"{module}.__main__")
    del sys.modules[f"{module}.__main__"]  # what it has imported stays; it runs itself in each child
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _be(module, json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


# On the other side


@dataclass(frozen=True)
class Living:
    """One started process.

    Attributes:
        ended: its exit code; −9 when it was killed.
    """

    pid: int
    ended: asyncio.Task[int]
    counter: Path

    @property
    def moments(self) -> int:
        """How many durable moments it has had."""
        return int(self.counter.read_text().split()[0]) if self.counter.exists() else 0

    @property
    def latest(self) -> str:
        """The last of them."""
        return self.counter.read_text()[9:].strip() if self.counter.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended: the word of that may still be on its way from the nursery."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """Starts processes of one kind, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, name: str) -> None:
        self._process, self._folder, self._name, self._born = process, folder, name, 0
        self._birth: asyncio.Task[Living] | None = None

    async def start(self, environment: Mapping[str, str], kill: Kill = Kill()) -> Living:
        """Start one; one before it that nobody has ended is killed first.

        A caller that is cancelled meanwhile leaves a process behind, which the next start or the close ends.
        """
        await self._end_the_last()
        self._birth = asyncio.create_task(self._bear(environment, kill))
        return await asyncio.shield(self._birth)

    async def _bear(self, environment: Mapping[str, str], kill: Kill) -> Living:
        self._born += 1
        counter = self._folder / f"{self._name}-{self._born}.count"
        job = {
            "environment": dict(environment),
            "kill": vars(kill),
            "log": str(self._folder / f"{self._name}.log"),
            "counter": str(counter),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        pid = int(await self._line())
        return Living(pid, asyncio.create_task(self._end()), counter)

    async def _end(self) -> int:
        return int(await self._line())

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def latest(self) -> Living:
        """The one that was started last, also by a caller that was cancelled."""
        assert self._birth is not None
        return await self._birth

    async def _end_the_last(self) -> None:
        if self._birth is not None:
            last = await self.latest()
            last.signal(signal.SIGKILL)
            await last.ended

    async def close(self) -> None:
        """End what still runs."""
        await self._end_the_last()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@asynccontextmanager
async def nursery(
    module: str, folder: Path, name: str = "", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Nursery]:
    """Where processes of a module are born; logs and counters go into the folder.

    Args:
        environment: what the module is to find already when it is imported.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a folder of the test's own
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
    )
    born = Nursery(process, folder, name or module.rpartition(".")[2])
    try:
        yield born
    finally:
        await born.close()


if __name__ == "__main__":
    main()
