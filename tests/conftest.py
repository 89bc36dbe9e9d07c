"""What all tests share: where the real patient tables are, and that nothing needed may be missing in CI."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.required import lacking

pytest_plugins = ["tests.again", "tests.cluster.plugin"]

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real patient tables, which lies beside the checkout and is never part of it."""
    folder = REPOSITORY.parent / "shared" / "realdata"
    if not folder.is_dir():
        lacking(f"the real patient tables are not at {folder}")
    return folder
