"""`fedstudy-trainer`: run, preflight, control, phantom, networks. Exit codes are those of `fedstudy.errors`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from fedstudy.errors import FedstudyError, InterruptedByUserError
from fedstudy.logs import configure, log

_log = logging.getLogger("fedstudy.trainer")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fedstudy-trainer`."""
    options = _parser().parse_args(arguments)
    configure(f"trainer/{os.environ.get('FEDSTUDY_SITE', '')}")
    # cuBLAS reads this when CUDA starts; without it torch refuses deterministic matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    code = _told(options)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # a thread may still be within a step of training; nothing of it is wanted


def _told(options: argparse.Namespace) -> int:
    """Run a command; its exit code."""
    try:
        asyncio.run(_interruptible(_command(options)))
    except FedstudyError as error:
        log(_log, logging.ERROR, error.message, remedy=error.remedy, error=type(error).__name__)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost border: a fault of ours, with its traceback
        _log.exception("A fault of the trainer, please report it: %s", error)
        return 1
    return 0


async def _interruptible(work: Coroutine[Any, Any, None]) -> None:
    """Run until done, or until SIGTERM or SIGINT cancels it.

    Raises:
        InterruptedByUserError: a signal came.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        raise InterruptedByUserError("The trainer was told to stop.", "It can be started again.") from None


def _command(options: argparse.Namespace) -> Coroutine[Any, Any, None]:
    if options.command == "control":
        from fedstudy_trainer.controls import control

        return control(options)
    if options.command in ("phantom", "networks"):
        from fedstudy_trainer import listing

        if options.command == "networks":
            return listing.networks()
        return listing.phantom(Path(options.out), options.profile, options.seed, options.scale, options.site)
    from fedstudy_trainer.settings import Settings

    settings = Settings.from_environment(os.environ)
    if options.command == "preflight":
        from fedstudy_trainer.check import preflight

        return preflight(settings)
    from fedstudy_trainer.session import run

    return run(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedstudy-trainer", description="The data plane of a study at a hospital."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="train for the agent that the environment names")
    commands.add_parser("preflight", help="check the dataset against the plan; exit 4 where it does not fit")
    control = commands.add_parser("control", help="train a control arm on the rows of several sites")
    control.add_argument("--arm", choices=["local", "pooled"], required=True)
    control.add_argument("--plan", required=True, help="plan.json")
    control.add_argument(
        "--site",
        action="append",
        required=True,
        metavar="NAME=DATASETJSON=DATAROOT",
        help="once for each site",
    )
    control.add_argument("--out", required=True, help="folder for arms.json")
    control.add_argument("--scratch", default="", help="folder for preprocessed volumes; default OUT/scratch")
    control.add_argument(
        "--threads", type=int, default=1, help="of torch; more change the last bits of a result"
    )
    phantom = commands.add_parser("phantom", help="write a cohort of phantom glioma patients")
    phantom.add_argument("out", help="folder, new or empty")
    phantom.add_argument("--profile", default="demo", help="demo, full, …")
    phantom.add_argument("--seed", type=int, default=1)
    phantom.add_argument("--scale", type=float, default=1.0, help="factor on the number of patients")
    phantom.add_argument("--site", default="", help="one hospital alone, into OUT itself: a volume's content")
    commands.add_parser("networks", help="list the networks that a plan may name")
    return parser


if __name__ == "__main__":
    main()
