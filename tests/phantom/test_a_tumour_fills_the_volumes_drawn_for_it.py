"""The images hold the truth: compartments have the drawn volumes, and look as the recipe says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedstudy_trainer.data.phantom import Patient, SiteProfile, draw_patients
from fedstudy_trainer.data.phantom.anatomy import Head, build_head
from fedstudy_trainer.data.phantom.signals import paint
from fedstudy_trainer.data.phantom.tumour import Tumour, grow_tumour

SITE = SiteProfile("x", 40, 0.5)


def grow(patient: Patient) -> tuple[Head, Tumour]:
    rng = np.random.default_rng(patient.index)
    head = build_head(rng, patient, 40)
    return head, grow_tumour(rng, patient, head)


def test_whole_tumour_and_core_have_their_volumes_wherever_they_are() -> None:
    for patient in draw_patients(SITE, seed=1):
        head, tumour = grow(patient)
        whole = (tumour.whole > 0.5).sum() * head.voxel_cc
        assert whole == pytest.approx(patient.volumes.whole_cc, abs=2 * head.voxel_cc)
        core = (tumour.core > 0.5).sum() * head.voxel_cc
        assert core <= patient.volumes.core_cc + 2 * head.voxel_cc
        assert core > 0.4 * patient.volumes.core_cc - 2 * head.voxel_cc


def test_enhancing_volume_on_the_image_follows_the_drawn_one() -> None:
    drawn, seen = [], []
    for patient in draw_patients(SITE, seed=2):
        head, tumour = grow(patient)
        drawn.append(patient.volumes.et_cc)
        seen.append(tumour.enhancing.sum() * head.voxel_cc)
    assert np.corrcoef(drawn, seen)[0, 1] > 0.97


def test_compartments_are_shares_nested_in_each_other() -> None:
    for patient in draw_patients(SITE, seed=3)[:15]:
        _, tumour = grow(patient)
        for share in (tumour.whole, tumour.core, tumour.enhancing, tumour.necrosis, tumour.rim, tumour.spots):
            assert np.isfinite(share).all() and share.min() >= 0 and share.max() <= 1
        assert (tumour.core <= tumour.whole + 1e-6).all()
        assert (tumour.enhancing + tumour.necrosis <= tumour.core + 1e-5).all()


def test_a_mismatch_core_is_bright_on_t2_and_dark_with_a_bright_rim_on_flair() -> None:
    patient = next(p for p in draw_patients(SITE, seed=4, n=200) if p.look.mismatch)
    patient = replace(patient, volumes=replace(patient.volumes, whole_cc=120.0, core_cc=60.0, et_cc=0.1))
    head, tumour = grow(patient)
    painted = paint(patient, head, tumour)
    middle = (tumour.core > 0.95) & (tumour.rim < 0.05) & (tumour.necrosis < 0.05)
    rim = tumour.rim > 0.7
    assert painted[2, middle].mean() == pytest.approx(1.8, abs=0.1)
    assert painted[3, middle].mean() < 1.1 < 1.3 < painted[3, rim].mean()


def test_an_old_brain_has_wider_ventricles_than_a_young_one() -> None:
    patient = draw_patients(SITE, seed=5)[0]
    young, old = (
        build_head(np.random.default_rng(0), replace(patient, age=age), 40).fluid.sum()
        for age in (25.0, 80.0)
    )
    assert old > 1.3 * young
