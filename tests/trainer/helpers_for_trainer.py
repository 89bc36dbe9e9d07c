"""Plans and small sites, on disk as a hospital has them, for the tests of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from fedstudy.measures import total
from fedstudy.plan import StudyPlan
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import SiteData, load
from fedstudy_trainer.learner import network_on
from fedstudy_trainer.networks import StudyNetwork, initial_state
from fedstudy_trainer.networks.state import State
from fedstudy_trainer.statistics import site_statistics

CPU = torch.device("cpu")
torch.set_num_threads(1)

COVARIATES = [{"name": "age"}, {"name": "grade", "categories": ["II", "III", "IV"]}]
IDH = {"label": "idh", "classes": ["wildtype", "mutant"]}
TIMES = {"time": "months", "event": "dead"}


def plan(
    *,
    target: dict[str, Any] = IDH,
    images: list[str] | None = None,
    covariates: list[dict[str, Any]] | None = None,
    network: str = "Linear",
    arguments: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    federation: dict[str, Any] | None = None,
    size: int = 8,
) -> StudyPlan:
    """A plan for IDH by full-batch gradient descent; keyword arguments change parts of it."""
    document: dict[str, Any] = {
        "study": "s",
        "uid": "u",
        "purpose": "DUO:0000007",
        "task": {
            "type": "Survival" if "time" in target else "Classification",
            "images": images or [],
            "covariates": COVARIATES if covariates is None else covariates,
            "target": target,
            **(task or {}),
        },
        "model": {"network": {"name": network, "arguments": arguments or {}}},
        "preprocessing": {"size": [size] * 3} if images else {},
        "augmentation": {},
        "training": {
            "localEpochs": 1,
            "batchSize": 0,
            "optimizer": {"learningRate": 0.1},
            "seed": 7,
            **(training or {}),
        },
        "federation": {"rounds": 1, **(federation or {})},
        "cohort": {},
    }
    return StudyPlan.model_validate(document)


def rows(n: int, seed: int = 0) -> dict[str, list[Any]]:
    """n patients with missing values, both classes, tied times and censoring; all in the training split."""
    draw = np.random.default_rng(seed)
    age, grade = draw.normal(50, 12, n).round(1), draw.integers(0, 3, n)
    mutant = draw.random(n) < 1 / (1 + np.exp((age - 50) / 8))
    months = np.ceil(draw.exponential(np.exp(3 - 0.04 * (age - 50)), n))
    return {
        "participant_id": [f"p{seed}-{i:03d}" for i in range(n)],
        "split": ["training"] * n,
        "age": ["" if i % 7 == 3 else value for i, value in enumerate(age)],
        "grade": [["II", "III", "IV"][g] for g in grade],
        "idh": ["mutant" if m else "wildtype" for m in mutant],
        "months": list(months),
        "dead": [int(value) for value in draw.random(n) < 0.6],
    }


def site(folder: Path, study: StudyPlan, columns: dict[str, list[Any]]) -> SiteData:
    """A site with these rows, and with a volume for each cell `yes` of a column named like an image."""
    return load(dataset(folder, study, columns), folder, study, folder / "scratch")


def dataset(folder: Path, study: StudyPlan, columns: dict[str, list[Any]]) -> DatasetConfig:
    """Write a site's files; the description of the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scratch").mkdir(exist_ok=True)
    lines = ["\t".join(columns)] + ["\t".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    for image in study.task.images:
        for i, person in enumerate(columns["participant_id"]):
            if columns.get(image, ["yes"] * (i + 1))[i] == "yes":
                voxels = np.random.default_rng([i, len(image)]).normal(10, 2, (8, 8, 8)).astype(np.float32)
                nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{person}_{image}.nii.gz")
    return DatasetConfig(images={name: f"{{participant_id}}_{name}.nii.gz" for name in study.task.images})


def first_model(study: StudyPlan, *sites: SiteData) -> State:
    """What the prologue of a study with these sites would give."""
    return initial_state(study, total(site_statistics(s.cases("training"), study) for s in sites))


def network(study: StudyPlan, state: State) -> StudyNetwork:
    """The plan's network with a model loaded."""
    return network_on(study, state, CPU)


def parameters(study: StudyPlan, **changes: Any) -> dict[str, Any]:
    """The parameters of a Train instruction."""
    return {"epochs": 1, "learning_rate": study.training.optimizer.learning_rate, "seed": 3} | changes


def same_bits(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    """Whether two sets of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
