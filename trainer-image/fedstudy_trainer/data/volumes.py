"""Turns a case's NIfTI files into the network's input, as the plan's preprocessing says; the same at every site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForeground, Orientation, ResizeWithPadOrCrop, Spacing
from numpy.typing import NDArray

from fedstudy.plan import Intensity, Preprocessing
from fedstudy_trainer.data.nifti import Volume, read_volume

TRANSFORMS_VERSION = 1
"""Part of the cache's key: raise it when a change here changes the voxels that come out."""

_PERCENTILES = (0.5, 99.5)


def preprocess_case(
    preprocessing: Preprocessing, paths: Sequence[Path | None], root: Path
) -> NDArray[np.float32]:
    """One case's volumes, [C, *size] float32; zeros where a path is None.

    Each image is oriented and resampled on a grid of its own (plan.spacing) and centred, so the sequences of a patient may
    be stored on different grids. Where the grids agree, the foreground to crop to is that of all sequences together.

    Raises:
        DataError: a file cannot be used.
    """
    size = tuple(preprocessing.size or ())
    result = np.zeros((len(paths), *size), dtype=np.float32)
    place = _placement(preprocessing)
    present = [(channel, path) for channel, path in enumerate(paths) if path is not None]
    placed = [place(read_volume(path, path.relative_to(root).as_posix())) for _, path in present]
    fit = ResizeWithPadOrCrop(spatial_size=size, mode="constant")
    for (channel, _), volume in zip(present, _cropped(preprocessing, placed), strict=True):
        values = np.asarray(fit(volume)[0], dtype=np.float32)
        result[channel] = standardise(values) if preprocessing.intensity is Intensity.Z_SCORE else values
    return result


def standardise(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clip to the 0.5 and 99.5 percentiles of the non-zero voxels, then give these mean 0 and deviation 1; zeros stay zero."""
    inside = values != 0
    if not inside.any():
        return values
    voxels = values[inside].astype(np.float64)
    voxels = np.clip(voxels, *np.percentile(voxels, _PERCENTILES))
    deviation = voxels.std()
    result = np.zeros_like(values)
    result[inside] = (voxels - voxels.mean()) / (deviation if deviation > 0 else 1.0)
    return result


def _placement(preprocessing: Preprocessing) -> Callable[[Volume], torch.Tensor]:
    """A function from a stored volume to [1, X, Y, Z], oriented and resampled."""
    steps = [Orientation(axcodes=preprocessing.orientation, labels=None)]
    if preprocessing.spacing is not None:
        steps.append(Spacing(pixdim=preprocessing.spacing, mode="bilinear", padding_mode="border"))
    chain = Compose(steps)

    def place(volume: Volume) -> torch.Tensor:
        tensor = MetaTensor(torch.from_numpy(volume.values[None]), affine=torch.from_numpy(volume.affine))
        placed: torch.Tensor = chain(tensor).as_tensor()
        return placed

    return place


def _cropped(preprocessing: Preprocessing, volumes: list[torch.Tensor]) -> list[torch.Tensor]:
    """The volumes cropped to their non-zero voxels: to one common box if they have one shape, else each to its own."""
    if not preprocessing.crop_foreground or not volumes:
        return volumes
    crop = CropForeground(select_fn=lambda x: x != 0, allow_smaller=True)
    if len({volume.shape for volume in volumes}) == 1:
        return [volume[None] for volume in crop(torch.cat(volumes)).as_tensor()]
    return [crop(volume).as_tensor() for volume in volumes]
