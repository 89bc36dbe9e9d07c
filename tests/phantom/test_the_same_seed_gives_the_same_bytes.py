"""Reproducibility: bytes depend on profile and seed alone, and sites and patients do not disturb each other."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedstudy.errors import DataError
from fedstudy_trainer.data.phantom import (
    PROFILES,
    CohortProfile,
    SiteProfile,
    draw_patients,
    write_cohort,
    write_hospital,
)

SMALL = PROFILES["tiny"].with_grid(12).scaled(0.1)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_two_writings_are_equal_byte_by_byte_and_another_seed_is_not(tmp_path: Path) -> None:
    for folder, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_cohort(tmp_path / folder, profile=SMALL, seed=seed)
    one, two, three = (digests(tmp_path / folder) for folder in ("one", "two", "three"))
    assert one == two
    differing = [name for name in one.keys() & three.keys() if one[name] != three[name]]
    assert any(name.endswith(".nii.gz") for name in differing)
    assert any(name.endswith("participants.tsv") for name in differing)


def test_a_gzip_header_holds_neither_time_nor_name(tmp_path: Path) -> None:
    write_cohort(tmp_path, profile=SMALL, seed=0)
    for path in tmp_path.rglob("*.nii.gz"):
        header = path.read_bytes()[:10]
        assert header[3] == 0, "no name, comment or extra field"
        assert header[4:8] == bytes(4), "no time"


def test_a_site_that_grows_does_not_change_the_patients_of_another(tmp_path: Path) -> None:
    write_cohort(tmp_path / "before", profile=SMALL, seed=1)
    grown = SMALL.with_site("north", n=SMALL.sites[0].n + 5)
    write_cohort(tmp_path / "after", profile=replace(grown, sites=grown.sites[::-1]), seed=1)
    for site in ("south", "west"):
        before, after = (digests(tmp_path / when / "data" / site) for when in ("before", "after"))
        assert before == after


def test_a_scanner_knob_changes_no_clinical_fact_and_no_anatomy() -> None:
    plain = SiteProfile("x", 40, 0.5, kps_missing=0.35)
    noisy = replace(plain, gain=4.0, noise=0.2, slice_mm=6.0, missing=(("FLAIR", 0.5),))
    assert draw_patients(plain, seed=2) == draw_patients(noisy, seed=2)


def test_a_registry_knob_leaves_the_truth_alone() -> None:
    plain = draw_patients(SiteProfile("x", 60, 0.5, label_flip=0.0), seed=2)
    wrong = draw_patients(SiteProfile("x", 60, 0.5, label_flip=0.3, kps_missing=1.0), seed=2)
    assert [replace(p, record=plain[0].record) for p in plain] == [
        replace(p, record=plain[0].record) for p in wrong
    ]
    assert 5 < np.sum([p.record.idh != q.record.idh for p, q in zip(plain, wrong, strict=True)]) < 35
    assert all(p.record.kps is None for p in wrong)


def test_a_cohort_scales_in_patients_and_grid() -> None:
    scaled = PROFILES["full"].scaled(0.5).with_grid(24)
    assert isinstance(scaled, CohortProfile)
    assert [site.n for site in scaled.sites] == [110, 50, 30, 20, 12, 40]
    assert scaled.grid == 24


def test_one_hospital_alone_has_the_bytes_that_it_has_in_the_cohort(tmp_path: Path) -> None:
    profile = SMALL
    write_cohort(tmp_path / "cohort", profile=profile, seed=3)
    for site in profile.sites:
        volume = tmp_path / "volumes" / site.name
        (volume / "lost+found").mkdir(parents=True)
        summary = write_hospital(volume, profile=profile, site=site.name, seed=3)
        assert summary.patients == site.n
        assert digests(volume) == digests(tmp_path / "cohort" / "data" / site.name)


def test_a_hospital_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    profile = SMALL
    name = profile.sites[0].name
    write_hospital(tmp_path, profile=profile, site=name, seed=3)
    whole = digests(tmp_path)
    for path in list(tmp_path.rglob("*.nii.gz"))[2:]:
        path.write_bytes(b"half")
    write_hospital(tmp_path, profile=profile, site=name, seed=3)
    assert digests(tmp_path) == whole
    with pytest.raises(DataError, match="holds other data"):
        write_hospital(tmp_path, profile=profile, site=name, seed=4)


def test_a_hospital_that_no_profile_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no hospital 'nowhere'"):
        write_hospital(tmp_path, profile=SMALL, site="nowhere", seed=3)
