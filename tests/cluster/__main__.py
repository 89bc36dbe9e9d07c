"""A cluster for a person, or for a command.

python -m tests.cluster [NUMBER]            # as root, until Ctrl-C; prints the KUBECONFIG
python -m tests.cluster packages            # install what a node needs
python -m tests.cluster up|down [NUMBER]    # in the background (make cluster, make cluster-down)
python -m tests.cluster guard NUMBER        # a cluster's own: waits for the end of its standard input, then takes it down
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.control_plane import REPOSITORY, _wait
from tests.cluster.leavings import down
from tests.cluster.node import Cluster, folder_of, install_packages, missing_tools, reserve


def _guard(number: int, folder: Path) -> None:
    """Wait for the end of the process that holds the other end of our standard input, then take down."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    down(number, folder)


def _serve(number: int | None) -> None:
    """Run a cluster until a signal ends it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Cluster(number, gpus=2) as cluster:
            note = cluster.folder / "owner.pid"
            note.write_text(str(os.getpid()))
            print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return


def _up(number: int) -> None:
    """Start a cluster that stays when we end; returns when it can be used."""
    if missing_tools():
        install_packages()
    folder = folder_of(number)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "cluster.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", str(number)],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    while "export KUBECONFIG" not in log.read_text():
        if process.poll() is not None:
            sys.exit(f"the cluster did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)
    print(log.read_text().strip())


def _end(number: int) -> None:
    """Stop the cluster that `up` started, and remove whatever an earlier one left."""
    note = folder_of(number) / "owner.pid"
    if note.exists():
        owner = int(note.read_text())
        if b"tests.cluster" in _command_line(owner):
            os.kill(owner, signal.SIGTERM)
            _wait("the cluster's end", lambda: not _command_line(owner))
        note.unlink(missing_ok=True)
    _, lock = reserve(number)
    down(number, folder_of(number))
    os.close(lock)


def _command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def main() -> None:
    """See the first lines of this file."""
    words = sys.argv[1:]
    number = int(words[-1]) if words and words[-1].isdigit() else None
    match words[:1]:
        case ["guard"]:
            assert number is not None
            _guard(number, folder_of(number))
        case ["packages"]:
            if missing_tools():
                install_packages()
        case ["up"]:
            _up(number or 0)
        case ["down"]:
            _end(number or 0)
        case _:
            _serve(number)


if __name__ == "__main__":
    main()
