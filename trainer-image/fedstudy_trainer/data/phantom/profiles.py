"""Which hospitals a phantom cohort has and how they differ: every cause of heterogeneity is one knob of a site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fedstudy.errors import DataError

SEQUENCES = ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")
"""The four MRI sequences by their BIDS suffixes: T1, T1 with gadolinium, T2, FLAIR."""

FIELD_OF_VIEW_MM = 176.0
"""Edge of the imaged cube: the phantom brain (132 x 168 x 124 mm, about 1440 cc) fits with little to spare."""

_SITE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class SiteProfile:
    """One hospital: how many patients of which kind, and what its scanner and its registry do to them.

    Attributes:
        name: folder name, a DNS label (it may become a Kubernetes name).
        n: number of patients.
        mutant_share: share of IDH-mutant patients, 0..1; met exactly up to rounding.
        gain: scanner intensity gain; 1000 stored units are white matter at gain 1.
        gamma: exponent on intensities relative to white matter (contrast); 1 changes nothing.
        bias_field: largest relative deviation of a third-order polynomial shading.
        noise: sigma of the Rician noise as a share of the white-matter signal.
        slice_mm: slice thickness; above the grid's voxel size, slices are averaged and fewer are stored.
        missing: probability for each sequence (see SEQUENCES) that a patient lacks it.
        label_flip: probability that the registry holds the wrong IDH status.
        kps_missing: probability that the Karnofsky score is not recorded.
        age_shift: years added to every age (negative: a younger hospital).
        survival_only: the registry holds no IDH status and no codeletion, only survival.
        watermark: None: no shortcut. Otherwise the probability that a mutant's image carries this site's mark
            (a bright corner and a tilted head); a wildtype's carries it with one minus that. At .5 it means nothing.
    """

    name: str
    n: int
    mutant_share: float
    gain: float = 1.0
    gamma: float = 1.0
    bias_field: float = 0.10
    noise: float = 0.02
    slice_mm: float = 1.0
    missing: tuple[tuple[str, float], ...] = ()
    label_flip: float = 0.015
    kps_missing: float = 0.35
    age_shift: float = 0.0
    survival_only: bool = False
    watermark: float | None = None

    def __post_init__(self) -> None:
        _require(_SITE_NAME.fullmatch(self.name) is not None, self.name, "name", "a lower-case DNS label")
        _require(self.n >= 1, self.name, "n", "at least 1")
        for knob in ("mutant_share", "label_flip", "kps_missing"):
            _require(0.0 <= getattr(self, knob) <= 1.0, self.name, knob, "between 0 and 1")
        _require(
            self.watermark is None or 0.0 <= self.watermark <= 1.0, self.name, "watermark", "between 0 and 1"
        )
        for knob in ("gain", "gamma", "slice_mm"):
            _require(getattr(self, knob) > 0.0, self.name, knob, "above 0")
        _require(
            self.slice_mm <= FIELD_OF_VIEW_MM / 4, self.name, "slice_mm", "at most a quarter of the head"
        )
        # 12 x white matter is more than any tissue's signal: int16 must hold it.
        _require(self.gain <= 8.0, self.name, "gain", "at most 8, so that intensities fit 16 bits")
        _require(0.0 <= self.bias_field < 1.0, self.name, "bias_field", "at least 0 and below 1")
        _require(0.0 <= self.noise <= 1.0, self.name, "noise", "between 0 and 1")
        for sequence, probability in self.missing:
            _require(
                sequence in SEQUENCES, self.name, "missing", f"about the sequences {', '.join(SEQUENCES)}"
            )
            _require(0.0 <= probability <= 1.0, self.name, f"missing.{sequence}", "between 0 and 1")


def _require(holds: bool, site: str, knob: str, what: str) -> None:
    if not holds:
        raise DataError(
            f"Phantom site {site!r}: {knob} must be {what}.", f"Change {knob} in the site's profile."
        )


@dataclass(frozen=True)
class CohortProfile:
    """A cohort: its name, its hospitals, and the edge length in voxels of the image grid before slices thicken."""

    name: str
    sites: tuple[SiteProfile, ...] = field(default=())
    grid: int = 48

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if not names or len(set(names)) != len(names):
            raise DataError(
                f"Phantom cohort {self.name!r} needs sites of different names.", "Rename one of them."
            )
        if not 12 <= self.grid <= 256:
            raise DataError(
                f"Phantom cohort {self.name!r}: a grid of {self.grid} voxels is out of range.",
                "Choose between 12 and 256 voxels an edge.",
            )

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel in millimetres before slices thicken."""
        return FIELD_OF_VIEW_MM / self.grid

    def scaled(self, factor: float) -> CohortProfile:
        """The same hospitals with ``factor`` times as many patients each (8 at least)."""
        sites = tuple(replace(site, n=max(8, round(site.n * factor))) for site in self.sites)
        return replace(self, sites=sites)

    def with_grid(self, grid: int) -> CohortProfile:
        """The same cohort imaged on ``grid`` voxels an edge."""
        return replace(self, grid=grid)

    def with_site(self, name: str, **knobs: Any) -> CohortProfile:
        """The same cohort with the named site's knobs changed: one cause of heterogeneity at a time.

        Raises:
            DataError: no site has this name.
        """
        if name not in {site.name for site in self.sites}:
            known = ", ".join(site.name for site in self.sites)
            raise DataError(f"Phantom cohort {self.name!r} has no site {name!r}.", f"Its sites are {known}.")
        return replace(self, sites=tuple(replace(s, **knobs) if s.name == name else s for s in self.sites))


