"""Does training together pay? The ready-made phantom study: federated against local-only and pooled, over fresh cohorts.

Run: ``OMP_NUM_THREADS=1 python benchmarks/phantom_arms.py --seeds 3 --first-seed 0``. For each seed it writes the demo
cohort and runs it through ``fedstudy run`` (processes, mutual TLS and all) with FedAvg and with CyclicalWeightTransfer.
The controls do not depend on the algorithm, so they run once a seed, with the first algorithm; that the plans are equal
but for the algorithm is checked. Figures are of the test splits. A run that is in WORK already is used again.

Measured (seeds 0 to 2, docs/phantom.md), mean within-site AUC: FedAvg .894, CyclicalWeightTransfer .911,
pooled .922, local .790. FedAvg is close to its bar against pooled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedstudy.results import Results

ALGORITHMS = ("FedAvg", "CyclicalWeightTransfer")
CONTROLS = ("local", "pooled")
BARS = {"local": 0.03, "pooled": -0.03}
"""The least that federated minus control may be, in mean within-site AUC."""
OUT = Path(__file__).parent / "results" / "phantom_arms.json"


@dataclass(frozen=True)
class Row:
    """One arm on one cohort. Seconds of a federated arm: the whole study without the controls; peak memory in bytes
    (highest sum over time) is that of the run that trained the arm.
    """

    seed: int
    arm: str
    auc_within: float
    auc: float
    log_loss: float
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Run:
    """One `fedstudy phantom` and `fedstudy run`."""

    seed: int
    algorithm: str
    results: Results
    wall_seconds: float

    def rows(self) -> list[Row]:
        """The federated arm, named by its algorithm, and the controls that were trained with it."""
        whole = self.results
        tests = {self.algorithm: (whole.metrics, whole.seconds)}
        tests |= {arm.name: (arm.test.metrics, arm.seconds) for arm in whole.arms if arm.test}
        peak = next(p.peak_bytes for p in whole.memory if p.process == "all together")
        return [
            Row(self.seed, name, test["auc_within"], test["auc"], test["log_loss"], seconds, peak)
            for name, (test, seconds) in tests.items()
        ]

    def controlled_plan(self) -> dict[str, Any]:
        """What decides the controls: the plan without its algorithm and the study's identity."""
        plan: dict[str, Any] = json.loads(self.results.plan)
        plan.pop("uid")
        plan["federation"].pop("algorithm")
        return plan


def run(work: Path, seed: int, algorithm: str, arms: Sequence[str], profile: str) -> Run:
    """Write a cohort and train on it; what a finished run left in `work` is read again.

    Raises:
        subprocess.CalledProcessError: a command failed; its output has been shown.
    """
    folder = work / f"{algorithm}-{seed}"
    clock = folder / "wall_seconds"
    if not clock.exists():
        shutil.rmtree(folder, ignore_errors=True)  # what a run that was cut off left
        started = time.monotonic()
        _fedstudy("phantom", str(folder), "--profile", profile, "--seed", str(seed), "--algorithm", algorithm)
        _fedstudy("run", str(folder), "--out", str(folder / "results"), "--arms", ",".join(arms))
        clock.write_text(f"{time.monotonic() - started:.1f}")
    results = Results.model_validate_json((folder / "results" / "results.json").read_bytes())
    return Run(seed, algorithm, results, float(clock.read_text()))


def measure(work: Path, seeds: Iterable[int], profile: str) -> list[Run]:
    """All runs, the table growing as they end.

    Raises:
        SystemExit: the plans of a seed differ in more than the algorithm.
    """
    runs = []
    for seed in seeds:
        of_seed = []
        for algorithm in ALGORITHMS:
            arms = ("federated", *CONTROLS) if algorithm == ALGORITHMS[0] else ("federated",)
            of_seed.append(run(work, seed, algorithm, arms, profile))
            for row in of_seed[-1].rows():
                _show(row)
        if any(other.controlled_plan() != of_seed[0].controlled_plan() for other in of_seed):
            raise SystemExit(f"seed {seed}: the algorithms' plans differ, so the controls are not theirs")
        runs += of_seed
    return runs


def verdicts(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over the seeds by arm, and of each algorithm the differences from the controls and whether they suffice."""
    means = {
        arm: {
            name: float(np.mean([getattr(row, name) for row in rows if row.arm == arm]))
            for name in ("auc_within", "auc", "log_loss", "seconds")
        }
        for arm in dict.fromkeys(row.arm for row in rows)
    }
    against = {
        algorithm: {
            control: {
                "difference": means[algorithm]["auc_within"] - means[control]["auc_within"],
                "bar": bar,
                "holds": means[algorithm]["auc_within"] - means[control]["auc_within"] >= bar,
            }
            for control, bar in BARS.items()
        }
        for algorithm in ALGORITHMS
    }
    return {"means": means, "against": against}


def main() -> None:
    """Measure, print the table and write the JSON; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--work", type=Path, help="folder for the runs; a temporary one if not given")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(
        f"{'seed':>4}  {'arm':24}{'within-site AUC':>16}{'all-pairs AUC':>14}{'log-loss':>10}{'seconds':>9}{'peak GB':>9}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        runs = measure(options.work or Path(temporary), seeds, options.profile)
    rows = [row for run in runs for row in run.rows()]
    found = verdicts(rows)
    _summary(found)
    document = {
        "profile": options.profile,
        "seeds": list(seeds),
        "cpus": os.cpu_count(),
        "plan": runs[0].controlled_plan(),
        "algorithms": {r.algorithm: json.loads(r.results.plan)["federation"]["algorithm"] for r in runs},
        "wall_seconds": {f"{r.algorithm}-{r.seed}": r.wall_seconds for r in runs},
        "rows": [asdict(row) for row in rows],
        **found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    if not all(bar["holds"] for bars in found["against"].values() for bar in bars.values()):
        raise SystemExit(1)


def _fedstudy(*words: str) -> None:
    command = [sys.executable, "-m", "fedstudy_operator.cli", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)


def _show(row: Row) -> None:
    print(
        f"{row.seed:4}  {row.arm:24}{row.auc_within:16.3f}{row.auc:14.3f}{row.log_loss:10.3f}"
        f"{row.seconds:9.0f}{row.peak_bytes / 1e9:9.2f}",
        flush=True,
    )


def _summary(found: dict[str, Any]) -> None:
    for arm, mean in found["means"].items():
        print(
            f"mean  {arm:24}{mean['auc_within']:16.3f}{mean['auc']:14.3f}{mean['log_loss']:10.3f}{mean['seconds']:9.0f}"
        )
    for algorithm, bars in found["against"].items():
        for control, bar in bars.items():
            verdict = "holds" if bar["holds"] else "MISSED"
            print(f"{algorithm} - {control}: {bar['difference']:+.3f} (at least {bar['bar']:+.2f}) {verdict}")


if __name__ == "__main__":
    main()
