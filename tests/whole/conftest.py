"""One real cluster with the product's own images and charts, for the tests of the whole; and a study in it that trains for as long as they last."""

from __future__ import annotations

import json

import pytest
from tests.cluster.fixtures import AnyCluster
from tests.whole.api import Eyes
from tests.whole.charts import Installed
from tests.whole.small import ENDLESS, Small, claim


@pytest.fixture(scope="session")
def installed(product_cluster: AnyCluster, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Images loaded, namespaces that enforce `restricted`, both charts installed and their operators ready."""
    view = product_cluster.kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json")
    ready = Installed(product_cluster, Eyes(json.loads(view), tmp_path_factory.mktemp("eyes")))
    ready.install()
    return ready


@pytest.fixture(scope="session")
def busy(installed: Installed) -> Small:
    """A study of two hospitals in the middle of a round that never ends; who uses it leaves it so."""
    made = Small(installed, "busy", ("north", "south"))
    made.hospitals()
    made.apply(claim("scratch", made.namespace("north")), made.study(steps=ENDLESS))
    for site in made.sites:
        scratch = {"scratch": {"claimName": "scratch"}} if site == "north" else {}
        made.apply(made.dataset(site), made.participant(site, **scratch))
    for site in made.sites:
        made.until_trains(site)
    return made
