"""A study goes on where it was: after SIGTERM, and after kill -9 of any of its processes, to the very same model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from studies_helpers import Run, Start, left_behind, same_bits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cohort(toy: Callable[..., Path]) -> Path:
    return toy()


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(cohort, tmp_path_factory.mktemp("undisturbed") / "results").done()


def test_sigterm_within_a_round_stops_in_order_and_resume_gives_the_same_model(
    cohort: Path, undisturbed: Run, start: Start, tmp_path: Path
) -> None:
    stopped = start(cohort, tmp_path / "results")
    stopped.until_round(2)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.wait() == 130
    assert "--resume" in stopped.text and "nothing is lost" in stopped.text
    assert "Traceback" not in stopped.text
    assert not left_behind(stopped.out)
    resumed = start(cohort, stopped.out, "--resume").done()
    assert resumed.results.model_digest == undisturbed.results.model_digest
    assert [r.model_digest for r in resumed.results.rounds] == [
        r.model_digest for r in undisturbed.results.rounds
    ]


def test_kill_minus_nine_of_aggregator_agent_and_trainer_changes_no_bit(
    cohort: Path, undisturbed: Run, start: Start, tmp_path: Path
) -> None:
    run = start(cohort, tmp_path / "results")
    for number, component in enumerate(("aggregator", "agent", "trainer"), start=2):
        run.until_round(number)
        run.kill(component)
    run.done()
    assert run.results.model_digest == undisturbed.results.model_digest
    assert all(not record.missing for record in run.results.rounds)


def test_kill_minus_nine_of_the_command_ends_all_and_resume_gives_the_same_model(
    cohort: Path, undisturbed: Run, start: Start, tmp_path: Path
) -> None:
    killed = start(cohort, tmp_path / "results")
    killed.until_round(3)
    children = killed.pids()
    assert len(children) >= 5  # an aggregator, an agent for each site, trainers
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.wait()
    resumed = start(cohort, killed.out, "--resume").done()
    assert resumed.results.model_digest == undisturbed.results.model_digest


def test_fedprox_without_its_penalty_is_fedavg_bit_for_bit(
    undisturbed: Run, toy: Callable[..., Path], start: Start, tmp_path: Path
) -> None:
    proximal = toy(algorithm={"name": "FedProx", "parameters": {"mu": 0}})
    run = start(proximal, tmp_path / "results").done()
    assert run.results.algorithm == "FedProx"
    assert run.results.plan_digest != undisturbed.results.plan_digest
    assert same_bits(run.model, undisturbed.model)
