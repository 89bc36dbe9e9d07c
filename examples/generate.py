"""Writes examples/glioma-phantom: the manifests that `fedstudy phantom` writes for the demo's hospitals, and what a cluster needs beside them.

    python examples/generate.py            # `make examples`

A test writes them again and compares.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fedstudy_operator.phantom import write_manifests
from fedstudy_operator.phantom_cluster import write_cluster
from fedstudy_trainer.data.phantom import PROFILES

FOLDER = Path(__file__).resolve().parent / "glioma-phantom"
PROFILE = "demo"
SEED = 0
"""What `fedstudy phantom` takes where none is given, so that a cluster trains on the bytes of `make demo`."""


def write(folder: Path) -> list[Path]:
    """Write all manifests of the example and return their paths."""
    sites = sorted(site.name for site in PROFILES[PROFILE].sites)
    image = f"localhost/fedstudy-trainer:{version('fedstudy')}"
    cluster = write_cluster(folder, sites, profile=PROFILE, seed=SEED, image=image)
    return [cluster, *write_manifests(folder, sites, task="idh", algorithm="FedAvg")]


if __name__ == "__main__":
    for path in write(FOLDER):
        print(path.relative_to(FOLDER.parent))
