"""What a hospital approved by its digest is what runs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cohort_for_bad_input import cohort, fedstudy, started


@pytest.mark.slow
def test_a_plan_is_approved_by_the_digest_that_plan_prints_and_a_change_is_refused(tmp_path: Path) -> None:
    c = cohort(tmp_path / "c", rounds=400)
    first = _digest(c.write())
    for participant in c.participants.values():
        participant["approval"] = {"planDigest": first}
    with started("run", c.write()) as run:
        run.until("training · round")
        run.process.terminate()
        assert run.end().code == 130
    c.study["training"]["optimizer"]["learningRate"] = 0.2
    second = _digest(c.write())
    assert first != second
    ended = fedstudy("run", c.folder, "--resume")
    assert ended.code == 6
    assert first in ended.text
    assert second in ended.text
    assert "Undo the change to go on" in ended.text
    ended = fedstudy("run", c.folder, "--out", tmp_path / "c" / "anew")
    assert ended.code == 6
    assert f"the offered plan is {second}, but {first} is approved" in ended.text


def _digest(folder: Path) -> str:
    ended = fedstudy("plan", folder)
    assert ended.code == 0, ended.text
    return ended.text.split()[1]
