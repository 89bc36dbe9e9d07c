"""How big a phantom tumour is and how it looks: the numbers that govern the image, drawn before any image exists.

Effect sizes are those measured on 148 TCGA glioma patients with MRI (methods, section 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LOBES = ("frontal", "temporal", "parietal", "occipital", "deep")

_LOBE_WT = (0.25, 0.38, 0.19, 0.08, 0.10)
_LOBE_MUT = (0.55, 0.22, 0.08, 0.02, 0.13)
_MAX_WHOLE_CC = 380.0
# Some tumours look like the other genotype's on MRI; without them imaging would tell IDH better than it does in
# patients (effect size of enhancement d = -2.2 in TCGA, and no published AUC above .98).
_LOOKS_WILDTYPE_AMONG_MUTANT = 0.075
_LOOKS_MUTANT_AMONG_WILDTYPE = 0.035


@dataclass(frozen=True)
class Volumes:
    """Cubic centimetres: the whole tumour contains the core, the core contains enhancing tumour (ET) and necrosis."""

    whole_cc: float
    core_cc: float
    et_cc: float
    necrosis_cc: float


@dataclass(frozen=True)
class Look:
    """Place, shape and signals (white matter 1) of a tumour.

    Attributes:
        lobe: one of LOBES.
        side: 1 right, -1 left.
        compactness: 0 (lobulated, with fingers of oedema) to 1 (one smooth mass).
        ring: the core's shell enhances around necrosis; otherwise a nodule enhances.
        mismatch: T2-FLAIR mismatch: homogeneous on T2, dark with a bright rim on FLAIR.
        calcified: the core holds calcified spots.
        t1_core, t1gd_core, t2_core, flair_core: signals of the non-enhancing core.
        t1gd_et: signal of enhancing tumour on T1 with gadolinium.
        edge_mm: blur of the tumour's borders.
    """

    lobe: str
    side: int
    compactness: float
    ring: bool
    mismatch: bool
    calcified: bool
    t1_core: float
    t1gd_core: float
    t1gd_et: float
    t2_core: float
    flair_core: float
    edge_mm: float


def draw_appearance(rng: np.random.Generator, subtype: str) -> str:
    """The subtype whose MRI this tumour has: mostly its own."""
    atypical = rng.random()
    if subtype == "wt":
        return "mutN" if atypical < _LOOKS_MUTANT_AMONG_WILDTYPE else "wt"
    return "wt" if atypical < _LOOKS_WILDTYPE_AMONG_MUTANT else subtype


def draw_volumes(rng: np.random.Generator, appearance: str, grade: int) -> Volumes:
    """Volumes of a tumour that looks like subtype ``appearance``."""
    wildtype = appearance == "wt"
    median, sigma = (90.0, 0.65) if wildtype else (125.0, 0.75)
    whole = truncated(lambda: median * math.exp(rng.normal(0.0, sigma)), 4.0, _MAX_WHOLE_CC)
    core = max(1.5, whole * float(rng.beta(2.6, 4.5) if wildtype else rng.beta(3.6, 3.1)))
    # .94 of wildtypes and .53 of mutants enhance by more than 1 cc; of grade-2 mutants .25, so .80 of the others;
    # the rates below are a little further apart because look-alikes close the gap again.
    enhances = rng.random() < (0.95 if wildtype else (0.19 if grade == 2 else 0.76))
    if enhances:
        shape = (6.0, 2.2) if wildtype else (0.4, 3.0)
        et = truncated(lambda: core * float(rng.beta(*shape)), min(1.0, 0.7 * core), 0.97 * core)
    else:
        et = float(rng.uniform(0.0, min(1.0, 0.5 * core)))
    necrotic_share = float(rng.beta(5.0, 2.0)) if wildtype else float(rng.beta(1.0, 6.0)) * (grade > 2)
    return Volumes(whole, core, et, (core - et) * necrotic_share)


def draw_look(rng: np.random.Generator, appearance: str) -> Look:
    """Look of a tumour that looks like subtype ``appearance``.

    The sd of T1 is wide on purpose: between wildtype and mutant d is -.7 and no more.
    """
    wildtype = appearance == "wt"
    darkness = rng.normal()
    mismatch = bool(rng.random() < (0.42 if appearance == "mutN" else 0.01))
    t2_mean = {"wt": 1.5, "mutN": 1.8, "mutC": 1.6}[appearance]
    t1gd = (0.95 if wildtype else 0.70) + 0.26 * darkness + 0.15 * rng.normal()
    return Look(
        lobe=LOBES[choose(rng, _LOBE_WT if wildtype else _LOBE_MUT)],
        side=1 if rng.random() < 0.5 else -1,
        compactness=float(rng.beta(1.1, 2.4) if wildtype else rng.beta(2.4, 1.0)),
        ring=bool(rng.random() < (0.92 if wildtype else 0.20)),
        mismatch=mismatch,
        calcified=bool(rng.random() < (0.60 if appearance == "mutC" else 0.03)),
        t1_core=float(np.clip((0.95 if wildtype else 0.75) + 0.26 * darkness, 0.4, 1.5)),
        t1gd_core=float(np.clip(t1gd, 0.4, 1.5)),
        t1gd_et=float(rng.uniform(1.6, 2.0)),
        t2_core=1.8 if mismatch else float(np.clip(rng.normal(t2_mean, 0.22), 1.1, 2.4)),
        flair_core=float(np.clip(rng.normal(1.45, 0.18), 0.9, 2.1)) * (0.6 if mismatch else 1.0),
        edge_mm=float(rng.gamma(4.0, {"wt": 2.2, "mutN": 1.3, "mutC": 3.2}[appearance] / 4.0)),
    )


def truncated(draw: Callable[[], float], low: float, high: float) -> float:
    """Draw until the value lies within bounds; after 64 tries, the nearer bound (bounds far from the mean)."""
    value = math.nan
    for _ in range(64):
        value = float(draw())
        if low <= value <= high:
            return value
    return min(max(value, low), high)


def choose(rng: np.random.Generator, weights: tuple[float, ...]) -> int:
    """An index drawn with these weights (they sum to 1 up to rounding)."""
    return min(int(np.searchsorted(np.cumsum(weights), rng.random(), side="right")), len(weights) - 1)
