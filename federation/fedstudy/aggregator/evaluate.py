"""One model judged at all sites without pooling: metrics, calibration and survival curves from the sites' sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstudy.measures import (
    Statistics,
    SurvivalCurve,
    calibration_curve,
    classification_metrics,
    kaplan_meier,
    risk_groups,
    survival_metrics,
    total,
)
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.results import Curve, Evaluation, SiteMetrics
from fedstudy.tensors import Array


def evaluation(
    plan: StudyPlan, split: str, round: int, by_site: Mapping[str, Statistics], cuts: Array | None
) -> Evaluation:
    """The evaluation over all sites and for each.

    Args:
        split: validation or test.
        by_site: each site's statistics; added in order of name.
        cuts: [J-1] cut points of a discrete-time survival model.

    Raises:
        UpdateError: no site sent any.
    """
    summed = total(by_site[site] for site in sorted(by_site))
    sites = [_site(plan, site, by_site[site], cuts) for site in sorted(by_site)]
    if plan.task.type is TaskType.CLASSIFICATION:
        return Evaluation(
            split=split,
            round=round,
            metrics=classification_metrics(summed),
            sites=sites,
            calibration=_calibration(summed) if int(summed["classification.cases"][0]) else None,
        )
    metrics = survival_metrics(summed, cuts=cuts)
    groups = risk_groups(summed)
    curves = {
        "all": kaplan_meier(summed["survival.deaths"], summed["survival.censored"]),
        "low risk": kaplan_meier(*groups[0]),
        "high risk": kaplan_meier(*groups[-1]),
    }
    return Evaluation(
        split=split,
        round=round,
        metrics=metrics,
        sites=sites,
        kaplan_meier={name: _survival(curve) for name, curve in curves.items()},
        log_rank_p=metrics.get("log_rank_p"),
    )


def watched_metric(metrics: Mapping[str, float], name: str) -> float | None:
    """The value that `stopWhen` looks at; `loss` is the log-loss, or the log-likelihood loss of a survival model."""
    if name == "loss" and name not in metrics:
        return metrics.get("log_loss", metrics.get("log_likelihood_loss"))
    return metrics.get(name)


def _site(plan: StudyPlan, site: str, statistics: Statistics, cuts: Array | None) -> SiteMetrics:
    survival = plan.task.type is TaskType.SURVIVAL
    metrics = survival_metrics(statistics, cuts=cuts) if survival else classification_metrics(statistics)
    cases = int(metrics.pop("cases"))
    events = int(metrics.pop("events")) if survival else None
    return SiteMetrics(site=site, cases=cases, events=events, metrics=metrics)


def _calibration(summed: Mapping[str, Any]) -> Curve:
    curve = calibration_curve(summed)
    counts = summed["calibration.count"][0]
    return Curve(x=curve.x.tolist(), y=curve.y.tolist(), counts=[int(n) for n in counts if n > 0])


def _survival(curve: SurvivalCurve) -> Curve:
    return Curve(
        x=curve.times.tolist(),
        y=curve.survival.tolist(),
        low=curve.low.tolist(),
        high=curve.high.tolist(),
        counts=[int(n) for n in curve.at_risk],
    )
