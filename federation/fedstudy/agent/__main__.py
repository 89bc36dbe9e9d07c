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
from fedstudy.descriptors import allow_many_connections
from fedstudy.errors import FedstudyError, InterruptedByUserError
from fedstudy.logs import configure, log

_log = logging.getLogger("fedstudy.agent")


async def serve(environment: Mapping[str, str]) -> bool:
    """Run an agent until SIGTERM or SIGINT; True where the study was over by then.

    Raises:
        FedstudyError: it cannot start; see `fedstudy.agent.process.agent`.
    """
    settings = Settings.from_environment(environment)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with agent(settings) as running:
        await stopped.wait()
        log(_log, logging.INFO, "stopping")
        return running.relay.finished


def main() -> None:
    """Entry point of `fedstudy-agent`. Exits with 0 after a study that is over, with 130 when stopped in order before."""
    configure(f"agent/{os.environ.get('FEDSTUDY_SITE', '')}")
    allow_many_connections()
    try:
        over = asyncio.run(serve(os.environ))
    except FedstudyError as error:
        log(_log, logging.ERROR, error.message, remedy=error.remedy, error=type(error).__name__)
        sys.exit(error.exit_code)
    log(_log, logging.INFO, "stopped")
    sys.exit(0 if over else InterruptedByUserError.exit_code)


if __name__ == "__main__":
    main()
