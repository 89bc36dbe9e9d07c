"""Invented glioma cohorts of several hospitals: nobody's data, with the difficulties of real ones.

Doors: :func:`write_cohort` writes a cohort as BIDS folders, :func:`write_hospital` one of them; :func:`draw_patients` draws the patients alone, without
images; :data:`PROFILES` holds ready-made cohorts; :func:`oracle_features` is what the generator itself knows.
"""

from __future__ import annotations

from .clinical import Patient, draw_patients
from .oracle import ORACLE_FEATURES, oracle_features
from .profiles import PROFILES, CohortProfile, SiteProfile
from .writer import CohortSummary, SiteSummary, write_cohort, write_hospital

__all__ = [
    "ORACLE_FEATURES",
    "PROFILES",
    "CohortProfile",
    "CohortSummary",
    "Patient",
    "SiteProfile",
    "SiteSummary",
    "draw_patients",
    "oracle_features",
    "write_cohort",
    "write_hospital",
]
