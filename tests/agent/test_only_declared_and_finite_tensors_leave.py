"""Disclosure control of a trainer's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstudy import tensors
from fedstudy.agent.disclosure import check
from fedstudy.errors import UpdateError
from fedstudy.measures import (
    classification_statistics,
    cohort_statistics,
    survival_statistics,
)
from fedstudy.plan import StudyPlan
from fedstudy.wire import federation_pb2 as pb

CLASSES = {"label": "idh", "classes": ["wildtype", "mutant"]}
MODEL = {
    "constant.covariate.mean": np.zeros(2, np.float32),
    "constant.time.cuts": np.array([6, 12, 24], np.float32),
    "head.bias": np.zeros(2, np.float32),
    "head.weight": np.ones((2, 4), np.float32),
}


def plan(task: dict[str, Any] | None = None, algorithm: str = "FedAvg") -> StudyPlan:
    covariates = [{"name": "age"}, {"name": "grade", "categories": ["II", "III", "IV"]}]
    return StudyPlan.model_validate(
        {
            "study": "s",
            "uid": "u",
            "purpose": "DUO:0000007",
            "task": {"covariates": covariates} | (task or {"type": "Classification", "target": CLASSES}),
            "model": {"network": {"name": "Linear"}},
            "preprocessing": {},
            "augmentation": {},
            "training": {"localEpochs": 1, "optimizer": {"learningRate": 0.1}},
            "federation": {"rounds": 1, "algorithm": {"name": algorithm}},
            "cohort": {},
        }
    )


SURVIVAL = {"type": "Survival", "target": {"time": "os", "event": "dead"}, "intervals": 4}
COX = SURVIVAL | {"loss": "StratifiedCox"}
UPDATE = {name: array for name, array in MODEL.items() if not name.startswith("constant.")}

NEWTON = {"gradient": np.zeros(10), "information": np.eye(10), "loglik": np.array(-1.5)}


def answer(
    folder: Path, kind: str, content: dict[str, Any], study: StudyPlan, metadata: dict[str, str] | None = None
) -> None:
    tensors.write(folder / "answer", content, metadata)
    tensors.write(folder / "model", MODEL)
    instruction = pb.Instruction(id="0001-000-x-a", kind=pb.Kind.Value(kind), round=1)
    check(folder / "answer", instruction, study, folder / "model")


def cohort(labels: Any = None, times: Any = None) -> dict[str, Any]:
    x = np.array([[50.0, 0, 1], [60.0, np.nan, np.nan]])
    return cohort_statistics(
        x, labels, 2 if labels is not None else 0, times, None if times is None else np.ones(2)
    )


TIMES = np.array([5.0, 20.0])
HAZARDS = np.full((2, 4), 0.2)


@pytest.mark.parametrize(
    ("kind", "study", "content"),
    [
        ("TRAIN", plan(), UPDATE),
        ("INITIALISE", plan(), MODEL),
        ("STATISTICS", plan(), cohort(labels=np.array([0, 1]))),
        ("STATISTICS", plan(SURVIVAL), cohort(times=TIMES)),
        ("EVALUATE", plan(), classification_statistics(np.array([[0.3, 0.7]]), np.array([1]))),
        (
            "EVALUATE",
            plan(SURVIVAL),
            survival_statistics(
                np.zeros(2), TIMES, np.ones(2), hazards=HAZARDS, cuts=np.array([6.0, 12.0, 24.0])
            ),
        ),
        ("EVALUATE", plan(COX), survival_statistics(np.zeros(2), TIMES, np.ones(2))),
        (
            "TRAIN",
            plan(algorithm="NewtonRaphson"),
            NEWTON,
        ),
    ],
)
def test_what_an_instruction_declares_may_leave(
    tmp_path: Path, kind: str, study: StudyPlan, content: dict[str, Any]
) -> None:
    answer(tmp_path, kind, content, study, {"instruction": "0001-000-x-a", "kind": kind})


@pytest.mark.parametrize(
    ("kind", "study", "content", "fault"),
    [
        ("TRAIN", plan(), UPDATE | {"patients": np.zeros(3, np.float32)}, "'patients'"),
        ("TRAIN", plan(), MODEL, "constant"),
        ("TRAIN", plan(), UPDATE | {"head.bias": np.zeros(3, np.float32)}, "head.bias"),
        ("TRAIN", plan(), UPDATE | {"head.bias": np.zeros(2, np.float64)}, "head.bias"),
        ("TRAIN", plan(), UPDATE | {"head.bias": np.array([0, np.nan], np.float32)}, "NaN"),
        ("TRAIN", plan(), UPDATE | {"head.bias": np.array([0, np.inf], np.float32)}, "infinite"),
        ("INITIALISE", plan(), MODEL | {"w": np.array([np.nan], np.float16)}, "NaN"),
        ("STATISTICS", plan(), cohort(labels=np.array([0, 1])) | {"age": np.array([50.0, 60.0])}, "'age'"),
        ("STATISTICS", plan(), cohort(times=TIMES), "count.class"),
        ("STATISTICS", plan(), UPDATE, "does not declare"),
        (
            "EVALUATE",
            plan(),
            classification_statistics(np.ones((1, 2)), np.array([1])) | {"p": np.ones(2)},
            "'p'",
        ),
        (
            "EVALUATE",
            plan(COX),
            survival_statistics(
                np.zeros(2), TIMES, np.ones(2), hazards=HAZARDS, cuts=np.array([6.0, 12.0, 24.0])
            ),
            "survival",
        ),
        ("TRAIN", plan(algorithm="NewtonRaphson"), UPDATE, "does not declare"),
        ("TRAIN", plan(algorithm="NewtonRaphson"), NEWTON | {"gradient": np.zeros(500)}, "gradient"),
        ("TRAIN", plan(), NEWTON, "does not declare"),
        ("FINISH", plan(), {}, "takes no answer"),
    ],
)
def test_anything_else_is_refused_by_name(
    tmp_path: Path, kind: str, study: StudyPlan, content: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UpdateError, match=fault):
        answer(tmp_path, kind, content, study)


@pytest.mark.parametrize(
    "metadata", [{"note": "patient 17"}, {"instruction": "another"}, {"kind": "patient 17"}]
)
def test_metadata_is_no_way_out(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(UpdateError, match="metadata"):
        answer(tmp_path, "TRAIN", UPDATE, plan(), metadata)


def test_a_file_that_is_no_tensor_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answer").write_bytes(b"\x89PNG" + bytes(100))
    with pytest.raises(UpdateError):
        check(tmp_path / "answer", pb.Instruction(id="i", kind=pb.INITIALISE), plan(), None)
