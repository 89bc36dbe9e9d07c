"""Agent and aggregator declare the encoded names, and find NaN, infinity and a change too far in what they decode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests import small_study

from fedstudy import tensors
from fedstudy.agent.disclosure import check
from fedstudy.aggregator.algorithms import algorithm
from fedstudy.aggregator.state import Kind, Stage
from fedstudy.aggregator.verify import size_limit, verify
from fedstudy.encodings import encode, error_bound
from fedstudy.errors import UpdateError
from fedstudy.plan import Encoding, StudyPlan, Transfer
from fedstudy.tensors import BFLOAT16, MAX_HEADER, Array
from fedstudy.wire import federation_pb2 as pb

RANDOM = np.random.default_rng(5)
MODEL = {
    "constant.covariate.mean": np.zeros(2, np.float32),
    "bias": np.zeros((), np.float32),
    "weight": RANDOM.standard_normal((30, 100)).astype(np.float32),
}
TRAINED = {
    name: np.asarray(MODEL[name] + 0.1 * RANDOM.standard_normal(MODEL[name].shape), np.float32)
    for name in ("bias", "weight")
}
STAGE = Stage(Kind.TRAIN, 1, 0, ("a",), {"a": {}}, {}, 0.0, 1.0)
TRANSFERS = [Transfer(encoding=encoding, delta=delta) for encoding in Encoding for delta in (False, True)]
each_transfer = pytest.mark.parametrize(
    "transfer", TRANSFERS, ids=lambda t: t.encoding.value + (" delta" if t.delta else "")
)


def plan(transfer: Transfer, algorithm: str = "FedAvg") -> StudyPlan:
    return small_study.plan(federation={"rounds": 1, "algorithm": {"name": algorithm}, "transfer": transfer})


def judged(folder: Path, answer: Mapping[str, Array], study: StudyPlan) -> float | None:
    """Through the agent's check and the aggregator's verification; the norm."""
    tensors.write(folder / "answer", answer)
    tensors.write(folder / "model", MODEL)
    instruction = pb.Instruction(id="0001-000-train-a", kind=pb.TRAIN, round=1)
    check(folder / "answer", instruction, study, folder / "model")
    return by_aggregator(folder, study)


def by_aggregator(folder: Path, study: StudyPlan) -> float | None:
    return verify(folder / "answer", STAGE, study, algorithm(study), folder / "model", [])


@each_transfer
def test_no_more_bytes_are_taken_than_the_encoding_needs(tmp_path: Path, transfer: Transfer) -> None:
    study = plan(transfer)
    tensors.write(tmp_path / "model", MODEL)
    numbers = sum(array.nbytes for array in encode(TRAINED, MODEL, transfer).values())
    limit = size_limit(STAGE, study, algorithm(study), tmp_path / "model")
    assert limit == MAX_HEADER + 8 + numbers


@each_transfer
def test_the_norm_is_that_of_the_decoded_change(tmp_path: Path, transfer: Transfer) -> None:
    norm = judged(tmp_path, encode(TRAINED, MODEL, transfer), plan(transfer))
    assert norm is not None
    exact = math.sqrt(sum(float(np.sum((TRAINED[n] - MODEL[n]) ** 2, dtype=np.float64)) for n in TRAINED))
    sent = {n: TRAINED[n] - MODEL[n] if transfer.delta else TRAINED[n] for n in TRAINED}
    error = math.sqrt(sum(float(np.sum(error_bound(sent[n], transfer.encoding) ** 2)) for n in TRAINED))
    assert abs(norm - exact) <= error + 1e-6 * exact


@each_transfer
@pytest.mark.parametrize("other", TRANSFERS[::2], ids=lambda t: t.encoding.value)
def test_another_encoding_than_the_plans_is_refused(
    tmp_path: Path, transfer: Transfer, other: Transfer
) -> None:
    if other.encoding is transfer.encoding:
        return
    with pytest.raises(UpdateError, match=r"bias|weight"):
        judged(tmp_path, encode(TRAINED, MODEL, other), plan(transfer))
    with pytest.raises(UpdateError, match=r"bias|weight"):
        by_aggregator(tmp_path, plan(transfer))


BAD: list[tuple[Encoding, str, Array]] = [
    (Encoding.FLOAT16, "bias", np.asarray(np.inf, np.float16)),
    (Encoding.FLOAT16, "bias", np.asarray(np.nan, np.float16)),
    (Encoding.BFLOAT16, "bias", np.asarray(0x7F80, "<u2").view(BFLOAT16)),
    (Encoding.BFLOAT16, "bias", np.asarray(0xFFC1, "<u2").view(BFLOAT16)),
    (Encoding.INT8, "bias.scale", np.array([np.nan], np.float32)),
    (Encoding.INT8, "weight.scale", np.full(12, np.inf, np.float32)),
]


@pytest.mark.parametrize(("encoding", "name", "array"), BAD)
@pytest.mark.parametrize("delta", [False, True])
def test_a_value_that_is_not_finite_is_found_on_both_sides(
    tmp_path: Path, encoding: Encoding, name: str, array: Array, delta: bool
) -> None:
    transfer = Transfer(encoding=encoding, delta=delta)
    answer = encode(TRAINED, MODEL, transfer) | {name: array}
    with pytest.raises(UpdateError, match="not sent"):
        judged(tmp_path, answer, plan(transfer))
    with pytest.raises(UpdateError, match="NaN or infinity"):
        by_aggregator(tmp_path, plan(transfer))


def test_a_finite_change_that_leaves_float32_is_refused(tmp_path: Path) -> None:
    transfer = Transfer(encoding=Encoding.INT8, delta=True)
    answer = encode(TRAINED, MODEL, transfer)
    answer["weight.scale"] = np.full_like(answer["weight.scale"], 3e38)
    with pytest.raises(UpdateError, match="'weight' holds NaN or infinity"):
        judged(tmp_path, answer, plan(transfer))


@pytest.mark.parametrize("transfer", [TRANSFERS[1], TRANSFERS[-2]])
def test_derivatives_are_never_encoded(transfer: Transfer) -> None:
    with pytest.raises(ValueError, match=r"federation\.transfer.*NewtonRaphson stay exact"):
        plan(transfer, "NewtonRaphson")
    assert plan(Transfer(), "NewtonRaphson").federation.transfer == Transfer()
