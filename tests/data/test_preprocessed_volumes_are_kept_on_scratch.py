"""The cache: made once, made anew when something changed, and never a reason to fail."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import helpers_for_data as h
import numpy as np
import pytest

from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import SplitData, load

BIDS = DatasetConfig.model_validate({"format": "BIDS"})


def training(root: Path, scratch: Path | None, **preprocessing: object) -> SplitData:
    return load(BIDS, root, h.image_plan(("t1", "t2"), **preprocessing), scratch).cases("training")


def files(scratch: Path) -> list[Path]:
    return sorted(scratch.glob("volumes/*.npy"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return h.write_bids(tmp_path / "data", 8, ("t1", "t2"))


def test_volumes_are_memory_mapped_and_equal_those_made_in_memory(data: Path, tmp_path: Path) -> None:
    (data / "sub-p001/anat/sub-p001_T2w.nii.gz").unlink()
    kept, made = training(data, tmp_path), training(data, None)
    assert isinstance(kept.images, np.memmap)
    assert kept.images.shape == (4, 2, 8, 8, 8)
    np.testing.assert_array_equal(kept.images, made.images)
    assert kept.presence.tolist() == [[1, 1], [1, 0], [1, 1], [1, 1]]


def test_a_second_load_reads_the_file_of_the_first(data: Path, tmp_path: Path) -> None:
    training(data, tmp_path)
    (file,) = files(tmp_path)
    before = file.stat()
    training(data, tmp_path)
    assert files(tmp_path) == [file]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_image_or_plan_makes_a_new_file(data: Path, tmp_path: Path) -> None:
    first = training(data, tmp_path).images
    h.write_nifti(data / "sub-p000/anat/sub-p000_T1w.nii.gz", seed=999)
    second = training(data, tmp_path).images
    assert first is not None
    assert second is not None
    assert not np.array_equal(first[0, 0], second[0, 0])
    np.testing.assert_array_equal(first[1:], second[1:])
    training(data, tmp_path, intensity="None")
    assert len(files(tmp_path)) == 3


def test_a_damaged_file_is_made_anew(data: Path, tmp_path: Path) -> None:
    expected = np.array(training(data, tmp_path).images)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(training(data, tmp_path).images, expected)


def test_what_a_killed_process_left_is_overwritten(data: Path, tmp_path: Path) -> None:
    expected = np.array(training(data, tmp_path).images)
    (file,) = files(tmp_path)
    file.rename(file.with_suffix(".partial"))
    np.testing.assert_array_equal(training(data, tmp_path).images, expected)
    assert not file.with_suffix(".partial").exists()


def _load(root: Path, scratch: Path) -> None:
    training(root, scratch)


def test_two_processes_at_once_leave_one_whole_file(data: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_load, args=(data, tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(files(tmp_path)) == 1
    np.testing.assert_array_equal(training(data, tmp_path).images, training(data, None).images)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of this process cannot grow beyond 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("fallocate", [True, False])
def test_a_full_disk_turns_the_cache_off_with_one_warning(
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fallocate: bool,
) -> None:
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    site = load(BIDS, data, h.image_plan(("t1", "t2")), tmp_path)
    with caplog.at_level(logging.WARNING):
        found = [site.cases(split).images for split in ("training", "validation", "test")]
    assert [len(images) for images in found if images is not None] == [4, 2, 2]
    assert [record.message for record in caplog.records] == [
        "volume cache is off, volumes are held in memory"
    ]
    assert not list(tmp_path.glob("volumes/*.[np]*"))
    np.testing.assert_array_equal(found[0], training(data, None).images)


def test_a_scratch_that_cannot_be_written_turns_the_cache_off(data: Path, tmp_path: Path) -> None:
    (tmp_path / "volumes").write_text("a file where the folder should be")
    assert isinstance(training(data, tmp_path).images, np.ndarray)


def test_an_empty_split_has_no_volumes(tmp_path: Path) -> None:
    root = h.write_bids(tmp_path / "data", 4, ("t1", "t2"), split=["train"] * 4)
    data = load(BIDS, root, h.image_plan(("t1", "t2")), tmp_path).cases("test")
    assert data.images is not None
    assert (len(data), data.images.shape, data.presence.shape) == (0, (0, 2, 8, 8, 8), (0, 2))
