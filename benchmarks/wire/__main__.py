"""Prints our rounds beside the raw limit measured in the same run, and beside what was measured of the rivals."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.wire import deploy, limit, ours, rivals, workload
from benchmarks.wire.probe import Measured


@dataclass(frozen=True)
class Case:
    """K sites, the model's size, rounds of ours and of the limit, and the bars: × limit, × better rival.

    Attributes:
        agents: whether a real agent stands between each site and the aggregator. Then all bytes take two hops, and the limit
            is twice the limit of one.
    """

    sites: int
    size: str
    rounds: int
    bar: float | None = None
    rival_bar: float | None = None
    at_limit: bool = True
    repeats: int | None = None
    agents: bool = False

    @property
    def name(self) -> str:
        """As it is chosen by --case."""
        return f"{self.sites}x{self.size}{'-agents' if self.agents else ''}"

    @property
    def hops(self) -> int:
        """How often each byte crosses a connection."""
        return 2 if self.agents else 1

    def groups(self) -> list[tuple[int, int]]:
        """A process for each site; eight sites to a process where there are more than 32."""
        each = 1 if self.sites <= 32 else 8
        return [(first, min(first + each, self.sites) - 1) for first in range(0, self.sites, each)]


CASES = [
    Case(8, "1MB", 20, 3.0, 0.03),
    Case(32, "1MB", 10, 3.0, 0.06),
    Case(4, "100MB", 4, 1.5, 0.2),
    Case(2, "1GB", 4, 1.4),
    Case(4, "100MB", 4, 1.2, agents=True),
    Case(2, "100MB", 2, 1.2, agents=True),
    Case(2, "1GB", 2, 1.2, agents=True, repeats=1),
    Case(2, "100MB", 3),
    Case(32, "100MB", 1, at_limit=False, repeats=1),
    Case(256, "1MB", 10, at_limit=False, repeats=1),
    Case(2, "8GB", 1, at_limit=False, repeats=1),
]


def measure(case: Case, repeats: int, work: Path) -> dict[str, Any]:
    """Ours and the limit in turn, `repeats` times."""
    size, runs = workload.SIZES[case.size], list[ours.Ours]()
    limits: dict[str, list[Measured]] = {"limit": [], "durable": []}
    for _ in range(case.repeats or repeats):
        folder = Path(tempfile.mkdtemp(prefix="fedstudy-bench-", dir=work))
        try:
            if case.at_limit:
                (folder / "limit").mkdir()
                deploy.prepare(folder / "limit", case.sites, 1)
                for kind, found in limits.items():
                    durable = kind == "durable"
                    found.append(
                        limit.measure(folder / "limit", case.groups(), size, case.rounds, durable=durable)
                    )
            runs.append(ours.run(folder / "ours", case.groups(), size, case.rounds, 1800, agents=case.agents))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    middle = sorted(runs, key=lambda run: run.rounds.median)[len(runs) // 2]
    document: dict[str, Any] = {
        "case": case.name,
        "size": size,
        "hops": case.hops,
        "rounds": case.rounds,
        "repeats": len(runs),
        "seconds": statistics.median(run.rounds.median for run in runs),
        "cpu_seconds": statistics.median(run.rounds.cpu for run in runs),
        "server": asdict(middle.server),
        "client": asdict(middle.client),
        "agent": asdict(middle.agent) if middle.agent else None,
        "rivals": {} if case.agents else rivals.seconds(case.sites, case.size),
        "bar": case.bar,
        "rival_bar": case.rival_bar,
    }
    for kind, lows in limits.items() if case.at_limit else ():
        pairs = list(zip(runs, lows, strict=True))
        document |= {
            f"{kind}_seconds": case.hops * statistics.median(low.median for low in lows),
            f"{kind}_cpu_seconds": case.hops * statistics.median(low.cpu for low in lows),
            f"{kind}_ratio": statistics.median(
                run.rounds.median / low.median / case.hops for run, low in pairs
            ),
            f"{kind}_cpu_ratio": statistics.median(
                run.rounds.cpu / low.cpu / case.hops for run, low in pairs
            ),
        }
    return document


_HEAD = (
    "case", "s/round", "raw limit", "×", "durable limit", "×", "bar", "CPU s", "limit CPU", "× CPU", "aggregator MB (× model)", "anonymous", "files",
    "agent MB (× model)", "site MB", "NVFLARE, Flower s (another run)",
)  # fmt: skip


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    size, server, client, agent = found["size"], found["server"], found["client"], found["agent"]
    limited = "limit_ratio" in found
    cells = [
        found["case"],
        f"{found['seconds']:.3f}",
        f"{found['limit_seconds']:.3f}" if limited else "–",
        f"{found['limit_ratio']:.2f}" if limited else "–",
        f"{found['durable_seconds']:.3f}" if limited else "–",
        f"{found['durable_ratio']:.2f}" if limited else "–",
        f"{found['bar']:.1f}" if found["bar"] else "–",
        f"{found['cpu_seconds']:.2f}",
        f"{found['limit_cpu_seconds']:.2f}" if limited else "–",
        f"{found['limit_cpu_ratio']:.2f}" if limited else "–",
        f"{server['total'] / 1e6:.0f} ({server['total'] / size:.2f})",
        f"{server['anonymous'] / 1e6:.0f}",
        f"{server['files'] / 1e6:.0f}",
        f"{agent['total'] / 1e6:.0f} ({agent['total'] / size:.2f})" if agent else "–",
        f"{client['total'] / 1e6:.0f}",
        ", ".join(
            f"{name} {seconds:g} (ours ×{found['seconds'] / seconds:.3f})"
            for name, seconds in found["rivals"].items()
        )
        or "–",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> None:
    """Measure, print the table as it grows, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument(
        "--case", action="append", help=f"of {', '.join(c.name for c in CASES)}; may be repeated"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of a case; the median counts")
    parser.add_argument("--out", type=Path, default=Path("bench-wire.json"))
    parser.add_argument(
        "--work", type=Path, help="a folder on the disk to measure (default: the temporary folder)"
    )
    parser.add_argument(
        "--rivals", type=Path, metavar="PEERBENCH", help="the rivals' harness: run theirs and ours by it"
    )
    arguments = parser.parse_args(argv)
    if arguments.rivals:
        rivals.run(arguments.rivals, arguments.case or ["8x1MB"], arguments.repeat)
        return
    print("| " + " | ".join(_HEAD) + " |\n|" + "---|" * len(_HEAD), flush=True)
    results: list[dict[str, Any]] = []
    for case in CASES:
        if arguments.case and case.name not in arguments.case:
            continue
        try:
            results.append(measure(case, arguments.repeat, arguments.work or Path(tempfile.gettempdir())))
        except ours.RunFailedError as error:
            results.append({"case": case.name, "failed": str(error)})
            print(f"| {case.name} | FAILED: {error} |", flush=True)
        else:
            print(row(results[-1]), flush=True)
        load = os.getloadavg()
        document = {"cores": os.cpu_count(), "load": load, "cases": results}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
