"""Reads one NIfTI file whole, and says in plain words why it cannot be used."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from fedstudy.errors import DataError
from fedstudy_trainer.data.findings import shape_text

_REMEDY = "Replace the file, or remove it: a case may lack an image, but not have a wrong one."


@dataclass(frozen=True)
class Volume:
    """A volume as stored.

    Attributes:
        values: [X, Y, Z] float32, finite, not all the same.
        affine: [4, 4] float64, from voxels to mm in RAS+.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]


def read_volume(path: Path, name: str) -> Volume:
    """The volume in a file.

    Args:
        path: a NIfTI file.
        name: how messages call it; its path within the dataset.

    Raises:
        DataError: missing, truncated, not an image, not 3-D, not numbers, NaN or infinity, all voxels the same, no orientation.
    """
    values, affine = _read(path, name)
    if values.ndim != 3:
        raise _unfit(name, "3 dimensions", f"{values.ndim} ({shape_text(values.shape)})")
    if values.dtype.kind not in "iufb":
        raise _unfit(name, "one number for each voxel", f"values of type {values.dtype}")
    if values.size == 0:
        raise _unfit(name, "voxels", f"none ({shape_text(values.shape)})")
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise _unfit(name, "finite numbers", f"NaN or infinity in {wrong} of {values.size} voxels")
    if values.min() == values.max():
        raise _unfit(name, "an image", f"the value {float(values.flat[0]):g} in every voxel")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise _unfit(name, "an affine matrix that can be inverted", "one that cannot")
    return Volume(values.astype(np.float32), affine)


def _read(path: Path, name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    try:
        image = nib.load(path)
        if not isinstance(image, SpatialImage) or image.affine is None:
            raise _unfit(name, "a NIfTI volume", "another kind of file")
        return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except FileNotFoundError as error:
        raise _unfit(name, "a file", "none") from error
    except (EOFError, zlib.error) as error:
        raise _unfit(name, "a whole compressed NIfTI file", "one that is truncated or damaged") from error
    except (ImageFileError, HeaderDataError, OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0].replace(str(path), name)
        raise _unfit(name, "a whole NIfTI file", f"one that cannot be read ({reason})") from error


def _unfit(name: str, expected: str, found: str) -> DataError:
    return DataError(f"{name}: expected {expected}, found {found}.", _REMEDY)
