"""The first thing a container's process runs: die when the parent dies, then become the command. A script, not imported.

Usage: leash.py PARENT_PID COMMAND [ARGUMENT…]. It does so before the command starts, in a fresh interpreter without site-packages, so that the
parent, which has threads of its own (gRPC), never runs Python code between fork and exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and become the command; exit 127 where there is no such command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the leash was on
        sys.exit(137)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


main()
