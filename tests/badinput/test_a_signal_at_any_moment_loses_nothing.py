"""SIGTERM while the run starts, waits or trains: all processes end in order, and --resume finishes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cohort_for_bad_input import cohort, fedstudy, processes, started, wait_for


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_comes_to_its_end(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c", rounds=3)
    folder = c.write()
    chance, resume = random.Random(0), list[str]()
    for words in ("starting", "exchanging statistics", "training · round"):
        with started("run", folder, *resume) as run:
            run.until(words)
            wait_for(lambda: processes(folder), 30)
            wait_for(lambda: chance.random() < 0.02, 30)  # any moment after that
            run.process.terminate()
            ended = run.end()
        if ended.code == 0:
            break
        assert ended.code == 130, ended.text
        assert "nothing is lost" in ended.text
        resume = ["--resume"]
    else:
        ended = fedstudy("run", folder, "--resume", seconds=240)
    assert ended.code == 0, ended.text
    assert (c.results / "results.json").exists()
