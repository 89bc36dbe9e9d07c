"""What the tests of whole studies share: the command as a subprocess, watched while it runs, ended, and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fedstudy.results import Results
from fedstudy.tensors import read
from fedstudy_operator.local.processes import start_time

DEADLINE = 400.0
"""Seconds that a study may take in these tests before it counts as hanging."""


@dataclass
class Run:
    """A `fedstudy run` under way or ended.

    Attributes:
        out: its folder of results.
        said: the lines of its standard error so far.
    """

    out: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    _told: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.said.append(line)
                self._told.notify_all()
        with self._told:
            self.said.append("")
            self._told.notify_all()

    def until_round(self, number: int) -> None:
        """Wait until training is in this round."""

        def there() -> bool:
            states = [json.loads(line)["state"] for line in self.said if line.startswith('{"study"')]
            return any(s and s["phase"] == "Training" and s["round"] >= number for s in states)

        with self._told:
            came = self._told.wait_for(lambda: there() or self.said[-1:] == [""], DEADLINE)
        assert came and there(), f"round {number} did not come:\n{self.text}"

    @property
    def text(self) -> str:
        """What it said, without the lines of progress."""
        return "".join(line for line in self.said if not line.startswith('{"study"'))

    def pids(self, component: str = "") -> list[int]:
        """The processes that it has written down, of one component."""
        found = []
        for record in (self.out / "state" / "processes").glob(f"*{component}*" if component else "*"):
            with suppress(FileNotFoundError, ValueError):  # ended, or being written
                found.append(int(json.loads(record.read_text())["pid"]))
        return found

    def kill(self, component: str) -> int:
        """kill -9 of the first process of a component, which must be there within the deadline; its id."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            for pid in self.pids(component):
                if start_time(pid):
                    os.kill(pid, signal.SIGKILL)
                    return pid
            time.sleep(0.02)
        raise AssertionError(f"no process of {component} came")

    def wait(self) -> int:
        """The exit code."""
        code = self.process.wait(DEADLINE)
        self._reader.join(10)
        return code

    @property
    def results(self) -> Results:
        """results.json."""
        return Results.model_validate_json((self.out / "results.json").read_bytes())

    @property
    def model(self) -> Mapping[str, NDArray[Any]]:
        """The tensors of the final model."""
        return read(self.out / "model.safetensors")

    def done(self) -> Run:
        """Wait for the end, which must be a good one; nothing may be left behind."""
        assert self.wait() == 0, self.text
        assert not left_behind(self.out)
        return self


Start = Callable[..., Run]


def left_behind(out: Path) -> list[str]:
    """Command lines of processes that work in a folder, whoever started them."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            place, environment = str((entry / "cwd").readlink()), (entry / "environ").read_bytes()
            if place.startswith(f"{out}/") or f"={out}/".encode() in environment:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def rewrite(cohort: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the spec of the study of a cohort's manifests/study.yaml."""
    path = cohort / "manifests" / "study.yaml"
    document = yaml.safe_load(path.read_text())
    change(document["spec"])
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def same_bits(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> bool:
    """Whether two models are equal bit for bit."""
    return list(first) == list(second) and all(
        first[n].dtype == second[n].dtype
        and np.array_equal(first[n].view(np.uint8), second[n].view(np.uint8))
        for n in first
    )
