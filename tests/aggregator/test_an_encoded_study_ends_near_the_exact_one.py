"""Whole studies over fake sites, in each encoding: the last model, the bytes that sites send, and the order of answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedstudy import tensors
from fedstudy.plan import Encoding

TOLERANCE = {Encoding.FLOAT32: 1e-6, Encoding.BFLOAT16: 0.02, Encoding.FLOAT16: 0.002, Encoding.INT8: 0.02}


async def last_model(
    folder: Path, fakes: Any, order: Any = sorted, **transfer: object
) -> tuple[dict[str, Any], str]:
    engine = await fakes.run_study(folder, fakes.plan_of(transfer=transfer), order)
    digest = engine.state.model.digest
    return tensors.read(engine.blobs.path(digest)), digest


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("encoding", list(Encoding))
async def test_the_last_model_is_near_the_exact_one(
    tmp_path: Path, fedstudy_fakes: Any, encoding: Encoding, delta: bool
) -> None:
    exact, digest = await last_model(tmp_path / "exact", fedstudy_fakes)
    found, other = await last_model(tmp_path / "encoded", fedstudy_fakes, encoding=encoding, delta=delta)
    assert found.keys() == exact.keys() and all(array.dtype == np.float32 for array in found.values())
    assert max(np.abs(found[name] - exact[name]).max() for name in exact) <= TOLERANCE[encoding]
    if encoding is not Encoding.FLOAT32:
        assert other != digest


async def test_the_order_of_encoded_answers_does_not_change_a_bit(
    tmp_path: Path, fedstudy_fakes: Any
) -> None:
    digests = set()
    for number in range(3):
        shuffle = random.Random(number)
        order = lambda sites, shuffle=shuffle: shuffle.sample(sites, len(sites))  # noqa: E731
        _, digest = await last_model(
            tmp_path / str(number), fedstudy_fakes, order, encoding="Int8", delta=True
        )
        digests.add(digest)
    assert len(digests) == 1
