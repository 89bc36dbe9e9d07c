"""The benchmark of the arms: means over cohorts, and differences held against the bars."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bench(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("phantom_arms", repository / "benchmarks/phantom_arms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows(bench: ModuleType, **within: tuple[float, float]) -> list[object]:
    """Two cohorts' rows by arm."""
    return [
        bench.Row(seed, arm, value, value, 0.4, 1.0, 1)
        for arm, values in within.items()
        for seed, value in enumerate(values)
    ]


def test_a_bar_is_held_against_the_mean_and_not_against_each_cohort(bench: ModuleType) -> None:
    found = bench.verdicts(
        rows(
            bench,
            FedAvg=(0.80, 0.96),
            CyclicalWeightTransfer=(0.84, 0.84),
            local=(0.82, 0.82),
            pooled=(0.90, 0.90),
        )
    )
    against = found["against"]
    assert against["FedAvg"]["local"]["holds"] and against["FedAvg"]["pooled"]["holds"]
    assert against["FedAvg"]["local"]["difference"] == pytest.approx(0.06)
    assert not against["CyclicalWeightTransfer"]["local"]["holds"]
    assert not against["CyclicalWeightTransfer"]["pooled"]["holds"]
    assert found["means"]["pooled"]["auc_within"] == pytest.approx(0.90)
