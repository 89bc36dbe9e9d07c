"""Order, length, content and augmentation of batches."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import helpers_for_data as h
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedstudy.errors import DataError
from fedstudy.plan import Augmentation, Preprocessing
from fedstudy_trainer.data.augment import augmented
from fedstudy_trainer.data.batches import Batch, ahead, batch_order
from fedstudy_trainer.data.config import DatasetConfig
from fedstudy_trainer.data.dataset import SiteData, load

BIDS = DatasetConfig.model_validate({"format": "BIDS"})
EVERYTHING = Augmentation(
    flip_probability=0.5,
    rotation_degrees=10,
    scale=0.1,
    intensity_scale=0.1,
    intensity_shift=0.1,
    noise=0.1,
    drop_image_probability=0.3,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteData:
    root = h.write_bids(tmp_path_factory.mktemp("data"), 20, ("t1", "t2"))
    return load(BIDS, root, h.image_plan(("t1", "t2")), tmp_path_factory.mktemp("scratch"))


def bits(batches: list[Batch]) -> list[bytes]:
    return [
        b"".join(x.numpy().tobytes() for x in (b.indices, b.images, b.presence, b.labels) if x is not None)
        for b in batches
    ]


@given(
    cases=st.integers(1, 40),
    size=st.integers(0, 45),
    seed=st.integers(0, 2**31 - 1),
    epochs=st.integers(1, 4),
)
def test_every_epoch_visits_each_case_once(cases: int, size: int, seed: int, epochs: int) -> None:
    batches = list(batch_order(cases, size, seed, epochs=epochs, steps=None, shuffle=True))
    assert Counter(np.concatenate(batches).tolist()) == dict.fromkeys(range(cases), epochs)
    assert max(len(b) for b in batches) <= (size or cases)
    again = list(batch_order(cases, size, seed, epochs=epochs, steps=None, shuffle=True))
    assert [a.tolist() for a in again] == [b.tolist() for b in batches]


@given(cases=st.integers(1, 20), size=st.integers(0, 25), steps=st.integers(0, 30))
def test_steps_go_on_where_epochs_end(cases: int, size: int, steps: int) -> None:
    batches = list(batch_order(cases, size, 1, epochs=None, steps=steps, shuffle=True))
    longer = list(batch_order(cases, size, 1, epochs=31, steps=None, shuffle=True))
    assert len(batches) == steps
    assert [a.tolist() for a in batches] == [b.tolist() for b in longer[:steps]]


def test_every_epoch_has_an_order_of_its_own() -> None:
    first, second = batch_order(30, 0, 1, epochs=2, steps=None, shuffle=True)
    assert first.tolist() != second.tolist()


def test_no_cases_give_no_batch_even_when_steps_are_asked_for() -> None:
    assert list(batch_order(0, 4, 0, epochs=None, steps=3, shuffle=True)) == []


def test_batches_hold_the_splits_rows(site: SiteData) -> None:
    data = site.cases("training")
    assert data.images is not None
    for batch in site.batches("training", 4, seed=1):
        indices = batch.indices.numpy()
        assert batch.images is not None
        assert batch.labels is not None
        np.testing.assert_array_equal(batch.images.numpy(), data.images[indices])
        np.testing.assert_array_equal(batch.labels.numpy(), data.labels[indices])
        assert (batch.covariates, batch.times, batch.events) == (None, None, None)


def test_without_shuffling_the_order_is_the_tables(site: SiteData) -> None:
    batches = list(site.batches("test", 2, seed=5, shuffle=False))
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(5))
    assert [len(b) for b in batches] == [2, 2, 1]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(site: SiteData) -> None:
    def run(seed: int) -> list[bytes]:
        return bits(list(site.batches("training", 4, seed, epochs=2, augment=EVERYTHING)))

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_augmentation_that_is_all_off_changes_nothing(site: SiteData) -> None:
    off = list(site.batches("training", 4, 1, augment=Augmentation()))
    assert bits(off) == bits(list(site.batches("training", 4, 1)))


def test_stopping_early_ends_the_background_thread(site: SiteData) -> None:
    batches = site.batches("training", 2, 0, steps=100, augment=EVERYTHING)
    next(batches)
    assert any(thread.name.startswith("next-batch") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("next-batch") for thread in threading.enumerate())


def test_an_error_in_the_background_reaches_the_caller() -> None:
    def fail() -> Batch:
        raise DataError("The disk went away.")

    with pytest.raises(DataError, match="went away"):
        next(ahead(iter([fail])))


IMAGES = torch.rand(6, 3, 8, 10, 12, generator=torch.Generator().manual_seed(0)) + 0.5
PRESENT = torch.ones(6, 3)
GRID = Preprocessing(size=[8, 10, 12])


@pytest.mark.parametrize(("orientation", "dimension"), [("RAS", 2), ("PLI", 3), ("SAL", 4)])
def test_a_flip_mirrors_left_and_right_whatever_the_orientation(orientation: str, dimension: int) -> None:
    grid = Preprocessing(size=[8, 10, 12], orientation=orientation)
    images, _ = augmented(IMAGES, PRESENT, Augmentation(flip_probability=1), grid, (0, 0))
    assert torch.equal(images, IMAGES.flip(dimension))


@given(seed=st.integers(0, 1000), probability=st.sampled_from([0.3, 0.9, 1.0]))
def test_dropping_blanks_images_but_never_all_that_a_case_has(seed: int, probability: float) -> None:
    presence = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 0]]).float()
    before = IMAGES * presence[:, :, None, None, None]
    images, kept = augmented(
        before, presence, Augmentation(drop_image_probability=probability), GRID, (seed, 0)
    )
    assert (kept <= presence).all()
    assert (kept.sum(dim=1) >= 1).all()
    assert torch.equal(images.flatten(2).any(dim=2), kept.bool())
    if probability == 1:
        assert (kept.sum(dim=1) == 1).all()


def test_grey_values_change_within_bounds_and_the_background_stays_zero() -> None:
    images = IMAGES.clone()
    images[:, :, :2] = 0
    images[:, 1] = 0
    bounds = Augmentation(intensity_scale=0.1, intensity_shift=0.2)
    changed, _ = augmented(images, PRESENT, bounds, GRID, (0, 0))
    assert not changed[:, :, :2].any()
    assert not changed[:, 1].any()
    assert not torch.equal(changed, images)
    assert ((changed - images).abs() <= 0.1 * images + 0.2 + 1e-6).all()


def test_a_movement_keeps_the_centre_and_rotates_without_shearing() -> None:
    ball = torch.zeros(16, 1, 12, 16, 20)
    axes = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in ball.shape[2:]), indexing="ij")
    radius = torch.sqrt(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2)
    ball[:] = torch.clamp(5 - radius, min=0)
    still = Preprocessing(size=[12, 16, 20])
    turned, _ = augmented(ball, torch.ones(16, 1), Augmentation(rotation_degrees=90), still, (2, 0))
    assert (turned - ball).abs().max() < 0.6  # a ball in voxels of one size looks the same from everywhere
    zoomed, _ = augmented(ball, torch.ones(16, 1), Augmentation(scale=0.5), still, (2, 0))
    assert (zoomed - ball).abs().max() > 1


def test_the_noise_of_one_step_is_not_that_of_the_next() -> None:
    first, _ = augmented(IMAGES, PRESENT, Augmentation(noise=0.1), GRID, (0, 0))
    second, _ = augmented(IMAGES, PRESENT, Augmentation(noise=0.1), GRID, (0, 1))
    assert (first - IMAGES).std() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(first, second)


def test_batches_of_a_table_have_no_images(tmp_path: Path) -> None:
    h.write_table(tmp_path, h.people(8))
    site = load(DatasetConfig(), tmp_path, h.plan(task=h.task(survival=True)), None)
    (batch,) = site.batches("training", 0, seed=0, shuffle=False)
    assert (batch.images, batch.presence, batch.labels) == (None, None, None)
    assert batch.covariates is not None
    assert (batch.covariates.shape, batch.covariates.dtype) == ((4, 2), torch.float32)
    assert batch.times is not None
    assert batch.times.tolist() == [0.5, 1.5, 4.5, 5.5]
    assert batch.events is not None
    assert batch.events.tolist() == [0, 1, 0, 1]
