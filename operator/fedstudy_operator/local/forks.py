"""Processes that begin as a fork of one that has imported everything: ten trainers cost one import of torch, in time and in memory."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedstudy.logs import log
from fedstudy_operator.local.processes import Command, leashed

_logger = logging.getLogger(__name__)
_SERVER = Path(__file__).with_name("forkserver.py")
_THREADS = "OMP_NUM_THREADS"
"""Read when libraries are loaded, so each value has a server of its own."""
_ATTEMPTS = 3


@dataclass
class Fork:
    """A process that was born so; what `asyncio.subprocess.Process` is of others."""

    pid: int
    _ended: asyncio.Future[int]

    @property
    def returncode(self) -> int | None:
        """Its exit code, below 0 for the signal that ended it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Its exit code, when it has ended."""
        return await asyncio.shield(self._ended)


class _Server:
    """One running server, and the children of it that live."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._born: deque[asyncio.Future[Fork]] = deque()
        self._living: dict[int, Fork] = {}
        self._reader = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        return not self._reader.done()

    async def fork(self, job: dict[str, Any]) -> Fork:
        loop = asyncio.get_running_loop()
        born: asyncio.Future[Fork] = loop.create_future()
        self._born.append(born)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        try:
            return await asyncio.shield(born)
        except asyncio.CancelledError:
            born.add_done_callback(_unwanted)
            raise

    async def _read(self) -> None:
        """Hear of births and ends. When the server ends, whatever its cause, its children have got SIGKILL."""
        assert self.process.stdout is not None
        loop = asyncio.get_running_loop()
        async for line in self.process.stdout:
            said = json.loads(line)
            if "started" in said:
                fork = Fork(said["started"], loop.create_future())
                self._living[fork.pid] = fork
                self._born.popleft().set_result(fork)
            else:
                self._living.pop(said["ended"])._ended.set_result(said["code"])
        for fork in self._living.values():
            fork._ended.set_result(-signal.SIGKILL)
        for born in self._born:
            born.set_exception(ConnectionResetError("the fork server has ended"))
            born.exception()  # whoever waited may be gone

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reader


def _unwanted(born: asyncio.Future[Fork]) -> None:
    """End a process whose starter has gone meanwhile."""
    if born.exception() is None:
        with suppress(ProcessLookupError):
            os.kill(born.result().pid, signal.SIGKILL)


class Forks:
    """Starts the commands `python -m MODULE …` of one module as forks.

    Args:
        module: the program.
        imports: modules that the server imports.
        log: the file for what the server itself says.
    """

    def __init__(self, module: str, imports: Sequence[str], log: Path) -> None:
        self._module, self._imports, self._log = module, tuple(imports), log
        self._servers: dict[str, _Server] = {}
        self._starting = asyncio.Lock()

    def serves(self, command: Command) -> bool:
        """Whether a command is one of ours."""
        return command.arguments[:3] == (sys.executable, "-m", self._module)

    @property
    def pids(self) -> list[int]:
        """The servers."""
        return [server.process.pid for server in self._servers.values() if server.alive]

    async def start(self, command: Command, log: Path) -> Fork:
        """Start a command that we serve; its output is added to a file.

        Raises:
            OSError: the server could not be started, or ended each time.
        """
        job = {
            "arguments": command.arguments[2:],
            "environment": dict(command.environment),
            "folder": str(command.folder),
            "log": str(log),
        }
        for _ in range(_ATTEMPTS):
            with suppress(ConnectionError):
                return await (await self._server(command)).fork(job)
        raise OSError(errno.ECHILD, f"the fork server ended {_ATTEMPTS} times, see its log", str(self._log))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the servers, and whoever of their children still runs."""
        for server in self._servers.values():
            await server.close()
        self._servers.clear()

    async def _server(self, command: Command) -> _Server:
        threads = command.environment.get(_THREADS, "")
        async with self._starting:
            server = self._servers.get(threads)
            if server is None or not server.alive:
                if server is not None:
                    log(_logger, logging.WARNING, "The fork server has ended; another is started.")
                self._servers[threads] = server = _Server(await self._begin(command))
        return server

    async def _begin(self, command: Command) -> asyncio.subprocess.Process:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *leashed(sys.executable, str(_SERVER), *self._imports),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                env=dict(command.environment),
                start_new_session=True,
            )


def trainers(logs: Path, *, images: bool) -> Forks:
    """What starts trainers, preflights and controls.

    Args:
        logs: a folder.
        images: whether they read images, for which MONAI and nibabel are imported, too.
    """
    imports = ["fedstudy_trainer.session", "fedstudy_trainer.check", "fedstudy_trainer.learner"]
    if images:
        imports.append("fedstudy_trainer.data.cache")
    return Forks("fedstudy_trainer", imports, logs / "forkserver.log")
