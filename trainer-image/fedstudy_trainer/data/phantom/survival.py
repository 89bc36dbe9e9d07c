"""How long a phantom patient is seen and whether death ends it: a Weibull accelerated-failure-time model, censored."""

from __future__ import annotations

import math

import numpy as np

from .traits import Volumes

_WEIBULL_SHAPE = 1.26
# Centres and scales of the two halves of the imaging risk score, and of their sum: sd 1 with 38 % mutants.
_LOG_ET_CENTRE, _LOG_ET_SCALE = 2.0, 1.7
_NECROSIS_CENTRE, _NECROSIS_SCALE, _RISK_SCALE = 0.065, 0.075, 1.35


def draw_survival(
    rng: np.random.Generator, *, subtype: str, age: float, male: bool, grade: int, volumes: Volumes
) -> tuple[float, int]:
    """Months observed, and 1 if they end with death: log T = mu + log(Exp(1)) / 1.26.

    The clinical coefficients of mu are fitted on TCGA; that of enhancement and necrosis is designed. Follow-up ends
    uniformly in 2..60 months, and a tenth of the patients is lost earlier.
    """
    mu = 4.37 - 0.31 * (age - 50.0) / 10.0 - 0.19 * male - {2: 0.0, 3: 0.64, 4: 1.07}[grade]
    mu += 0.56 * (subtype != "wt") + 0.72 * (subtype == "mutC") - 0.25 * imaging_risk(volumes)
    death = math.exp(mu + math.log(rng.exponential()) / _WEIBULL_SHAPE)
    censoring = rng.uniform(2.0, 60.0)
    if rng.random() < 0.10:
        censoring *= rng.random()
    return max(0.1, round(min(death, censoring), 1)), int(death <= censoring)


def imaging_risk(volumes: Volumes) -> float:
    """What enhancement and necrosis add to the risk, about N(0, 1) over a mixed cohort, cut at 2.5."""
    log_et = (math.log(volumes.et_cc + 0.1) - _LOG_ET_CENTRE) / _LOG_ET_SCALE
    necrosis = (volumes.necrosis_cc / volumes.whole_cc - _NECROSIS_CENTRE) / _NECROSIS_SCALE
    return float(np.clip((log_et + necrosis) / _RISK_SCALE, -2.5, 2.5))
