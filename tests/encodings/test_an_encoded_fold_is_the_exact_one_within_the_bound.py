"""Folds of encoded answers: near the exact fold, the same bits in any order, in memory that no model and no site adds to."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedstudy import tensors
from fedstudy.aggregator import blocks
from fedstudy.aggregator.algorithms import Share, Update
from fedstudy.aggregator.algorithms.cyclical import CyclicalWeightTransfer
from fedstudy.aggregator.algorithms.fedavg import weighted_mean
from fedstudy.aggregator.algorithms.robust import fold_sorted
from fedstudy.encodings import encode, error_bound
from fedstudy.plan import Encoding, Transfer
from fedstudy.tensors import Array, TensorFile

TRANSFERS = [Transfer(encoding=encoding, delta=delta) for encoding in Encoding for delta in (False, True)]
WEIGHTS = (0.5, 0.3, 0.2)


def cohort(numbers: int, sites: int) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """A model and what each site trained from it."""
    random = np.random.default_rng(4)
    model = {
        "constant.mean": np.ones(2, np.float32),
        "w": random.standard_normal((numbers // 4, 4), dtype=np.float32),
    }
    return model, [
        {"w": model["w"] + np.float32(0.1) * random.standard_normal(model["w"].shape, dtype=np.float32)}
        for _ in range(sites)
    ]


def opened(
    folder: Path,
    model: dict[str, Array],
    sites: Sequence[dict[str, Array]],
    transfer: Transfer,
    weights: Sequence[float],
) -> tuple[TensorFile, list[Update]]:
    """The model's file and the updates, as the aggregator has them when it folds."""
    tensors.write(folder / "model", model)
    w = TensorFile(folder / "model")
    updates = []
    for k, trained in enumerate(sites):
        path = folder / f"{k}"
        tensors.write(path, encode(trained, model, transfer))
        base = w if transfer.delta else None
        updates.append(
            Update(f"s{k}", TensorFile(path), weights[k], Share(f"s{k}", 1, 0), transfer.encoding, base)
        )
    return w, updates


@pytest.mark.parametrize("transfer", TRANSFERS, ids=str)
@pytest.mark.parametrize("block", [300, 1 << 20])
def test_the_weighted_mean_is_within_the_weighted_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: Transfer, block: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    model, sites = cohort(4000, 3)
    w, updates = opened(tmp_path, model, sites, transfer, WEIGHTS)
    weighted_mean(w, updates, tmp_path / "out", 1.0)
    exact = sum(p * site["w"].astype(np.float64) for p, site in zip(WEIGHTS, sites, strict=True))
    sent = [site["w"] - model["w"] if transfer.delta else site["w"] for site in sites]
    bound = sum(
        p * (error_bound(x, transfer.encoding) + 2.0**-24 * np.abs(x))
        for p, x in zip(WEIGHTS, sent, strict=True)
    )
    found = tensors.read(tmp_path / "out")["w"]
    assert (np.abs(found - exact) <= bound + 2.0**-24 * np.abs(exact)).all()


@pytest.mark.parametrize("transfer", TRANSFERS, ids=str)
def test_blocks_of_any_size_fold_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: Transfer
) -> None:
    model, sites = cohort(4000, 3)
    w, updates = opened(tmp_path, model, sites, transfer, WEIGHTS)
    digests = set()
    for block in (100, 256, 1000, 1 << 20):
        monkeypatch.setattr(blocks, "BLOCK", block)
        digests.add(weighted_mean(w, updates, tmp_path / "out", 1.0).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("transfer", TRANSFERS, ids=str)
def test_the_ring_hands_on_what_the_site_sent(tmp_path: Path, transfer: Transfer) -> None:
    model, sites = cohort(4000, 1)
    w, updates = opened(tmp_path, model, sites, transfer, (1.0,))
    CyclicalWeightTransfer.fold(object.__new__(CyclicalWeightTransfer), w, updates, tmp_path / "out")
    found = tensors.read(tmp_path / "out")["w"]
    sent = sites[0]["w"] - model["w"] if transfer.delta else sites[0]["w"]
    bound = error_bound(sent, transfer.encoding) + 2.0**-23 * np.abs(sites[0]["w"])
    assert (np.abs(found - sites[0]["w"].astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("rule", ["mean", "median"])
@pytest.mark.parametrize(("numbers", "count"), [(3_000_000, 2), (60_000, 48)])
def test_memory_depends_neither_on_the_model_nor_on_the_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, numbers: int, count: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 12)
    monkeypatch.setattr(blocks, "_AHEAD", 0)  # how many batches wait for the disk is a matter of timing
    model, sites = cohort(numbers, count)
    w, updates = opened(
        tmp_path, model, sites, Transfer(encoding=Encoding.INT8, delta=True), [1 / count] * count
    )
    del model, sites
    tracemalloc.start()
    if rule == "mean":
        weighted_mean(w, updates, tmp_path / "out", 1.0)
    else:
        fold_sorted(w, updates, tmp_path / "out", lambda values: values[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_400_000, "one update alone, or a block of each site, would be 3,000,000 bytes"
