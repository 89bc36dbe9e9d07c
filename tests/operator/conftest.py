"""What the tests of the reconcilers share."""

from __future__ import annotations

import pytest
from tests.operator.hub import Hub


@pytest.fixture
def hub() -> Hub:
    """A hub with one study."""
    return Hub()
