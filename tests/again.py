"""`--again`: only the files in which a test failed last time, whole, since a study's tests need those before them (`make test`)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--again", action="store_true", help="run the files of which a test failed last time")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the files in which nothing failed; where nothing is left, pytest says so by its exit status."""
    if not config.getoption("again"):
        return
    assert config.cache is not None
    failed = {name.partition("::")[0] for name in config.cache.get("cache/lastfailed", {})}
    left_out = [item for item in items if item.nodeid.partition("::")[0] not in failed]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
