"""What processes use, read from /proc: CPU seconds, and peak memory with mapped files counted apart."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """Rounds of a run.

    Attributes:
        seconds: of each round.
        cpu: CPU seconds of all processes, for each round.
    """

    seconds: list[float]
    cpu: float

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of some living processes so far; those that are gone count nothing."""
    total = 0
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += int(words[11]) + int(words[12])
    return total / _TICKS


@dataclass
class Peak:
    """Most memory of a process, in bytes: at once in all, in anonymous pages, in pages of mapped files."""

    total: int = 0
    anonymous: int = 0
    files: int = 0


@dataclass
class Sampler:
    """Looks at some processes ten times a second."""

    pids: Sequence[int]
    peaks: dict[int, Peak] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.1):
            for pid in self.pids:
                self._look(pid)

    def _look(self, pid: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        found = {
            key: 1024 * int(value.split()[0])
            for key, _, value in (line.partition(":") for line in lines)
            if key.startswith(("VmHWM", "Rss"))
        }
        if "VmHWM" not in found:
            return  # a zombie
        peak = self.peaks.setdefault(pid, Peak())
        peak.total = max(peak.total, found["VmHWM"])
        peak.anonymous = max(peak.anonymous, found["RssAnon"])
        peak.files = max(peak.files, found["RssFile"] + found.get("RssShmem", 0))
