"""Aggregator and agent raise their soft limit of open files, within the hard one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedstudy.descriptors import ENOUGH

PROGRAM = """
import resource, sys
from fedstudy.descriptors import allow_many_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
allow_many_connections()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [(256, 4096, 4096), (256, 2 * ENOUGH, ENOUGH), (2 * ENOUGH, 2 * ENOUGH, 2 * ENOUGH)],
)
def test_the_soft_limit_is_raised_and_never_lowered(soft: int, hard: int, after: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(after), str(hard)]
