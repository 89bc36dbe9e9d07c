"""Keeps preprocessed volumes on scratch, one packed .npy file for each set of cases, and gives them out memory-mapped.

A file's name is the hash of all that its content depends on: the transforms and, for each image, path, size and time of
change. A process that needs a file holds its lock while it writes `<key>.partial`, and renames at the end; so a second process waits and
finds the file done, and what a killed process leaves is overwritten. Space is reserved before the first volume is made: a full disk
turns the cache off with one warning, and the volumes are held in memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedstudy.logs import log
from fedstudy.plan import Preprocessing
from fedstudy_trainer.data.volumes import TRANSFORMS_VERSION, preprocess_case

CasePaths = Sequence[Path | None]

_LOGGER = logging.getLogger(__name__)


class VolumeCache:
    """Preprocessed volumes of a dataset.

    Args:
        preprocessing: what is done to each image.
        channels: images of a case, C.
        root: the dataset's folder.
        scratch: where to keep files; None holds everything in memory.
    """

    def __init__(self, preprocessing: Preprocessing, channels: int, root: Path, scratch: Path | None) -> None:
        self._preprocessing = preprocessing
        self._volume_shape = (channels, *(preprocessing.size or ()))
        self._root = root
        self._folder = None if scratch is None else scratch / "volumes"

    def volumes(self, cases: Sequence[CasePaths]) -> NDArray[np.float32]:
        """The cases' volumes, [n, C, X, Y, Z] float32; memory-mapped and read-only where scratch allows.

        Raises:
            DataError: an image cannot be used.
        """
        if self._folder is not None and cases:
            try:
                return self._from_disk(self._folder, cases)
            except OSError as error:
                self._folder = None
                log(
                    _LOGGER,
                    logging.WARNING,
                    "volume cache is off, volumes are held in memory",
                    reason=str(error),
                )
        result = np.empty((len(cases), *self._volume_shape), dtype=np.float32)
        for index, volume in enumerate(self._make(cases)):
            result[index] = volume
        return result

    def _make(self, cases: Sequence[CasePaths]) -> Iterator[NDArray[np.float32]]:
        return (preprocess_case(self._preprocessing, paths, self._root) for paths in cases)

    def _from_disk(self, folder: Path, cases: Sequence[CasePaths]) -> NDArray[np.float32]:
        shape = (len(cases), *self._volume_shape)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._key(cases)}.npy"
        found = _open(path, shape)
        if found is not None:
            return found
        with _locked(path.with_suffix(".lock")):
            found = _open(path, shape)  # another process may have been faster
            if found is not None:
                return found
            partial = path.with_suffix(".partial")
            try:
                with partial.open("wb") as file:
                    _write(file, shape, self._make(cases))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        found = _open(path, shape)
        if found is None:
            raise OSError(f"{path} is not what was written")
        return found

    def _key(self, cases: Sequence[CasePaths]) -> str:
        facts = {
            "version": TRANSFORMS_VERSION,
            "preprocessing": self._preprocessing.model_dump(mode="json"),
            "shape": self._volume_shape,
            "cases": [[self._facts(path) for path in paths] for paths in cases],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _facts(self, path: Path | None) -> list[str | int] | None:
        if path is None:
            return None
        found = path.stat()
        return [path.relative_to(self._root).as_posix(), found.st_size, found.st_mtime_ns]


def _open(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The array in a file; None if there is none, or a damaged one."""
    try:
        array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None


def _write(file: BinaryIO, shape: tuple[int, ...], volumes: Iterator[NDArray[np.float32]]) -> None:
    """An array in the .npy format, volume by volume, on disk when this returns.

    Written, not mapped: a full disk is then an OSError and not a bus error.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    if hasattr(os, "posix_fallocate"):  # not on every system
        os.posix_fallocate(file.fileno(), 0, file.tell() + 4 * int(np.prod(shape)))
    for volume in volumes:
        file.write(np.ascontiguousarray(volume, dtype="<f4").tobytes())
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when the process ends in any way."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
