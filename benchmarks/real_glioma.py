"""IDH of real gliomas at 18 real hospitals: pooled, local, FedAvg, FedProx and CyclicalWeightTransfer on the same splits.

Run: ``OMP_NUM_THREADS=1 python -m benchmarks.real_glioma [--realdata ../shared/realdata]``. Every arm goes through
``fedstudy run``: processes, mutual TLS and all. Covariates: age, sex, performance status (missing in a third), grade.
Figures are of 174 test patients of 926; they go to benchmarks/results/real_glioma.json.

Measured (AUC over all pairs / within sites / log-loss): pooled .957/.906/.260, local .933/.892/.325, FedAvg
.958/.898/.274, FedProx .957/.897/.277, CyclicalWeightTransfer .956/.906/.266.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import glioma_cohort

from fedstudy.results import Evaluation, Results

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "real_glioma.json"
METRICS = ("auc", "auc_within", "log_loss")
STAR: dict[str, Any] = {
    "localEpochs": 1,
    "batchSize": 16,
    "optimizer": {"learningRate": 0.1, "momentum": 0.9},
}
RING: dict[str, Any] = {"localEpochs": 1, "batchSize": 16, "optimizer": {"learningRate": 0.2, "decay": 0.85}}


@dataclass(frozen=True)
class Study:
    """One run: a federated algorithm, and the controls that are trained beside it."""

    name: str
    training: dict[str, Any]
    federation: dict[str, Any]
    arms: str = "federated"


STUDIES = (
    Study("FedAvg E=1", STAR, {"rounds": 20}, "federated,local,pooled"),
    Study("FedProx 0.1", STAR, {"rounds": 20, "algorithm": {"name": "FedProx", "parameters": {"mu": 0.1}}}),
    Study("CyclicalWeightTransfer", RING, {"rounds": 12, "algorithm": {"name": "CyclicalWeightTransfer"}}),
)


@dataclass(frozen=True)
class Row:
    """Test figures of one arm. Seconds: of the study, or of a control's training."""

    arm: str
    auc: float
    auc_within: float
    log_loss: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all studies, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--realdata", type=Path, default=HERE.parent.parent / "shared" / "realdata")
    options = parser.parse_args(arguments)
    task = glioma_cohort.IDH_TASK
    table = glioma_cohort.patients(options.realdata, task)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, study in enumerate(STUDIES):
            federation = {**study.federation, "evaluateEvery": study.federation["rounds"]}
            cohort = Path(folder) / str(number)
            glioma_cohort.write(cohort, table, task, study.training, federation)
            rows += _rows(study, _run(cohort, study.arms))
    print(_table(rows))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _run(cohort: Path, arms: str) -> Results:
    command = [
        sys.executable,
        "-m",
        "fedstudy_operator.cli",
        "run",
        str(cohort),
        "--arms",
        arms,
        "--threads",
        "1",
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return Results.model_validate_json((cohort / "results" / "results.json").read_bytes())


def _rows(study: Study, results: Results) -> list[Row]:
    rows = [_row(study.name, results.test, results.seconds)]
    return rows + [_row(arm.name, arm.test, arm.seconds) for arm in results.arms if arm.name != "federated"]


def _row(arm: str, test: Evaluation | None, seconds: float) -> Row:
    found = test.metrics if test is not None else {}
    values = {name: round(found.get(name, float("nan")), 4) for name in METRICS}
    return Row(arm=arm, seconds=round(seconds, 1), **values)


def _table(rows: Sequence[Row]) -> str:
    head = "| arm | AUC | within-site AUC | log-loss | seconds |\n| --- | --- | --- | --- | --- |"
    body = [
        f"| {r.arm} | {r.auc:.3f} | {r.auc_within:.3f} | {r.log_loss:.3f} | {r.seconds:.0f} |" for r in rows
    ]
    return "\n".join([head, *body])


if __name__ == "__main__":
    main()
