"""The aggregator as its command runs it, within this process: from a folder with a plan, a certificate, and the study's state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fedstudy.aggregator.config import StudyConfig, load
from fedstudy.aggregator.server import serve
from fedstudy.plan import StudyPlan

DOMAIN, UID = "hub.example", "study-1"


@asynccontextmanager
async def served(
    folder: Path, plan: StudyPlan, sites: tuple[str, ...], *, metrics: str = ""
) -> AsyncIterator[int]:
    """The port of an aggregator whose certificate is in `server/`; its state is, or will be, in `state/`."""
    (folder / "config").mkdir()
    (folder / "config" / "plan.json").write_bytes(plan.canonical())
    study = StudyConfig(uid=UID, trust_domain=DOMAIN, sites=list(sites))
    (folder / "config" / "study.json").write_text(study.model_dump_json(by_alias=True))
    settings = load(
        {
            "FEDSTUDY_LISTEN": "127.0.0.1:0",
            "FEDSTUDY_TLS": str(folder / "server"),
            "FEDSTUDY_CONFIG": str(folder / "config"),
            "FEDSTUDY_STATE": str(folder / "state"),
            "FEDSTUDY_METRICS": metrics,
        }
    )
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(serve(settings, stop, port.set_result))
        try:
            yield await port
        finally:
            stop.set()
