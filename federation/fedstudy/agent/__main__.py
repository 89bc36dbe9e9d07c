"""The agent's process: settings from the environment, an orderly stop on SIGTERM, exit codes of `fedstudy.errors`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping

from fedstudy.agent.process import agent
from fedstudy.agent.settings import Settings
from fedstudy.errors import FedstudyError
from fedstudy.logs import configure, log

_log = logging.getLogger("fedstudy.agent")


async def serve(environment: Mapping[str, str]) -> None:
    """Run an agent until SIGTERM or SIGINT.

    Raises:
        FedstudyError: it cannot start; see `fedstudy.agent.process.agent`.
    """
    settings = Settings.from_environment(environment)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with agent(settings):
        await stopped.wait()
        log(_log, logging.INFO, "stopping")


def main() -> None:
    """Entry point of `fedstudy-agent`. Stopped in order it exits with 0, as a container is expected to."""
    configure(f"agent/{os.environ.get('FEDSTUDY_SITE', '')}")
    try:
        asyncio.run(serve(os.environ))
    except FedstudyError as error:
        log(_log, logging.ERROR, error.message, remedy=error.remedy, error=type(error).__name__)
        sys.exit(error.exit_code)
    log(_log, logging.INFO, "stopped")


if __name__ == "__main__":
    main()
