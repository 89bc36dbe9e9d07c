"""Determinism of whole studies from images: another day, slower processes, sites that come in another order, the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from studies_helpers import Start, rewrite, same_bits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def phantom(out: Path, algorithm: str) -> Path:
    words = ["phantom", str(out), "--profile", "tiny", "--algorithm", algorithm]
    subprocess.run([sys.executable, "-m", "fedstudy_operator.cli", *words], check=True, capture_output=True)

    def shorter(spec: dict[str, Any]) -> None:
        spec["federation"]["rounds"] = 3

    rewrite(out, shorter)
    return out


def reversed_sites(spec: dict[str, Any]) -> None:
    spec["sites"].reverse()


@pytest.mark.parametrize("algorithm", ["FedAvg", "CyclicalWeightTransfer"])
def test_the_same_seed_gives_the_same_bits(algorithm: str, start: Start, tmp_path: Path) -> None:
    first, second = phantom(tmp_path / "first", algorithm), phantom(tmp_path / "second", algorithm)
    rewrite(second, reversed_sites)
    usual = start(first, tmp_path / "usual").done()
    core = str(min(os.sched_getaffinity(0)))
    slowed = start(second, tmp_path / "slowed", under=("nice", "-n", "5", "taskset", "-c", core)).done()
    assert slowed.results.plan_digest == usual.results.plan_digest
    assert [r.model_digest for r in slowed.results.rounds] == [r.model_digest for r in usual.results.rounds]
    assert slowed.results.model_digest == usual.results.model_digest
    assert same_bits(slowed.model, usual.model)
    assert slowed.results.metrics == usual.results.metrics
