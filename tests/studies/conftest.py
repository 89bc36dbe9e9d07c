"""Fixtures of the tests of whole studies: the command started and, in the end, surely stopped; a small cohort."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedstudy_operator import scaffold

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for benchmarks.glioma_cohort

from studies_helpers import Run, Start


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts `fedstudy run COHORT --out OUT --json WORDS…`; what still runs in the end is killed."""
    runs: list[Run] = []

    def begin(cohort: Path, out: Path, *words: str, under: tuple[str, ...] = ()) -> Run:
        command = [*under, sys.executable, "-m", "fedstudy_operator.cli", "run", str(cohort), "--json"]
        process = subprocess.Popen(
            [*command, "--out", str(out), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        runs.append(Run(out, process))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                run.process.wait(20)
            run.process.kill()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a study of three hospitals' tables: `toy(algorithm={…}, rounds=…)` gives its folder."""

    def write(**federation: Any) -> Path:
        out = tmp_path_factory.mktemp("toy")
        study = {
            "purpose": "DUO:0000007",
            "task": {
                "type": "Classification",
                "covariates": [{"name": "age"}, {"name": "sex", "categories": ["female", "male"]}],
                "target": {"label": "idh", "classes": ["wildtype", "mutant"]},
            },
            "model": {"network": {"name": "MLP", "arguments": {"hidden": [16], "dropout": 0.2}}},
            "training": {"localEpochs": 40, "batchSize": 4, "optimizer": {"learningRate": 0.02}},
            "federation": {"rounds": 5, "minSites": 3, "roundTimeoutSeconds": 120} | federation,
        }
        sites = ("east", "north", "west")
        _write_toy(out, study, sites)
        return out

    return write


def _write_toy(out: Path, study: dict[str, Any], sites: tuple[str, ...]) -> None:
    policy = {
        "purposes": ["DUO:0000007"], "algorithms": ["*"], "networks": ["*"], "minSites": 2,
        "requireSecureAggregation": False,
    }  # fmt: skip
    scaffold.write(out / "study.yaml", [scaffold.study("toy", study, sites)], "A study for a test.")
    for number, site in enumerate(sites):
        objects = scaffold.hospital(site, "toy", {"table": "participants.tsv"}, policy, {"release": "Never"})
        scaffold.write(out / f"{site}.yaml", objects, site)
        chance = random.Random(number)
        rows = ["participant_id\tsplit\tage\tsex\tidh"]
        for patient in range(60 + 20 * number):
            age, sex = chance.gauss(50, 12), chance.choice(["female", "male"])
            label = "mutant" if chance.gauss(50, 5) > age else "wildtype"
            split = ("train", "train", "train", "val", "test")[patient % 5]
            rows.append(f"{site}-{patient}\t{split}\t{age:.1f}\t{sex}\t{label}")
        (out / "data" / site).mkdir(parents=True)
        (out / "data" / site / "participants.tsv").write_text("\n".join(rows) + "\n")
