"""The trainer as a process: what it imports, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from agent_for_trainer import agent_at, environment
from helpers_for_trainer import dataset, first_model, plan, rows, site

from fedstudy.errors import InterruptedByUserError, ManifestError

HEAVY = ("monai", "nibabel", "scipy", "matplotlib", "kubernetes")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_a_trainer_of_covariates_imports_neither_monai_nor_nibabel() -> None:
    code = (
        "import sys, json, fedstudy_trainer.session, fedstudy_trainer.learner\n"
        "from fedstudy_trainer.networks import network_names; network_names()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(python(code))
    assert not [name for name in HEAVY if name in loaded]


def test_a_session_is_ready_before_torch_is_imported() -> None:
    loaded = python(
        "import sys, fedstudy_trainer.session, fedstudy_trainer.check; print('torch' in sys.modules)"
    )
    assert loaded.strip() == "False"


def test_a_missing_environment_is_told_without_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "fedstudy_trainer", "run"],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("FEDSTUDY_")},
        check=False,
    )
    assert ended.returncode == ManifestError.exit_code
    [line] = map(json.loads, ended.stderr.splitlines())
    assert "FEDSTUDY_UPSTREAM" in line["event"] and "traceback" not in line


@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_sigterm_ends_it_at_once_even_within_a_training(tmp_path: Path, busy: bool) -> None:
    study = plan()
    folder = tmp_path / "hospital"
    config = dataset(folder, study, rows(12))
    (folder / "dataset.json").write_text(config.model_dump_json(by_alias=True))
    start = first_model(study, site(tmp_path / "same", study, rows(12)))
    async with agent_at(tmp_path, study, folder) as (agent, settings):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fedstudy_trainer", "run",
            env=os.environ | environment(settings), stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await agent.until(lambda: agent.streams == 1)
        if busy:
            model = agent.store.add_tensors(start)
            await agent.instruct(
                "TRAIN", inputs={"model": model}, epochs=10_000_000, learning_rate=0.1, seed=1
            )
            await agent.until(lambda: any(report.samples_done for report in agent.progress))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    assert process.returncode == InterruptedByUserError.exit_code, said.decode()
    assert b"Traceback" not in said and b"traceback" not in said
