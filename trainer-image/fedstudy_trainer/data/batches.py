"""Cuts a split into batches of torch tensors, in an order that only the seed decides; the next batch is made while one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """b cases on the CPU. What a plan does not have is None.

    Attributes:
        indices: [b] int64, places in the split.
        images: [b, C, X, Y, Z] float32; zeros where a case lacks an image.
        presence: [b, C] float32, 1 where the image is there.
        covariates: [b, P] float32, raw, NaN where missing.
        labels: [b] int64 (Classification).
        times: [b] float32, positive (Survival).
        events: [b] int64, 1 seen, 0 censored (Survival).
    """

    indices: Tensor
    images: Tensor | None
    presence: Tensor | None
    covariates: Tensor | None
    labels: Tensor | None
    times: Tensor | None
    events: Tensor | None

    def __len__(self) -> int:
        return int(self.indices.shape[0])


def batch_order(
    cases: int, batch_size: int, seed: int, *, epochs: int | None, steps: int | None, shuffle: bool
) -> Iterator[NDArray[np.int64]]:
    """The indices of each batch. Every epoch visits each case once, in an order drawn from (seed, epoch).

    Args:
        cases: how many there are; 0 gives no batch.
        batch_size: cases in a batch; 0 means all. The last batch of an epoch may be smaller.
        epochs: passes over the cases, unless `steps` is given; None means 1.
        steps: number of batches; passes are repeated until there are so many.
        shuffle: False gives the split's own order.
    """
    if steps is not None:
        endless = batch_order(cases, batch_size, seed, epochs=2**62, steps=None, shuffle=shuffle)
        yield from islice(endless, steps)
        return
    size = batch_size or cases
    if cases == 0:
        return
    epoch = 0
    while epoch < (1 if epochs is None else epochs):
        order = np.arange(cases, dtype=np.int64)
        if shuffle:
            order = np.random.default_rng([seed, epoch]).permutation(order)
        for start in range(0, cases, size):
            yield order[start : start + size]
        epoch += 1


def ahead(makers: Iterator[Callable[[], Batch]]) -> Iterator[Batch]:
    """What the makers make, in order; each is made in a background thread while the caller uses the one before.

    The thread ends with the iterator, also when the caller stops early. An error is raised where its batch would have come.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as pool:
        first = next(makers, None)
        coming = pool.submit(first) if first is not None else None
        while coming is not None:
            batch = coming.result()
            following = next(makers, None)
            coming = pool.submit(following) if following is not None else None
            yield batch


def to_tensor(values: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    """A tensor of its own memory."""
    return torch.tensor(values, dtype=dtype)
