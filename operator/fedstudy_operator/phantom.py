"""A phantom cohort with the manifests that train on it: the trainer's package draws the patients, this writes the YAML."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedstudy.errors import ManifestError
from fedstudy_operator import scaffold

IMAGES = {"t1": "T1w", "t1gd": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR"}
COVARIATES: list[dict[str, Any]] = [{"name": "age"}, {"name": "sex", "categories": ["female", "male"]}]

PURPOSE = "DUO:0000007"
TRAINER = {"release": "Never", "threads": 1, "resources": {"requests": {"cpu": "250m", "memory": "768Mi"}}}
"""What the demo's trainers ask for: four of them fit a laptop's cluster, and none is starved by what else runs there."""


def write_phantom(
    out: Path, *, profile: str, seed: int, scale: float, task: str, algorithm: str
) -> Iterator[str]:
    """Write OUT/data/<site>/… and OUT/manifests/*.yaml; yields lines that say what was written.

    Raises:
        ManifestError: the folder is in use, or the profile is unknown.
    """
    if out.exists() and any(out.iterdir()):
        raise ManifestError(f"{out} is not empty.", "Give a new folder, or remove this one.")
    words = ["--profile", profile, "--seed", str(seed), "--scale", str(scale)]
    done = subprocess.run(
        [sys.executable, "-m", "fedstudy_trainer", "phantom", str(out), *words],
        text=True,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise ManifestError("The phantom cohort was not written; the reason stands above.")
    yield from done.stdout.splitlines()
    # A hospital named `outside` never trains: it is there for external tests.
    sites = sorted(folder.name for folder in (out / "data").iterdir() if folder.name != "outside")
    yield from map(str, write_manifests(out / "manifests", sites, task=task, algorithm=algorithm))


def write_manifests(folder: Path, sites: Sequence[str], *, task: str, algorithm: str) -> list[Path]:
    """The study and its hospitals as YAML, a file each; `examples/glioma-phantom` holds those of the demo.

    Args:
        sites: the hospitals; each has a volume claim of its name.
        task: idh or survival.
    """
    spec = survival_spec(algorithm, len(sites)) if task == "survival" else idh_spec(algorithm, len(sites))
    name = f"glioma-{task}"
    written = [scaffold.write(folder / "study.yaml", [scaffold.study(name, spec, sites)], "The hub's study.")]
    policy = {
        "purposes": [PURPOSE], "algorithms": [algorithm], "networks": ["*"], "images": ["*"],
        "minSites": 2, "requireSecureAggregation": False, "minCellCount": 5, "maxConcurrentStudies": 4,
    }  # fmt: skip
    dataset = {
        "format": "BIDS",
        "images": {
            image: f"{{participant_id}}/anat/{{participant_id}}_{suffix}.nii.gz"
            for image, suffix in IMAGES.items()
        },
    }
    for site in sites:
        objects = scaffold.hospital(site, name, dataset, policy, TRAINER)
        comment = f"{site}: its data, what may be done with them, and its part in the study."
        written.append(scaffold.write(folder / f"{site}.yaml", objects, comment))
    return written


def idh_spec(algorithm: str, sites: int) -> dict[str, Any]:
    """IDH mutation from four MRI sequences and two covariates."""
    return {
        "title": "IDH mutation of gliomas from MRI",
        "description": "Phantom patients; a study to learn fedstudy with.",
        "purpose": PURPOSE,
        "task": {
            "type": "Classification",
            "images": list(IMAGES),
            "covariates": COVARIATES,
            "target": {"label": "idh", "classes": ["wildtype", "mutant"]},
        },
        **_learning(algorithm, sites),
    }


def survival_spec(algorithm: str, sites: int) -> dict[str, Any]:
    """Survival from four MRI sequences and two covariates, by discrete-time hazard."""
    return {
        "title": "Survival with glioma from MRI",
        "description": "Phantom patients; a study to learn fedstudy with.",
        "purpose": PURPOSE,
        "task": {
            "type": "Survival",
            "images": list(IMAGES),
            "covariates": COVARIATES,
            "target": {"time": "os_months", "event": "dead"},
            "loss": "DiscreteHazard",
        },
        **_learning(algorithm, sites),
    }


def _learning(algorithm: str, sites: int) -> dict[str, Any]:
    return {
        "model": {"network": {"name": "SmallCNN"}},
        "preprocessing": {"spacing": [4.5, 4.5, 4.5], "size": [36, 40, 36], "intensity": "ZScore"},
        "augmentation": {"flipProbability": 0.5, "intensityScale": 0.1, "intensityShift": 0.1, "dropImageProbability": 0.1},
        "training": {"localEpochs": 1, "batchSize": 8, "optimizer": {"name": "AdamW", "learningRate": 0.001, "weightDecay": 0.01, "decay": 0.93}, "gradientClip": 1.0, "seed": 1},
        "federation": {"algorithm": {"name": algorithm}, "rounds": 20, "minSites": min(2, sites), "roundTimeoutSeconds": 600},
        "cohort": {"minCases": 5, "require": {"images": ["t1gd", "flair"]}},
    }  # fmt: skip
