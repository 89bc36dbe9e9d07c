"""Exact federated statistics, and evaluation without pooling: the site's half and the hub's half of each quantity."""

from fedstudy.measures.classification import (
    Curve,
    calibration_curve,
    classification_metrics,
    classification_statistics,
    judged_classes,
    roc_curve,
    threshold_at_specificity,
)
from fedstudy.measures.cohort import (
    Standardisation,
    class_weights,
    cohort_statistics,
    event_time_cuts,
    standardisation,
)
from fedstudy.measures.cox import cox_terms
from fedstudy.measures.grids import TIME_BINS, TIME_EDGES
from fedstudy.measures.hazards import evaluation_times, hazard_nll, interval_of, survival_at
from fedstudy.measures.kaplan_meier import SurvivalCurve, kaplan_meier, log_rank, median_survival
from fedstudy.measures.newton import Fit, fit, newton_step
from fedstudy.measures.regression import logistic_terms
from fedstudy.measures.sums import Statistics, add, total
from fedstudy.measures.survival import HORIZONS, risk_groups, survival_metrics, survival_statistics

__all__ = [
    "HORIZONS",
    "TIME_BINS",
    "TIME_EDGES",
    "Curve",
    "Fit",
    "Standardisation",
    "Statistics",
    "SurvivalCurve",
    "add",
    "calibration_curve",
    "class_weights",
    "classification_metrics",
    "classification_statistics",
    "cohort_statistics",
    "cox_terms",
    "evaluation_times",
    "event_time_cuts",
    "fit",
    "hazard_nll",
    "interval_of",
    "judged_classes",
    "kaplan_meier",
    "log_rank",
    "logistic_terms",
    "median_survival",
    "newton_step",
    "risk_groups",
    "roc_curve",
    "standardisation",
    "survival_at",
    "survival_metrics",
    "survival_statistics",
    "threshold_at_specificity",
    "total",
]
