"""The rivals: what was measured of them on a machine of two cores, and how to measure them again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.wire.deploy import REPOSITORY

MEASURED: dict[tuple[int, str], dict[str, float]] = {
    (8, "1MB"): {"NVFLARE": 2.51, "Flower": 41.97},
    (32, "1MB"): {"NVFLARE": 4.05},
    (4, "100MB"): {"NVFLARE": 7.27, "Flower": 34.00},
    (2, "1GB"): {"NVFLARE": 31.60, "Flower": 92.52},
}
"""Seconds a round, median of one run, 2 cores and 24 GiB, TLS on, loopback; flwr 1.42.0, nvflare 2.9.0, default settings.
Flower did not finish a round with 32 sites in 330 s."""

_ENVIRONMENTS = {"flower": "v-flwr", "nvflare": "v-nvflare"}  # as the harness' setup.sh makes them
_ROUNDS = {"1MB": 20, "100MB": 5, "1GB": 3}


def seconds(sites: int, size: str) -> dict[str, float]:
    """Rival → its seconds a round, where they were measured."""
    return MEASURED.get((sites, size), {})


def run(harness: Path, cases: Sequence[str], repeats: int) -> None:
    """Run the rivals and ours by the rivals' harness, whose virtual environments are there already.

    Args:
        harness: its folder; it is linked, file by file, into a folder of its own beside our adapter.
        cases: for example `8x1MB`.
    """
    work = Path(os.environ.get("PEERBENCH_WORK", Path(tempfile.gettempdir()) / "peerbench"))
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / "adapters").mkdir()
        for path in harness.iterdir():
            if path.name != "adapters":
                (tree / path.name).symlink_to(path.resolve())
        for path in [*(harness / "adapters").iterdir(), Path(__file__).parent / "adapters" / "fedstudy"]:
            (tree / "adapters" / path.name).symlink_to(path.resolve())
        (tree / "driver.py").unlink()
        (tree / "driver.py").write_bytes(
            (harness / "driver.py").read_bytes()
        )  # it looks for adapters beside itself
        (tree / "adapters" / "base.py").unlink()
        (tree / "adapters" / "base.py").write_bytes((harness / "adapters" / "base.py").read_bytes())
        ours = work / "v-fedstudy"
        if not ours.exists():
            ours.symlink_to(Path(sys.prefix))
        there = ["fedstudy", *(n for n, folder in _ENVIRONMENTS.items() if (work / folder).is_dir())]
        frameworks = [word for n in there for word in ("--framework", n)]
        configs = [f"{k}:{size}:{_ROUNDS[size]}" for k, _, size in (case.partition("x") for case in cases)]
        chosen = [word for config in configs for word in ("--config", config)]
        argv = [sys.executable, str(tree / "driver.py"), *frameworks, *chosen, "--repeat", str(repeats)]
        subprocess.run(argv, env={**os.environ, "PEERBENCH_WORK": str(work)}, cwd=REPOSITORY, check=True)
