"""Room for connections: a shell's soft limit of 1,024 files is less than what a hostile client may hold half open."""

from __future__ import annotations

import resource

ENOUGH = 8192
"""Files that a process may have open; each costs the kernel about a KiB."""


def allow_many_connections() -> None:
    """Raise the soft limit of open files to ENOUGH, or as near as the hard limit allows; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
