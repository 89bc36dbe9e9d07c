"""Plans, tables and small NIfTI files for the tests of the data layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fedstudy.plan import StudyPlan

SEQUENCES = ["t1", "t1gd", "t2", "flair"]


def plan(**changes: Any) -> StudyPlan:
    """A plan for IDH from age and sex; keyword arguments replace whole parts (task, preprocessing, cohort, …)."""
    document: dict[str, Any] = {
        "study": "s",
        "uid": "u",
        "purpose": "DUO:0000007",
        "task": task(),
        "model": {"network": {"name": "SmallCNN" if changes.get("task", {}).get("images") else "Linear"}},
        "preprocessing": {},
        "augmentation": {},
        "training": {"localEpochs": 1, "optimizer": {"learningRate": 0.1}},
        "federation": {"rounds": 1},
        "cohort": {},
    }
    return StudyPlan.model_validate(document | changes)


def task(*, images: Sequence[str] = (), survival: bool = False, covariates: bool = True) -> dict[str, Any]:
    """IDH, or survival, from the images and from age and sex."""
    return {
        "type": "Survival" if survival else "Classification",
        "images": list(images),
        "covariates": [{"name": "age"}, {"name": "sex", "categories": ["female", "male"]}]
        if covariates
        else [],
        "target": {"time": "months", "event": "dead"}
        if survival
        else {"label": "idh", "classes": ["WT", "Mutant"]},
    }


def image_plan(images: Sequence[str] = ("t1",), **preprocessing: Any) -> StudyPlan:
    """A plan for IDH from images, eight voxels cubed unless said otherwise."""
    return plan(
        task=task(images=images, covariates=False), preprocessing={"size": [8, 8, 8], **preprocessing}
    )


def write_table(
    root: Path, columns: Mapping[str, Sequence[object]], name: str = "participants.tsv", sep: str = "\t"
) -> Path:
    """A table from columns."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [sep.join(columns), *(sep.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path = root / name
    path.write_text("\n".join(rows) + "\n")
    return path


def people(n: int, **columns: Sequence[object]) -> dict[str, Sequence[object]]:
    """A good table of n participants, half of each class; keyword arguments replace or add columns."""
    good: dict[str, Sequence[object]] = {
        "participant_id": [f"p{i:03d}" for i in range(n)],
        "age": [40 + i for i in range(n)],
        "sex": ["female" if i % 3 else "male" for i in range(n)],
        "idh": ["WT" if i % 2 else "Mutant" for i in range(n)],
        "months": [i + 0.5 for i in range(n)],
        "dead": [i % 2 for i in range(n)],
        "split": ["train" if i % 4 < 2 else "validation" if i % 4 == 2 else "test" for i in range(n)],
    }
    return good | columns


def write_nifti(
    path: Path, values: np.ndarray | None = None, *, spacing: float = 1.0, seed: int = 0, size: int = 10
) -> Path:
    """A NIfTI file; without values a random ball in an empty box, in RAS."""
    if values is None:
        grid = np.linalg.norm(np.indices((size,) * 3) - (size - 1) / 2, axis=0)
        noise = np.random.default_rng(seed).normal(100, 10, size=(size,) * 3)
        values = np.where(grid < size / 2.5, noise, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([spacing] * 3 + [1.0])), path)
    return path


def write_bids(root: Path, n: int, sequences: Sequence[str] = ("t1",), **columns: Sequence[object]) -> Path:
    """A BIDS dataset of n participants with random images."""
    from fedstudy_trainer.data.config import BIDS_SUFFIXES

    write_table(root, people(n, **columns))
    for i in range(n):
        for k, sequence in enumerate(sequences):
            name = f"sub-p{i:03d}_{BIDS_SUFFIXES[sequence]}.nii.gz"
            write_nifti(root / f"sub-p{i:03d}" / "anat" / name, seed=100 * i + k)
    return root
