"""What a test needs and does not find: a skip for a developer, a failure where everything is required (FEDSTUDY_REQUIRE_ALL=1, as in CI)."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRED = os.environ.get("FEDSTUDY_REQUIRE_ALL") == "1"


def lacking(message: str) -> NoReturn:
    """Say what is not there, and what gives it."""
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)
