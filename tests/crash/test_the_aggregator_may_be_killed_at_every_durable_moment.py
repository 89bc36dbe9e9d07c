"""SIGKILL of the aggregator's process before and after every commit and every file it makes: the same final model."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from mortal import Kill, Nursery, nursery
from study import Study, fakes

from fedstudy.identity import Role
from fedstudy.wire.channel import TLSFiles

SITES = ("hospital-a", "hospital-b")


class Run:
    """One study, whose aggregator is killed once."""

    def __init__(self, study: Study, born: Nursery, name: str, kill: Kill) -> None:
        self.study, self.born, self.kill = study, born, kill
        self.environment = study.environment(f"state-{name}")
        self.folder = study.folder / f"sites-{name}"
        self.killed = False
        self.moments = 0
        self.where = ""
        self.certificate: TLSFiles | None = None

    async def to_its_end(self) -> str:
        """The digest of the final model, as every site was told it."""
        async with asyncio.timeout(60):
            digests = await self._served(self._play)
            if self.killed and not digests:  # while it stopped: what it said must still be so
                digests = await self._served(self._play)
        assert len(set(digests)) == 1, self.where
        return digests[0]

    async def _play(self) -> list[str]:
        """All sites: the one enrols, the other has its certificate."""

        async def enrolled() -> str:
            self.certificate = self.certificate or await self.study.enrol(SITES[0])
            return await self.study.play(SITES[0], self.certificate, self.folder / SITES[0])

        async with asyncio.TaskGroup() as group:
            signing = group.create_task(self.study.sign_whoever_asks())
            first = group.create_task(enrolled())
            other = self.study.issued(Role.SITE, SITES[1])
            second = group.create_task(self.study.play(SITES[1], other, self.folder / SITES[1]))
            digests = [await first, await second]
            signing.cancel()
        return digests

    async def _served(self, work: Callable[[], Coroutine[Any, Any, list[str]]]) -> list[str]:
        """Work with an aggregator that comes back when it was killed, and stop it in order afterwards; [] if it was killed then."""
        process = await self.born.start(self.environment, Kill() if self.killed else self.kill)
        working = asyncio.create_task(work())
        while True:
            await asyncio.wait({working, process.ended}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                break
            assert process.ended.result() == -signal.SIGKILL, process.latest
            self.killed, self.where = True, f"{self.kill}: {process.latest}"
            process = await self.born.start(self.environment)
        process.signal(signal.SIGTERM)
        code = await process.ended
        self.moments = process.moments
        if code == -signal.SIGKILL:
            self.killed, self.where = True, f"{self.kill}: {process.latest}"
            return []
        assert code == 0, code
        return working.result()


ATTEMPTS = 3
"""A study may have a few moments less than another, since events that come together are written together: the last ones are tried again."""


async def kill_everywhere(folder: Path, *, after: bool, files: bool, step: int = 1) -> int:
    """Run a study once for each moment (or every step-th); how many times the aggregator was killed."""
    study = Study(folder, fakes.plan_of(rounds=1), SITES)
    async with nursery("fedstudy.aggregator", folder) as born:
        whole = Run(study, born, "whole", Kill(files=files))
        expected = await whole.to_its_end()
        kills, fewest = 0, whole.moments
        for moment in range(1, whole.moments + 1, step):
            for attempt in range(ATTEMPTS):
                run = Run(study, born, f"{moment}-{attempt}", Kill(moment, after, files))
                assert await run.to_its_end() == expected, run.where
                if run.killed:
                    kills += 1
                    break
                fewest = min(fewest, run.moments)
    assert kills * step >= 0.8 * fewest
    return kills


async def test_killed_at_every_fourth_commit(tmp_path: Path) -> None:
    assert await kill_everywhere(tmp_path, after=False, files=False, step=4) >= 5


@pytest.mark.slow
async def test_killed_after_every_commit_and_every_change_of_a_file(tmp_path: Path) -> None:
    assert await kill_everywhere(tmp_path, after=True, files=True) > 55


@pytest.mark.slow
async def test_killed_before_every_commit_and_every_change_of_a_file(tmp_path: Path) -> None:
    assert await kill_everywhere(tmp_path, after=False, files=True) > 55
