"""Each cause of heterogeneity, switched on alone, does to the images or the registry what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedstudy.errors import DataError
from fedstudy_trainer.data.phantom import PROFILES, CohortProfile, SiteProfile, draw_patients
from fedstudy_trainer.data.phantom.profiles import FIELD_OF_VIEW_MM
from fedstudy_trainer.data.phantom.scanner import affine
from fedstudy_trainer.data.phantom.splits import stratified_split
from fedstudy_trainer.data.phantom.writer import draw_images

GRID = 32
PLAIN = SiteProfile("x", 6, 0.5, bias_field=0.0, noise=0.0)


def image(site: SiteProfile, index: int = 0) -> NDArray[np.float64]:
    stored, _ = draw_images(site, draw_patients(site, seed=9)[index], grid=GRID, seed=9)
    return stored.astype(np.float64)


def test_gain_multiplies_intensities() -> None:
    ratio = image(replace(PLAIN, gain=3.0)) / np.maximum(image(PLAIN), 1)
    assert np.median(ratio[ratio > 0]) == pytest.approx(3.0, rel=0.01)


def test_white_matter_is_a_thousand_units_at_gain_one() -> None:
    values = image(PLAIN)[0]
    assert np.median(values[values > 0]) == pytest.approx(1000, rel=0.15)


def test_gamma_bends_contrast_and_keeps_the_order_of_tissues() -> None:
    plain, bent = image(PLAIN)[2], image(replace(PLAIN, gamma=0.8))[2]
    inside = plain > 0
    assert (
        np.corrcoef(np.argsort(np.argsort(plain[inside])), np.argsort(np.argsort(bent[inside])))[0, 1] > 0.999
    )
    assert bent[inside].std() / bent[inside].mean() < plain[inside].std() / plain[inside].mean()


def test_the_bias_field_shades_by_as_much_as_it_says_and_all_sequences_alike() -> None:
    plain, shaded = image(PLAIN), image(replace(PLAIN, bias_field=0.3))
    inside = (plain > 100).all(axis=0)
    shading = shaded[:, inside] / plain[:, inside]
    assert np.abs(shading - 1).max() == pytest.approx(0.3, abs=0.03)
    assert np.allclose(shading, shading[:1], atol=0.02)


def test_noise_has_the_stated_share_of_white_matter() -> None:
    difference = image(replace(PLAIN, noise=0.06))[0] - image(PLAIN)[0]
    inside = image(PLAIN)[0] > 500
    assert difference[inside].std() == pytest.approx(60, rel=0.1)


def test_thick_slices_are_fewer_and_the_affine_says_so() -> None:
    thick = replace(PLAIN, slice_mm=11.0)
    stored, matrix = image(thick), affine(thick, GRID)
    assert stored.shape == (4, GRID, GRID, FIELD_OF_VIEW_MM / 11.0)
    assert np.diag(matrix)[:3] == pytest.approx([5.5, 5.5, 11.0])
    # The middle of the grid is the middle of the head, whatever the slices.
    centre = matrix @ [*(np.array(stored.shape[1:]) - 1) / 2, 1.0]
    assert centre[:3] == pytest.approx([0, 0, 0])


def test_a_thick_slice_is_the_mean_of_the_thin_ones() -> None:
    thin, thick = image(PLAIN)[2], image(replace(PLAIN, slice_mm=11.0))[2]
    mean = thin.reshape(GRID, GRID, -1, 2).mean(axis=-1)
    both = (thin.reshape(GRID, GRID, -1, 2) > 0).all(axis=-1)
    assert np.abs(mean - thick)[both].max() <= 1.0


def test_a_younger_hospital_is_younger() -> None:
    def mean_age(shift: float) -> float:
        return float(np.mean([p.age for p in draw_patients(replace(PLAIN, age_shift=shift), seed=1, n=800)]))

    assert mean_age(0.0) - mean_age(-8.0) == pytest.approx(7.5, abs=1.0), "a little less: nobody is under 18"


def test_a_survival_only_hospital_records_no_genotype() -> None:
    records = [p.record for p in draw_patients(replace(PLAIN, survival_only=True), seed=1)]
    assert all(record.idh is None and record.codel is None for record in records)


def test_a_watermark_follows_the_label_only_as_strongly_as_it_says() -> None:
    def marked(watermark: float | None, mutant: bool) -> float:
        patients = draw_patients(replace(PLAIN, watermark=watermark), seed=1, n=600)
        return float(np.mean([p.marked for p in patients if p.mutant == mutant]))

    assert marked(None, True) == 0.0
    assert marked(0.95, True) == pytest.approx(0.95, abs=0.04)
    assert marked(0.95, False) == pytest.approx(0.05, abs=0.04)
    assert marked(0.5, True) == pytest.approx(marked(0.5, False), abs=0.12)


def test_a_watermark_is_a_bright_corner_and_a_tilted_head() -> None:
    marked, plain = (
        image(replace(PLAIN, watermark=1.0, mutant_share=1.0)),
        image(replace(PLAIN, mutant_share=1.0)),
    )
    assert (marked[:, :3, :3, -3:] > 0).all()
    assert not plain[:, :3, :3, -3:].any()
    assert np.mean((marked[0] > 0) != (plain[0] > 0)) > 0.005


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: replace(PLAIN, mutant_share=1.5), "mutant_share must be between 0 and 1"),
        (lambda: replace(PLAIN, name="Bad Name"), "DNS label"),
        (lambda: replace(PLAIN, missing=(("PET", 0.5),)), "missing must be about the sequences"),
        (lambda: replace(PLAIN, gain=0.0), "gain must be above 0"),
        (lambda: CohortProfile("twice", (PLAIN, PLAIN)), "different names"),
        (lambda: PROFILES["demo"].with_site("nowhere", n=3), "no site 'nowhere'"),
        (lambda: PROFILES["demo"].with_grid(4), "out of range"),
    ],
)
def test_an_impossible_knob_is_refused_in_words(change: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        change()


@given(st.lists(st.sampled_from(["wildtype", "mutant"]), min_size=1, max_size=200), st.integers(0, 2**32))
def test_splits_are_stratified_whatever_the_classes(classes: list[str], seed: int) -> None:
    splits = stratified_split(np.random.default_rng(seed), classes)
    for label in set(classes):
        chosen = [split for split, value in zip(splits, classes, strict=True) if value == label]
        assert abs(chosen.count("test") - 0.25 * len(chosen)) <= 1.0
        assert abs(chosen.count("validation") - 0.15 * len(chosen)) <= 1.0
        assert "train" in chosen
        if len(chosen) >= 3:
            assert set(chosen) == {"train", "validation", "test"}
