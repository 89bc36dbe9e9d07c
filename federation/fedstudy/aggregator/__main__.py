"""The command `fedstudy-aggregator`: runs one study until SIGTERM; configured by environment (docs/architecture.md)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from fedstudy.aggregator.allocator import keep_memory_small
from fedstudy.aggregator.config import Settings, load
from fedstudy.aggregator.server import serve
from fedstudy.descriptors import allow_many_connections
from fedstudy.errors import FedstudyError, InterruptedByUserError
from fedstudy.logs import configure, log

_logger = logging.getLogger(__name__)


def main() -> None:
    """Run, and exit with the code of what ended it: 0 after a study that is over, 130 when stopped before."""
    configure("aggregator")
    keep_memory_small()
    allow_many_connections()
    try:
        settings = load(os.environ)
        over = asyncio.run(_run(settings))
    except FedstudyError as error:
        log(_logger, logging.ERROR, type(error).__name__, message=error.message, remedy=error.remedy)
        sys.exit(error.exit_code)
    sys.exit(0 if over else InterruptedByUserError.exit_code)


async def _run(settings: Settings) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = await serve(settings, stop)
    return engine.state.over


if __name__ == "__main__":
    main()
