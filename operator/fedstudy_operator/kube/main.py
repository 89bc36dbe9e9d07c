"""`fedstudy-operator`: one replica. It serves its probes, waits for the Lease, works while it holds it, and ends when it loses it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from fedstudy.errors import FedstudyError
from fedstudy.logs import configure, log
from fedstudy_operator.cluster import Key
from fedstudy_operator.kube.apart import Apart
from fedstudy_operator.kube.api import Api, connect
from fedstudy_operator.kube.environment import Environment, read
from fedstudy_operator.kube.http import Probes
from fedstudy_operator.kube.lease import Elector
from fedstudy_operator.kube.metrics import Metrics
from fedstudy_operator.kube.operator import Operator

_logger = logging.getLogger(__name__)

LOST_LEASE = 75
"""Exit code: try again (EX_TEMPFAIL)."""
STUCK_SECONDS = 300.0
"""A pass that takes longer is stuck: no request of it may."""


async def serve(environment: Environment) -> int:
    """Run until told to stop, or until the Lease is lost; returns the exit code."""
    stop = asyncio.Event()
    _end_on_signal(stop)
    metrics = Metrics()
    api = Api(await connect())
    apart = Apart("lease")
    lease_api = Api(await apart.run(connect()))
    elector = Elector(lease_api, Key("Lease", environment.namespace, environment.lease), environment.identity)
    with tempfile.TemporaryDirectory(prefix="fedstudy-operator-") as folder:
        operator = Operator(environment, api, elector, metrics, Path(folder))
        probes = Probes(
            environment.http,
            alive=lambda: operator.stuck(STUCK_SECONDS),
            ready=lambda: operator.unready(),
            metrics=metrics.registry,
        )
        try:
            await probes.start()
            return await _lead(operator, elector, apart, stop)
        finally:
            await apart.run(elector.release())
            await apart.run(lease_api.close())
            apart.close()
            await probes.stop()
            await api.close()


async def _lead(operator: Operator, elector: Elector, apart: Apart, stop: asyncio.Event) -> int:
    """Wait for the Lease, then work."""
    stopped: asyncio.Task[object] = asyncio.create_task(stop.wait())
    acquired: asyncio.Task[None] = asyncio.create_task(apart.run(elector.acquire()))
    try:
        await asyncio.wait({stopped, acquired}, return_when=asyncio.FIRST_COMPLETED)
        if not acquired.done():
            return 0
        acquired.result()
        kept: asyncio.Task[None] = asyncio.create_task(apart.run(elector.keep()))
        work: asyncio.Task[None] = asyncio.create_task(operator.run(stop.set, lambda: _end_on_signal(stop)))
        try:
            await asyncio.wait({stopped, kept, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not stopped.done():
                work.result()
            return 0 if stopped.done() else LOST_LEASE
        finally:
            for task in (work, kept):
                task.cancel()
            await asyncio.gather(work, kept, return_exceptions=True)
    finally:
        for waiting in (stopped, acquired):
            waiting.cancel()
        await asyncio.gather(stopped, acquired, return_exceptions=True)


def _end_on_signal(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def main() -> None:
    """Entry point: an error that a person can mend is one line of the log and an exit code."""
    if set(sys.argv[1:]) & {"-h", "--help"}:
        print(__doc__)
        print(
            "It is configured by environment variables (docs/architecture.md lists them); --check says what is wrong with them."
        )
        return
    configure("operator")
    for name in ("kopf", "kopf.objects"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it tells of every event
    try:
        environment = read(os.environ)
        if "--check" in sys.argv[1:]:
            print(environment)
            return
        code = asyncio.run(serve(environment))
    except FedstudyError as error:
        log(_logger, logging.ERROR, error.message, remedy=error.remedy)
        code = error.exit_code
    except Exception as error:
        _logger.critical("The operator has failed; it is started again.", exc_info=error)
        code = 1
    with suppress(BrokenPipeError):
        sys.stderr.flush()
    os._exit(code)  # threads of grpc and of kopf may wait for peers that are gone
