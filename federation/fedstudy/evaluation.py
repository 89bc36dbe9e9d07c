"""An evaluation out of sums: what each site's statistics, and their total, say of a model. Used by the hub and by the controls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedstudy import measures
from fedstudy.plan import StudyPlan, TaskType
from fedstudy.results import Curve, Evaluation, SiteMetrics

Cuts = npt.NDArray[np.float64]


def evaluation(
    plan: StudyPlan,
    split: str,
    round: int,
    sites: Mapping[str, measures.Statistics],
    cuts: Cuts | None = None,
) -> Evaluation:
    """Metrics of one model on one split: over all sites, and for each.

    Args:
        plan: the study's plan.
        split: validation or test.
        round: after which round the model was.
        sites: site → its statistics of `fedstudy.measures` for the plan's task.
        cuts: DiscreteHazard: the inner cut points [J-1] of the model's time intervals.

    Raises:
        UpdateError: the sites' statistics differ in names or shapes.
    """
    if not sites:
        return Evaluation(split=split, round=round, metrics={})
    total = measures.total(sites[name] for name in sorted(sites))
    records = [_site(plan, name, sites[name], cuts) for name in sorted(sites)]
    if plan.task.type is TaskType.CLASSIFICATION:
        return Evaluation(
            split=split,
            round=round,
            metrics=metrics(plan, total),
            sites=records,
            calibration=_calibration(measures.calibration_curve(total), total),
        )
    found = metrics(plan, total, cuts)
    return Evaluation(
        split=split,
        round=round,
        metrics=found,
        sites=records,
        kaplan_meier=_kaplan_meier(total),
        log_rank_p=found.get("log_rank_p"),
    )


def metrics(plan: StudyPlan, total: measures.Statistics, cuts: Cuts | None = None) -> dict[str, float]:
    """Metrics of summed statistics; those that are undefined are absent."""
    if plan.task.type is TaskType.CLASSIFICATION:
        found = measures.classification_metrics(total)
    else:
        found = measures.survival_metrics(total, cuts=cuts)
    return {name: float(value) for name, value in found.items()}


def _site(plan: StudyPlan, name: str, statistics: measures.Statistics, cuts: Cuts | None) -> SiteMetrics:
    found = _exact(metrics(plan, statistics, cuts))
    cases = int(found.pop("cases", 0))
    events = found.pop("events", None)
    return SiteMetrics(site=name, cases=cases, events=None if events is None else int(events), metrics=found)


def _exact(found: dict[str, float]) -> dict[str, float]:
    """Within one site the pairs are counted exactly; they take the place of what its histograms give."""
    within = {name: value for name, value in found.items() if "_within" in name}
    others = {
        name: value
        for name, value in found.items()
        if name not in within and not name.endswith("_resolution")
    }
    return others | {name.replace("_within", ""): value for name, value in within.items()}


def _calibration(curve: measures.Curve, total: measures.Statistics) -> Curve:
    counts = total["calibration.count"][0]
    filled = [int(count) for count in counts if count]
    return Curve(x=[float(x) for x in curve.x], y=[float(y) for y in curve.y], counts=filled)


def _kaplan_meier(total: measures.Statistics) -> dict[str, Curve]:
    """Everybody, and the lower and higher half of risk; empty without deaths."""
    groups = measures.risk_groups(total, 2)
    deaths = sum(group[0] for group in groups)
    if not np.sum(deaths) or not groups:
        return {}
    everybody = (total["survival.deaths"], total["survival.censored"])
    named = {"all": everybody} | dict(zip(("low risk", "high risk"), groups, strict=True))
    return {name: _survival(*group) for name, group in named.items() if np.sum(group[0]) + np.sum(group[1])}


def _survival(deaths: npt.NDArray[np.int64], censored: npt.NDArray[np.int64]) -> Curve:
    curve = measures.kaplan_meier(deaths, censored)
    return Curve(
        x=[0.0, *map(float, curve.times)],
        y=[1.0, *map(float, curve.survival)],
        low=[1.0, *map(float, curve.low)],
        high=[1.0, *map(float, curve.high)],
        counts=[],
    )
