"""examples/glioma-phantom holds the manifests that `fedstudy phantom` writes for the demo's hospitals, and they are valid."""

from __future__ import annotations

from pathlib import Path

from fedstudy_operator import manifests
from fedstudy_operator.phantom import write_manifests
from fedstudy_trainer.data.phantom import PROFILES


def test_the_example_is_up_to_date(repository: Path, tmp_path: Path) -> None:
    sites = sorted(site.name for site in PROFILES["demo"].sites)
    write_manifests(tmp_path, sites, task="idh", algorithm="FedAvg")
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {
        path.name: path.read_text() for path in (repository / "examples/glioma-phantom/manifests").iterdir()
    }
    assert committed == fresh


def test_the_example_has_no_fault(repository: Path) -> None:
    found, faults = manifests.read([repository / "examples" / "glioma-phantom"])
    assert (len(found), faults) == (9, [])
