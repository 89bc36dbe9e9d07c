"""Memory of processes as the kernel counts it: the peak of each, and of all together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def _kilobytes(path: Path, field: str) -> int:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0  # it has ended
    return int(found[1]) * 1024 if found else 0


def peak(pid: int) -> int:
    """The largest resident set of a process so far, in bytes; 0 where it has ended."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM")


def present(pid: int) -> int:
    """The memory of a process now, in bytes, with pages that several share counted in parts."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") or _kilobytes(
        Path(f"/proc/{pid}/status"), "VmRSS"
    )


class Memory:
    """What was seen so far."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}
        self.total = 0
        """The largest sum over all processes that was seen at one time, in bytes."""

    def sample(self, processes: Iterable[tuple[str, int]]) -> None:
        """Look at processes, each by a name (which several may share) and its id."""
        total = 0
        for name, pid in processes:
            self._peaks[name] = max(self._peaks.get(name, 0), peak(pid))
            total += present(pid)
        self.total = max(self.total, total)

    def peaks(self) -> dict[str, int]:
        """The largest resident set of each process, in bytes, by name."""
        return dict(sorted(self._peaks.items()))
