"""Runs one federation of ours on this machine and measures its rounds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from benchmarks.wire import deploy, workload
from benchmarks.wire.probe import Measured, Peak, Sampler, cpu_seconds

_FILES = 4
"""Files of the model's size that a bare site holds at most: two models, an answer, and one to be written over."""


class RunFailedError(Exception):
    """The federation did not come to its end, or to the wrong one."""


@dataclass(frozen=True)
class Ours:
    """A verified run.

    Attributes:
        rounds: times.
        server: the aggregator's memory.
        client: that of the largest client process.
        agent: that of the largest agent, where there are agents.
    """

    rounds: Measured
    server: Peak
    client: Peak
    agent: Peak | None = None


def run(
    folder: Path,
    groups: Sequence[tuple[int, int]],
    size: int,
    rounds: int,
    limit: float,
    *,
    agents: bool = False,
) -> Ours:
    """Run the rounds and check the final model.

    Args:
        folder: an empty one, on the disk that is to be measured.
        groups: first and last site of each client process.
        limit: seconds after which the run has failed.
        agents: whether a real agent stands between each site and the aggregator.

    Raises:
        RunFailedError: a process ended early, the time was over, or the model is wrong.
    """
    out, sites = folder / "out", groups[-1][1] + 1
    out.mkdir(parents=True)
    deploy.prepare(folder, sites, rounds)
    with ExitStack() as stack:
        _sites_folder(stack, folder, _FILES * sites * size)
        server = _spawn(
            stack,
            folder,
            "server",
            deploy.server_command(),
            deploy.server_environment(folder, out, size, rounds),
        )
        between = _agents(stack, folder, server, sites) if agents else []
        environment = deploy.client_environment(folder, size)
        clients = [
            _spawn(stack, folder, f"client-{a}", deploy.client_command(a, b), environment) for a, b in groups
        ]
        processes = [server, *between, *clients]
        sampler = stack.enter_context(Sampler([p.pid for p in processes]))
        used = _watch(out, rounds, processes, limit, folder)
    marks = [json.loads(line)["t"] for line in (out / "marks.jsonl").read_text().splitlines()]
    flat = np.memmap(out / "final.f32", dtype=np.float32, mode="r")
    if flat.nbytes != size or (error := workload.worst_error(flat, 0, sites, rounds)) > 1:
        raise RunFailedError(
            f"The final model of {flat.nbytes} bytes is wrong: {error:.3g} times the error allowed."
        )
    return Ours(
        Measured([b - a for a, b in pairwise(marks)], used / rounds),
        sampler.peaks[server.pid],
        _largest(sampler, clients),
        _largest(sampler, between) if between else None,
    )


def _sites_folder(stack: ExitStack, folder: Path, room: int) -> None:
    """Where the bare sites keep their files: in memory where half of it is enough, since in the field each has a disk of its own, and
    the rivals' clients hold arrays. Agents are ours: theirs are on the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free // 2 < room:
        return
    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedstudy-bench-", dir=memory))
    (folder / "sites").symlink_to(place)


def _largest(sampler: Sampler, processes: Sequence[subprocess.Popen[bytes]]) -> Peak:
    return max((sampler.peaks[p.pid] for p in processes), key=lambda peak: peak.anonymous)


def _agents(
    stack: ExitStack, folder: Path, server: subprocess.Popen[bytes], sites: int
) -> list[subprocess.Popen[bytes]]:
    deploy.prepare_agents(folder, sites)
    while not (folder / "port").exists():
        if server.poll() is not None:
            raise RunFailedError(f"The aggregator did not start: see the log in {folder}.")
        time.sleep(0.02)
    return [
        _spawn(stack, folder, f"agent-{n}", deploy.agent_command(), deploy.agent_environment(folder, n))
        for n in range(sites)
    ]


def _spawn(
    stack: ExitStack, folder: Path, name: str, argv: list[str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def _watch(
    out: Path, rounds: int, processes: list[subprocess.Popen[bytes]], limit: float, folder: Path
) -> float:
    """Wait for the end; CPU seconds between the first mark and the last."""
    pids, marks = [p.pid for p in processes], out / "marks.jsonl"
    first: float | None = None
    last = 0.0
    end = time.monotonic() + limit
    while not (out / "done").exists():
        count = marks.read_text().count("\n") if marks.exists() else 0
        if count and first is None:
            first = cpu_seconds(pids)
        if count == rounds + 1 and not last:
            last = cpu_seconds(pids)
        if processes[0].poll() is not None or time.monotonic() > end:
            raise RunFailedError(f"The run in {folder} did not finish: see the logs there.")
        time.sleep(0.02)
    return (last or cpu_seconds(pids)) - (first or 0.0)
