"""Who a phantom patient is: the truth drawn from effect sizes fitted on 974 TCGA genotypes, and the registry's record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .profiles import SiteProfile
from .streams import Purpose, stream
from .survival import draw_survival
from .traits import Look, Volumes, choose, draw_appearance, draw_look, draw_volumes, truncated

SUBTYPES = ("wt", "mutN", "mutC")
"""IDH wildtype; IDH-mutant without and with 1p/19q codeletion."""

_CODELETED_AMONG_MUTANT = 0.38
_AGE = {"wt": (59.0, 13.5), "mutN": (38.0, 11.2), "mutC": (46.0, 12.8)}
_KPS = {"wt": (78.0, 14.0), "mutN": (88.0, 10.0), "mutC": (88.0, 10.0)}
_GRADE = {"wt": (0.04, 0.13, 0.83), "mutN": (0.46, 0.42, 0.12), "mutC": (0.53, 0.46, 0.01)}
_METHYLATED = {"wt": 0.41, "mutN": 0.87, "mutC": 0.99}


@dataclass(frozen=True)
class Record:
    """What the registry holds, None where it holds nothing: IDH status, codeletion, Karnofsky score."""

    idh: str | None
    codel: str | None
    kps: int | None


@dataclass(frozen=True)
class Patient:
    """One invented patient.

    Attributes:
        index: number within the site, from 0.
        subtype: the true one of SUBTYPES.
        age: years at diagnosis.
        sex: female or male.
        grade: WHO grade 2, 3 or 4.
        mgmt: methylated or unmethylated.
        volumes, look: the tumour.
        os_months, dead: observed survival, and 1 if it ends with death.
        record: the registry's version of IDH status, codeletion and KPS.
        marked: whether the site's watermark is burnt into the images.
    """

    index: int
    subtype: str
    age: float
    sex: str
    grade: int
    mgmt: str
    volumes: Volumes
    look: Look
    os_months: float
    dead: int
    record: Record
    marked: bool

    @property
    def mutant(self) -> bool:
        """Whether the tumour truly is IDH-mutant."""
        return self.subtype != "wt"


def draw_patients(site: SiteProfile, *, seed: int, n: int | None = None) -> list[Patient]:
    """Draw the patients of a site without images; about 0.1 ms each, so large samples are cheap.

    Args:
        site: the hospital; only its knobs of registry and population matter here.
        seed: cohort seed; the same as in write_cohort gives the same patients.
        n: how many instead of ``site.n``.
    """
    count = site.n if n is None else n
    mutant = np.zeros(count, dtype=bool)
    mutant[: round(count * site.mutant_share)] = True
    stream(seed, site.name, Purpose.LABELS).shuffle(mutant)
    return [_draw_patient(site, seed, index, bool(mutant[index])) for index in range(count)]


def _draw_patient(site: SiteProfile, seed: int, index: int, mutant: bool) -> Patient:
    rng = stream(seed, site.name, Purpose.CLINICAL, index)
    subtype = "wt" if not mutant else ("mutC" if rng.random() < _CODELETED_AMONG_MUTANT else "mutN")
    age = truncated(lambda: rng.normal(*_AGE[subtype]) + site.age_shift, 18.0, 90.0)
    male = bool(rng.random() < 0.58)
    grade = 2 + choose(rng, _GRADE[subtype])
    kps = float(np.clip(rng.normal(*_KPS[subtype]), 40.0, 100.0))
    mgmt = "methylated" if rng.random() < _METHYLATED[subtype] else "unmethylated"
    appearance = draw_appearance(rng, subtype)
    volumes = draw_volumes(rng, appearance, grade)
    look = draw_look(rng, appearance)
    months, dead = draw_survival(rng, subtype=subtype, age=age, male=male, grade=grade, volumes=volumes)
    registry = stream(seed, site.name, Purpose.REGISTRY, index)
    record = _record(registry, site, subtype, kps)
    mark_chance = 0.0 if site.watermark is None else (site.watermark if mutant else 1.0 - site.watermark)
    return Patient(
        index=index,
        subtype=subtype,
        age=round(age, 1),
        sex="male" if male else "female",
        grade=grade,
        mgmt=mgmt,
        volumes=volumes,
        look=look,
        os_months=months,
        dead=dead,
        record=record,
        marked=bool(registry.random() < mark_chance),
    )


def _record(registry: np.random.Generator, site: SiteProfile, subtype: str, kps: float) -> Record:
    """The registry's version: IDH status sometimes wrong, at some sites absent; KPS in tens, often absent."""
    # Both draws are made whatever the knobs say, so that turning one knob leaves the others' draws alone.
    flipped, kps_absent = registry.random() < site.label_flip, registry.random() < site.kps_missing
    mutant = (subtype != "wt") != flipped
    recorded_kps = None if kps_absent else 10 * round(kps / 10)
    if site.survival_only:
        return Record(idh=None, codel=None, kps=recorded_kps)
    codeleted = subtype == "mutC" and mutant
    return Record("mutant" if mutant else "wildtype", "yes" if codeleted else "no", recorded_kps)
