"""A trainer that hangs or dies: its site is missing from a round, named, and taken in again; nobody else waits for ever."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from cohort_for_bad_input import Cohort, cohort, started, trainer_of, wait_for

pytestmark = pytest.mark.slow


def _cohort(folder: Path, deadline: int) -> Cohort:
    c = cohort(folder, rounds=5)
    c.study["training"] = {"localSteps": 1000, "optimizer": {"learningRate": 0.1}}
    c.study["federation"]["roundTimeoutSeconds"] = deadline
    c.write()
    return c


def test_a_trainer_that_hangs_costs_one_deadline_and_is_taken_in_again(tmp_path: Path) -> None:
    c = _cohort(tmp_path / "c", deadline=20)
    with started("run", c.folder) as run:
        run.until("training · round")
        pid = wait_for(lambda: trainer_of(c.folder, "north"), 20)
        os.kill(pid, signal.SIGSTOP)
        run.until("toy: north: did not answer in time")
        os.kill(pid, signal.SIGCONT)
        ended = run.end(240)
    assert ended.code == 0, ended.text
    assert "Closed without north." in ended.text
    rounds = json.loads((c.results / "results.json").read_text())["rounds"]
    assert any("north" in entry["missing"] for entry in rounds)
    assert all({"east", "south"} <= set(entry["sites"]) for entry in rounds)


def test_a_trainer_that_is_killed_once_is_started_again(tmp_path: Path) -> None:
    c = _cohort(tmp_path / "c", deadline=120)
    with started("run", c.folder) as run:
        run.until("training · round")
        os.kill(wait_for(lambda: trainer_of(c.folder, "north"), 20), signal.SIGKILL)
        ended = run.end(240)
    assert ended.code == 0, ended.text
    rounds = json.loads((c.results / "results.json").read_text())["rounds"]
    assert all("north" in entry["sites"] for entry in rounds)
