"""The fork server of one machine: what it starts is what `python -m` would have started, but for the time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fedstudy_operator.local.forks import Forks
from fedstudy_operator.local.processes import Command, Exit, Process, start_time

PROGRAM = """
import json, os, signal, sys, tempfile, time
import heavy
print(json.dumps({
    "arguments": sys.argv[1:], "name": __name__, "environment": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid(),
    "leads": os.getsid(0) == os.getpid(), "imported_by": heavy.PID, "input": sys.stdin.read(), "temporary": tempfile.gettempdir(),
}), flush=True)
what = sys.argv[1] if len(sys.argv) > 1 else ""
if what.isdigit():
    sys.exit(int(what))
if what == "waits":
    time.sleep(600)
if what == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
async def forks(tmp_path: Path) -> AsyncIterator[Forks]:
    package = tmp_path / "modules" / "program"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PROGRAM)
    (tmp_path / "modules" / "heavy.py").write_text("import os; PID = os.getpid()")
    async with Forks("program", ["heavy"], tmp_path / "logs" / "forkserver.log") as made:
        yield made


def command(folder: Path, *words: str, threads: int = 1) -> Command:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(folder / "modules"),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": str(threads),
        "WORDS": " ".join(words),
    }
    return Command((sys.executable, "-m", "program", *words), environment, home)


async def start(forks: Forks, folder: Path, name: str, *words: str, threads: int = 1) -> Process:
    wanted = command(folder, *words, threads=threads)
    return await Process.start(
        wanted, log=folder / "logs" / f"{name}.log", record=folder / "records" / f"{name}.json", forks=forks
    )


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.01)


def said(folder: Path, name: str) -> dict[str, object]:
    told: dict[str, object] = json.loads((folder / "logs" / f"{name}.log").read_text())
    return told


async def test_a_fork_is_what_python_m_would_have_been(forks: Forks, tmp_path: Path) -> None:
    process = await start(forks, tmp_path, "one", "a word", "another")
    assert await process.wait() == Exit(0, 0, ours=False)
    told = said(tmp_path, "one")
    assert told["arguments"] == ["a word", "another"] and told["name"] == "__main__"
    assert told["environment"] == command(tmp_path, "a word", "another").environment
    assert told["folder"] == told["temporary"] == str(tmp_path / "home")
    assert told["pid"] == process.pid and told["leads"] and told["input"] == ""
    assert not list((tmp_path / "records").iterdir())


async def test_all_of_them_share_one_import_and_those_of_other_threads_another(
    forks: Forks, tmp_path: Path
) -> None:
    processes = [await start(forks, tmp_path, f"p{n}", threads=1 + n // 2) for n in range(4)]
    await asyncio.gather(*(process.wait() for process in processes))
    importers = [said(tmp_path, f"p{n}")["imported_by"] for n in range(4)]
    assert importers == [importers[0]] * 2 + [importers[2]] * 2 and importers[0] != importers[2]
    assert sorted(forks.pids) == sorted({importers[0], importers[2]})  # type: ignore[type-var]


@pytest.mark.parametrize(("word", "ended"), [("7", Exit(7, 0, False)), ("dies", Exit(137, 9, False))])
async def test_an_end_is_told_as_of_any_process(forks: Forks, tmp_path: Path, word: str, ended: Exit) -> None:
    assert await (await start(forks, tmp_path, "one", word)).wait() == ended


async def test_stopping_one_leaves_the_others(forks: Forks, tmp_path: Path) -> None:
    one, other = [await start(forks, tmp_path, name, "waits") for name in ("one", "other")]
    assert await one.stop(10) == Exit(128 + signal.SIGTERM, signal.SIGTERM, ours=True)
    assert not start_time(one.pid) and start_time(other.pid)


async def test_a_server_that_is_killed_takes_its_own_along_and_the_next_start_has_another(
    forks: Forks, tmp_path: Path
) -> None:
    process = await start(forks, tmp_path, "one", "waits")
    [server] = forks.pids
    os.kill(server, signal.SIGKILL)
    assert await process.wait() == Exit(137, 9, ours=False)
    await until(lambda: not start_time(process.pid))
    assert await (await start(forks, tmp_path, "two", "3")).wait() == Exit(3, 0, ours=False)
    assert forks.pids not in ([], [server])


async def test_closing_leaves_nobody(forks: Forks, tmp_path: Path) -> None:
    process = await start(forks, tmp_path, "one", "waits")
    [server] = forks.pids
    await forks.close()
    await until(lambda: not start_time(process.pid) and not start_time(server))
    assert forks.pids == []


async def test_a_start_that_nobody_waits_for_any_more_leaves_nobody(forks: Forks, tmp_path: Path) -> None:
    await (await start(forks, tmp_path, "first")).wait()  # the server is there
    starting = asyncio.create_task(start(forks, tmp_path, "one", "waits"))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await until(lambda: not _children(forks.pids[0]))


async def test_what_cannot_be_imported_is_the_programs_own_fault_to_tell(tmp_path: Path) -> None:
    async with Forks("missing_program", ["missing_module"], tmp_path / "forkserver.log") as forks:
        process = await Process.start(
            Command((sys.executable, "-m", "missing_program"), dict(os.environ), tmp_path),
            log=tmp_path / "one.log",
            record=tmp_path / "records" / "one.json",
            forks=forks,
        )
        assert (await process.wait()).code == 1
    assert "No module named missing_program" in (tmp_path / "one.log").read_text()
    assert "missing_module cannot be imported" in (tmp_path / "forkserver.log").read_text()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