# Four hospitals that differ in size, prevalence and scanner, small enough for a laptop.
_DEMO = CohortProfile(
    "demo",
    (
        SiteProfile("aalborg", 130, 0.32, 1.0, 1.0, 0.10, 0.02, 1.0, label_flip=0.01),
        SiteProfile("bergen", 70, 0.75, 2.5, 0.9, 0.15, 0.04, 5.0, label_flip=0.01, age_shift=-5.0),
        SiteProfile("coimbra", 50, 0.16, 0.6, 1.15, 0.15, 0.03, 5.5, label_flip=0.01),
        SiteProfile("dresden", 40, 0.45, 4.0, 0.8, 0.20, 0.06, 6.5, label_flip=0.01, kps_missing=0.6),
    ),
    grid=40,
)

# The table of site effects in the methods' section 9; `outside` never trains.
_FULL = CohortProfile(
    "full",
    (
        SiteProfile("a-referral", 220, 0.32, 1.0, 1.0, 0.10, 0.02, 1.0),
        SiteProfile("b-lgg-heavy", 100, 0.80, 2.5, 0.9, 0.20, 0.04, 5.0, age_shift=-6.0),
        SiteProfile("c-gbm-only", 60, 0.03, 0.6, 1.15, 0.15, 0.03, 2.5, (("T1w", 0.20),), survival_only=True),
        SiteProfile("d-trial", 40, 0.15, 1.3, 1.0, 0.30, 0.06, 5.5, (("FLAIR", 0.30),), kps_missing=1.0),
        SiteProfile(
            "e-community",
            25,
            0.40,
            4.0,
            0.8,
            0.40,
            0.09,
            6.5,
            (("ce-gadolinium_T1w", 0.15),),
            label_flip=0.05,
        ),
        SiteProfile("outside", 80, 0.20, 1.8, 1.1, 0.25, 0.05, 3.0),
    ),
)

# The same hospitals with a mark burnt in that tells the label at B and C and nothing outside. C needs labels for it.
_SHORTCUT = replace(
    _FULL.with_site("b-lgg-heavy", watermark=0.95)
    .with_site("c-gbm-only", watermark=0.95, survival_only=False)
    .with_site("outside", watermark=0.5),
    name="shortcut",
)

# For tests: no label noise and equal classes, so that every split of every site has both.
_TINY = CohortProfile(
    "tiny",
    (
        SiteProfile("north", 12, 0.5, label_flip=0.0),
        SiteProfile("south", 12, 0.5, 2.5, 0.9, 0.20, 0.04, label_flip=0.0),
        SiteProfile("west", 12, 0.4, 0.6, 1.15, 0.15, 0.03, 16.0, label_flip=0.0),
    ),
    grid=16,
)

_HOMOGENEOUS = CohortProfile(
    "homogeneous", tuple(SiteProfile(f"site-{letter}", 60, 0.40) for letter in "abcd"), grid=40
)

PROFILES: Mapping[str, CohortProfile] = MappingProxyType(
    {profile.name: profile for profile in (_DEMO, _FULL, _SHORTCUT, _TINY, _HOMOGENEOUS)}
)
"""Ready-made cohorts by name."""
