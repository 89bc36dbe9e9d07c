"""A full disk is shown as the phase's reason, what was refused can be sent again, and with room the study goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fedstudy.aggregator import engine as engine_module
from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.view import aggregator_state
from fedstudy.errors import NoSpaceError
from fedstudy.wire.admin import Phase


def limit(engine: Engine, pages: int) -> None:
    """SQLite's own limit gives the error that a full disk gives."""
    engine.store.db.execute(f"PRAGMA max_page_count = {pages}")


async def test_an_answer_is_refused_for_want_of_space_and_accepted_later(
    tmp_path: Path, fedstudy_fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.01)
    engine = Engine(fedstudy_fakes.plan_of(), tmp_path, sites=fedstudy_fakes.SITES)
    enrolments = Enrolments(engine)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(engine.run())
        sites = fedstudy_fakes.FakeSites(engine)
        sites.connect(*fedstudy_fakes.SITES)
        used = engine.store.db.execute("PRAGMA page_count").fetchone()[0]
        limit(engine, used)
        refused = 0
        with pytest.raises(NoSpaceError):
            for _ in range(300):  # free pages within the database last for a while
                engine.store.note("Filled", text="x" * 300)
        for site in fedstudy_fakes.SITES:
            try:
                await sites.answer(site)
            except NoSpaceError as error:
                engine.hold(error)
                refused += 1
        assert refused
        state = aggregator_state(engine, enrolments)
        assert state.reason == "NoSpace" and "No space left" in state.message
        limit(engine, 1 << 30)
        await sites.finish()
        assert engine.state.phase is Phase.COMPLETE
        assert aggregator_state(engine, enrolments).reason == "Complete"
        work.cancel()
    engine.close()


async def test_a_fold_waits_for_space(
    tmp_path: Path, fedstudy_fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.01)
    tries = 0

    def work_up(*values: Any, real: Any = engine_module.work_up) -> Any:
        nonlocal tries
        tries += 1
        if tries % 3:
            raise NoSpaceError("No space left to write the model.", "Free some space.")
        return real(*values)

    monkeypatch.setattr(engine_module, "work_up", work_up)
    engine = await fedstudy_fakes.run_study(tmp_path, fedstudy_fakes.plan_of(rounds=1))
    assert engine.state.phase is Phase.COMPLETE
    assert tries == 3 * 5
