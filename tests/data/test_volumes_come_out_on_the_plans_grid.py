"""What the network is given: size, orientation, spacing, grey values, missing sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_for_data as h
import nibabel as nib
import numpy as np
import pytest

from fedstudy.plan import Preprocessing
from fedstudy_trainer.data.volumes import preprocess_case, standardise


def made(root: Path, paths: list[Path | None], **preprocessing: Any) -> np.ndarray:
    settings = {"size": [8, 8, 8], "intensity": "None"} | preprocessing
    return preprocess_case(Preprocessing.model_validate(settings), paths, root)


def marked(corner: tuple[int, int, int], shape: tuple[int, int, int] = (8, 8, 8)) -> np.ndarray:
    values = np.zeros(shape)
    values[corner] = 5
    return values


def place(volume: np.ndarray) -> tuple[int, ...]:
    """Where the largest value is."""
    return tuple(int(i) for i in np.unravel_index(volume.argmax(), volume.shape))


def test_a_missing_sequence_is_a_zero_channel(tmp_path: Path) -> None:
    path = h.write_nifti(tmp_path / "a.nii")
    volume = made(tmp_path, [None, path, None])
    assert (volume.shape, volume.dtype) == ((3, 8, 8, 8), np.float32)
    assert [bool(channel.any()) for channel in volume] == [False, True, False]


def test_small_volumes_are_padded_and_large_ones_cropped_centrally(tmp_path: Path) -> None:
    small = h.write_nifti(tmp_path / "s.nii", marked((1, 1, 1), (4, 4, 4)))
    large = h.write_nifti(tmp_path / "l.nii", marked((5, 5, 5), (12, 12, 12)))
    volume = made(tmp_path, [small, large])
    assert [place(channel) for channel in volume] == [(3, 3, 3), (3, 3, 3)]


def test_axes_are_turned_to_the_plans_orientation(tmp_path: Path) -> None:
    ras = tmp_path / "ras.nii"
    h.write_nifti(ras, marked((1, 2, 3)))
    las = tmp_path / "las.nii"
    nib.save(nib.Nifti1Image(marked((1, 2, 3)).astype(np.float32), np.diag([-1.0, 1, 1, 1])), las)
    assert [place(v) for v in made(tmp_path, [ras, las])] == [(1, 2, 3), (6, 2, 3)]
    assert place(made(tmp_path, [ras], orientation="PIR")[0]) == (5, 4, 1)


def test_sequences_on_different_grids_meet_on_the_plans_spacing(tmp_path: Path) -> None:
    grid = np.linalg.norm(np.indices((16, 16, 16)) - 7.5, axis=0)
    fine = h.write_nifti(tmp_path / "fine.nii", np.where(grid < 6, 100.0, 0.0), spacing=1)
    coarse_grid = np.linalg.norm(np.indices((8, 8, 8)) - 3.5, axis=0)
    coarse = h.write_nifti(tmp_path / "coarse.nii", np.where(coarse_grid < 3, 100.0, 0.0), spacing=2)
    volume = made(tmp_path, [fine, coarse], spacing=[2, 2, 2])
    assert np.abs(volume[0] - volume[1]).mean() < 15


def test_the_foreground_of_sequences_on_one_grid_is_cropped_together(tmp_path: Path) -> None:
    first = h.write_nifti(tmp_path / "a.nii", marked((0, 5, 5), (12, 12, 12)))
    second = h.write_nifti(tmp_path / "b.nii", marked((6, 5, 5), (12, 12, 12)))
    volume = made(tmp_path, [first, second], cropForeground=True)
    a, b = place(volume[0]), place(volume[1])
    assert b[0] - a[0] == 6
    assert (a[1], a[2]) == (b[1], b[2])


def test_the_foreground_of_sequences_on_two_grids_is_cropped_apart(tmp_path: Path) -> None:
    first = h.write_nifti(tmp_path / "a.nii", marked((0, 5, 5), (12, 12, 12)))
    second = h.write_nifti(tmp_path / "b.nii", marked((6, 5, 5), (12, 12, 14)))
    volume = made(tmp_path, [first, second], cropForeground=True)
    assert place(volume[0]) == place(volume[1])


def test_standardised_voxels_have_mean_zero_and_deviation_one_and_background_stays_zero() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random((16, 16, 16)) < 0.5, rng.normal(500, 80, (16, 16, 16)), 0).astype(np.float32)
    spike = np.unravel_index(values.argmax(), values.shape)
    values[spike] = 1e6
    result = standardise(values)
    inside = values != 0
    assert result[~inside].any() == np.False_
    assert result[inside].mean() == pytest.approx(0, abs=1e-5)
    assert result[inside].std() == pytest.approx(1, abs=1e-5)
    assert result[spike] < 4  # clipped to the 99.5 percentile before


def test_standardising_does_not_divide_by_nothing() -> None:
    flat = np.zeros((4, 4, 4), np.float32)
    assert not standardise(flat).any()
    flat[1] = 3
    assert np.isfinite(standardise(flat)).all()
