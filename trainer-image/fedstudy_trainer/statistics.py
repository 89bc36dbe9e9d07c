"""A site's share of the prologue: what its training cases add to the cohort's counts and sums."""

from __future__ import annotations

import numpy as np

from fedstudy.measures.cohort import cohort_statistics
from fedstudy.measures.sums import Statistics
from fedstudy.plan import StudyPlan
from fedstudy_trainer.data.dataset import SplitData


def site_statistics(cases: SplitData, plan: StudyPlan) -> Statistics:
    """`fedstudy.measures.cohort.cohort_statistics` of a site's training cases."""
    classes = len(plan.task.target.classes or ())
    return cohort_statistics(
        cases.covariates.astype(np.float64),
        cases.labels if classes else None,
        classes,
        None if classes else cases.times,
        None if classes else cases.events,
    )
