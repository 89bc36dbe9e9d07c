"""A process that has imported modules once and becomes a program of them again and again, in milliseconds. A script, not imported.

Usage: forkserver.py MODULE… A job is a line of JSON on standard input: `arguments` (of which the first is a module, run as `python -m` runs
it), the whole `environment`, the `folder` to be in, and the file to which its output is added (`log`). For each job a line `{"started": PID}`
comes back, in their order; and `{"ended": PID, "code": N}` when the process has ended, N below 0 for the signal that ended it.

A child leads a session of its own and gets SIGKILL when this process dies.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import tempfile
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def serve() -> dict[str, Any]:
    """Bear children until standard input ends. Returns in a child alone: its job."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    waiting = b""
    with selectors.DefaultSelector() as both:
        both.register(0, selectors.EVENT_READ)
        both.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in both.select():
                read = os.read(key.fd, 1 << 16)
                if key.fd == woken:
                    tell_ends()
                    continue
                if not read:
                    sys.exit(0)  # whoever was there gets SIGKILL
                *lines, waiting = (waiting + read).split(b"\n")
                for line in lines:
                    if not (child := bear()):
                        signal.set_wakeup_fd(-1)
                        os.close(woken)
                        os.close(wake)
                        job: dict[str, Any] = json.loads(line)
                        return job
                    tell(started=child)


def bear() -> int:
    """Fork. Returns 0 in the child, and its number here, once it leads its own group: whoever hears of it may signal that."""
    led, lead = os.pipe()
    if child := os.fork():
        os.close(lead)
        os.read(led, 1)  # ends when the child closes its end, or dies
    else:
        os.setsid()
        os.close(lead)
    os.close(led)
    return child


def tell(**what: int) -> None:
    """Write one line."""
    os.write(1, json.dumps(what).encode() + b"\n")


def tell_ends() -> None:
    """Say who has ended."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        tell(ended=child, code=os.waitstatus_to_exitcode(status))


def become(job: dict[str, Any], parent: int) -> None:
    """Be the program of a job, as far as anybody can tell from within or without."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_NAME, job["arguments"][0].encode())  # what top and ps show, cut off after 15 characters
    if os.getppid() != parent:  # it died before the leash was on
        os._exit(137)
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    tempfile.tempdir = None  # it is looked up again in this environment
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does so itself; torch's always begins the same
    sys.argv = list(job["arguments"])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def main() -> None:
    """Import, then serve; a module that cannot be imported is left for its job to fail on."""
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job will meet it, too
            print(f"{module} cannot be imported: {error}", file=sys.stderr)
    gc.freeze()  # no collection in a child touches, and so copies, what they share
    parent = os.getpid()
    become(serve(), parent)


main()
