"""docs/add-an-algorithm.md teaches with examples/algorithms: what it teaches works."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import small_study

from fedstudy import tensors
from fedstudy.aggregator.algorithms import Share, Update, algorithm, names
from fedstudy.errors import PlanError, StudyFailedError
from fedstudy.plan import StudyPlan
from fedstudy.tensors import TensorFile

W = np.array([1.0, -2.0, 0.5], dtype=np.float32)
MEAN = np.array([60.0], dtype=np.float32)


@pytest.fixture
def installed(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example as its pyproject.toml would install it: on the path, with its entry points."""
    example = repository / "examples" / "algorithms"
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"fedstudy_fedavgm-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(example))
    monkeypatch.syspath_prepend(str(info.parent))
    importlib.invalidate_caches()
    yield example
    for name in ("fedavgm", "fedavgm_site"):
        sys.modules.pop(name, None)


def plan(**parameters: float | str) -> StudyPlan:
    return small_study.plan(
        federation={"rounds": 3, "algorithm": {"name": "FedAvgM", "parameters": parameters}}
    )


def model(folder: Path) -> TensorFile:
    folder.mkdir(exist_ok=True)
    tensors.write(folder / "model-0", {"weight": W, "constant.covariate.mean": MEAN}, {"format": "pt"})
    return TensorFile(folder / "model-0")


def updates(folder: Path, round: int) -> list[Update]:
    """Two sites that both go from [1, -2, ½] towards somewhere else, with weights ¼ and ¾."""
    answers = []
    for site, weight, offset in (("a", 0.25, 1.0), ("b", 0.75, -3.0)):
        path = folder / f"update-{round}-{site}"
        tensors.write(path, {"weight": (W + np.float32(offset + round)).astype(np.float32)})
        answers.append(Update(site, TensorFile(path), weight, Share(site, 10, 0)))
    return answers


def rounds(half: Any, folder: Path, count: int) -> list[np.ndarray[Any, Any]]:
    """The weights after each of some rounds."""
    current, found = model(folder), []
    for t in range(count):
        half.fold(current, updates(folder, t), folder / f"model-{t + 1}")
        current = TensorFile(folder / f"model-{t + 1}")
        found.append(current.array("weight").copy())
    return found


def test_an_installed_algorithm_is_found_by_the_name_of_its_entry_point(installed: Path) -> None:
    assert "FedAvgM" in names()
    assert type(algorithm(plan())).__name__ == "FedAvgM"
    from fedstudy_trainer.algorithms import local_algorithm

    assert local_algorithm(plan()).name == "FedAvgM"


def test_the_momentum_carries_the_changes_of_earlier_rounds(installed: Path, tmp_path: Path) -> None:
    found = rounds(algorithm(plan(momentum=0.5)), tmp_path / "state", 3)
    w, m = W.astype(np.float64), np.zeros(3)
    for t, weights in enumerate(found):
        m = 0.5 * m + (W + (0.25 * 1.0 + 0.75 * -3.0 + t)) - w
        w = w + m
        np.testing.assert_allclose(weights, w, atol=1e-5)


def test_without_momentum_it_is_fedavg_and_constants_stay(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    ours = rounds(algorithm(plan(momentum=0)), folder, 1)[0]
    np.testing.assert_allclose(ours, W - 2.0, rtol=1e-6)
    with TensorFile(folder / "model-1") as after:
        np.testing.assert_array_equal(after.array("constant.covariate.mean"), MEAN)
        assert after.metadata["format"] == "pt"


def test_a_fold_that_is_done_again_gives_the_same_bytes(installed: Path, tmp_path: Path) -> None:
    half, folder = algorithm(plan()), tmp_path / "state"
    rounds(half, folder, 2)
    before = (folder / "model-2").read_bytes()
    with TensorFile(folder / "model-1") as first:
        half.fold(first, updates(folder, 1), folder / "model-2")
    assert (folder / "model-2").read_bytes() == before
    assert len(list(folder.glob("fedavgm-*"))) == 2, "only the momentum before and after is kept"


def test_a_momentum_that_is_lost_is_said_not_replaced_by_zero(installed: Path, tmp_path: Path) -> None:
    half, folder = algorithm(plan()), tmp_path / "state"
    rounds(half, folder, 1)
    for file in folder.glob("fedavgm-*"):
        file.unlink()
    with TensorFile(folder / "model-1") as first, pytest.raises(StudyFailedError, match="momentum"):
        half.fold(first, updates(folder, 1), folder / "model-2")


def test_a_wrong_parameter_is_refused_by_field_with_the_known_ones(installed: Path) -> None:
    with pytest.raises(PlanError, match=r"parameters\.momentum") as caught:
        algorithm(plan(momentum=1.5))
    assert "serverLearningRate" in str(caught.value)
    with pytest.raises(PlanError, match=r"parameters\.beta"):
        algorithm(plan(beta=0.5))
