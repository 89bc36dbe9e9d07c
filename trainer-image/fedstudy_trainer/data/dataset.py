"""A site's data, ready for training: the splits of a dataset as arrays and as batches.

Memory: a case of four volumes of 48³ voxels is 1.7 MB, so a few hundred cases would fill a small machine. The
preprocessed volumes therefore stay on scratch, and `images` is a view of the file: only what is read is in memory, and the
kernel may drop it again. Only where scratch is full or not there are they held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedstudy.errors import DataError
from fedstudy.plan import Augmentation, StudyPlan
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.images import ImagePaths, locate_images
from fedstudy_trainer.data.splits import Split, parse_split
from fedstudy_trainer.data.table import Cases, read_cases

if TYPE_CHECKING:  # torch takes seconds to import; the statistics of a table need none
    from fedstudy_trainer.data.batches import Batch
    from fedstudy_trainer.data.cache import VolumeCache


@dataclass(frozen=True)
class SplitData:
    """The n cases of a split that can be learnt from, in the table's order. Arrays are read-only by custom.

    Attributes:
        images: [n, C, X, Y, Z] float32, normalised, channels in plan order; zeros where missing. None: no images in the plan.
        presence: [n, C] float32, 1 where the image is there; C is 0 without images.
        covariates: [n, P] float32, raw, NaN where missing; P is 0 without covariates.
        labels: [n] int64, index of the class (Classification), else -1.
        times: [n] float64, positive (Survival), else NaN.
        events: [n] int64, 1 seen, 0 censored (Survival), else -1.
    """

    images: NDArray[np.float32] | None
    presence: NDArray[np.float32]
    covariates: NDArray[np.float32]
    labels: NDArray[np.int64]
    times: NDArray[np.float64]
    events: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.labels.shape[0])


class SiteData:
    """A dataset under a plan. Volumes of a split are preprocessed when first asked for; `load` makes one."""

    def __init__(
        self,
        plan: StudyPlan,
        cases: Cases,
        images: ImagePaths,
        root: Path,
        scratch: Path | None,
    ) -> None:
        self.plan = plan
        self.covariate_names = cases.covariate_names
        self._cases = cases
        self._images = images
        self._root = root
        self._scratch = scratch
        self._cache: VolumeCache | None = None
        self._splits: dict[Split, SplitData] = {}

    def cases(self, split: Split | str) -> SplitData:
        """The cases of a split (training, validation or test); may be none.

        Raises:
            DataError: an image cannot be read.
        """
        split = _split(split)
        if split not in self._splits:
            self._splits[split] = self._make(split)
        return self._splits[split]

    def batches(
        self,
        split: Split | str,
        batch_size: int,
        seed: int,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        augment: Augmentation | None = None,
        shuffle: bool = True,
        skip: int = 0,
    ) -> Iterator[Batch]:
        """Batches of a split: the same bits for the same arguments, on any number of threads.

        Args:
            split: training, validation or test.
            batch_size: cases in a batch; 0 means all. The last batch of an epoch may be smaller.
            seed: decides order and augmentation; 0 or more.
            epochs: passes over the split; 1 if neither this nor `steps` is given.
            steps: number of batches instead, over as many passes as it takes.
            augment: random changes of the images; None for evaluation.
            shuffle: False for the table's order.
            skip: leave out so many of the first batches; the others stay what they were.
        """
        from fedstudy_trainer.data.batches import ahead, batch_order

        data = self.cases(split)
        order = batch_order(len(data), batch_size, seed, epochs=epochs, steps=steps, shuffle=shuffle)
        makers = (
            partial(self._batch, data, indices, augment, (seed, step))
            for step, indices in islice(enumerate(order), skip, None)
        )
        if data.images is None or augment is None:  # a copy at most: a thread would cost more than it saves
            return (make() for make in makers)
        return ahead(makers)

    def _make(self, split: Split) -> SplitData:
        cases, plan = self._cases, self.plan
        kept = cases.has_target() & cases.in_split(split)
        if plan.task.images:
            kept &= np.array([any(paths) for paths in self._images], dtype=np.bool_)
        chosen = np.flatnonzero(kept)
        paths = tuple(self._images[index] for index in chosen)
        present = [[path is not None for path in row] for row in paths]
        return SplitData(
            images=self._volumes(paths) if plan.task.images else None,
            presence=np.array(present, dtype=np.float32).reshape(len(chosen), len(plan.task.images)),
            covariates=cases.covariates[chosen].astype(np.float32),
            labels=cases.labels[chosen],
            times=cases.times[chosen],
            events=cases.events[chosen],
        )

    def _volumes(self, paths: ImagePaths) -> NDArray[np.float32]:
        from fedstudy_trainer.data.cache import VolumeCache

        if self._cache is None:
            images = self.plan.task.images
            self._cache = VolumeCache(self.plan.preprocessing, len(images), self._root, self._scratch)
        return self._cache.volumes(paths)

    def _batch(
        self,
        data: SplitData,
        indices: NDArray[np.int64],
        augment: Augmentation | None,
        seed: tuple[int, int],
    ) -> Batch:
        import torch

        from fedstudy_trainer.data.batches import Batch, to_tensor

        classification = self.plan.task.target.label is not None
        images, presence = None, None
        if data.images is not None:
            if isinstance(data.images, np.ndarray):
                # One copy, into torch's own memory: numpy aligns to 16 bytes, where convolutions are slower.
                images = torch.empty((len(indices), *data.images.shape[1:]))
                np.take(np.asarray(data.images), indices, axis=0, out=images.numpy(), mode="clip")
            else:  # of several sites, joined as they are read
                images = to_tensor(data.images[indices], torch.float32)
            presence = to_tensor(data.presence[indices], torch.float32)
            if augment is not None:
                from fedstudy_trainer.data.augment import augmented

                images, presence = augmented(images, presence, augment, self.plan.preprocessing, seed)
        return Batch(
            indices=to_tensor(indices, torch.int64),
            images=images,
            presence=presence,
            covariates=to_tensor(data.covariates[indices], torch.float32) if self.covariate_names else None,
            labels=to_tensor(data.labels[indices], torch.int64) if classification else None,
            times=None if classification else to_tensor(data.times[indices], torch.float32),
            events=None if classification else to_tensor(data.events[indices], torch.int64),
        )


def load(config: DatasetConfig, root: Path, plan: StudyPlan, scratch: Path | None) -> SiteData:
    """A dataset under a plan. Reads the table and finds the images; volumes are read later, when a split is asked for.

    Args:
        config: the dataset's description.
        root: the dataset's folder, $FEDSTUDY_DATA; only read.
        plan: the study's plan.
        scratch: folder for preprocessed volumes, $FEDSTUDY_SCRATCH; None keeps them in memory.

    Raises:
        DataError: the table or the images' places do not fit the plan.
    """
    cases = read_cases(config, root, plan)
    images = locate_images(config, root, plan.task.images, cases)
    if plan.task.images and not any(any(paths) for paths in images):
        raise DataError(
            f"None of the images {', '.join(plan.task.images)} is there for any case of {cases.table.name}.",
            "Check the dataset's images: the templates, and where the files lie.",
        )
    return SiteData(plan, cases, images, root, scratch)


def _split(split: Split | str) -> Split:
    known = parse_split(split)
    if known is None:
        raise ValueError(f"{split} is not a split")
    return known
