"""results.json as one HTML page that needs nothing else: no script, no network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from fedstudy.results import Evaluation, Results
from fedstudy_operator.display import duration, size
from fedstudy_operator.report import charts

LABELS = {
    "auc": "AUC, all pairs",
    "auc_within": "AUC within sites",
    "c_index": "C-index, all pairs",
    "c_index_within": "C-index within sites",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "sensitivity_at_specificity_90": "Sensitivity at 90 % specificity",
    "log_loss": "Log-loss",
    "brier": "Brier score",
    "ece": "Calibration error",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "ibs": "Integrated Brier score",
}
"""Metrics that the report shows, in order; what is not here is in results.json."""

_HEADLINES = ("auc", "auc_within", "c_index", "c_index_within", "accuracy", "brier", "log_loss")


@dataclass(frozen=True)
class _Cell:
    value: str
    note: str = ""


def render(results: Results) -> str:
    """The page.

    Args:
        results: what a study left.
    """
    environment = Environment(
        loader=PackageLoader("fedstudy_operator.report", "."),
        autoescape=select_autoescape(["html", "j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "duration": duration, "number": _number}
    plan = json.loads(results.plan)
    return environment.get_template("page.html.j2").render(
        results=results,
        plan=plan,
        plan_rows=list(_plan_rows(plan)),
        headlines=[(LABELS[n], _interval(results.metrics, n)) for n in _HEADLINES if n in results.metrics],
        figures=[Markup(svg) for svg in _figures(results, plan)],
        site_columns=_shown(results.test),
        labels=LABELS,
        interval=_interval,
        arm_columns=_arm_columns(results),
        missing=[(r.round, site, why) for r in results.rounds for site, why in sorted(r.missing.items())],
        peak=max((m.peak_bytes for m in results.memory), default=0),
    )


def primary_metric(results: Results) -> str:
    """The metric by which this study is judged."""
    return "c_index" if results.task == "Survival" else "auc"


def _figures(results: Results, plan: dict[str, Any]) -> list[str]:
    metric = primary_metric(results)
    within = f"{metric}_within"
    figures = []
    if any(r.validation and metric in r.validation.metrics for r in results.rounds):
        figures.append(charts.metric_curves(results, metric, f"Validation {LABELS[metric]}"))
    if any(r.validation and within in r.validation.metrics for r in results.rounds):
        figures.append(charts.metric_curves(results, within, f"Validation {LABELS[within]}"))
    if any(r.loss is not None for r in results.rounds):
        figures.append(charts.loss_curve(results.rounds))
    if results.test is None:
        return figures
    if any(metric in s.metrics for s in results.test.sites):
        figures.append(
            charts.site_forest(results.test.sites, results.arms, metric, LABELS[metric].split(",")[0])
        )
    if results.test.calibration:
        figures.append(charts.calibration(results.test.calibration))
    if results.test.kaplan_meier:
        figures.append(
            charts.kaplan_meier(results.test.kaplan_meier, str(plan["task"]["target"].get("time", "time")))
        )
    return figures


_SITE_COLUMNS = ("auc", "c_index", "accuracy", "sensitivity", "specificity", "brier", "log_loss", "ibs")
_ARM_COLUMNS = (
    "auc",
    "auc_within",
    "c_index",
    "c_index_within",
    "accuracy",
    "balanced_accuracy",
    "brier",
    "log_loss",
    "ibs",
)


def _shown(test: Evaluation | None) -> list[str]:
    known = {name for site in test.sites for name in site.metrics} if test else set()
    return [name for name in _SITE_COLUMNS if name in known]


def _arm_columns(results: Results) -> list[str]:
    known = set(results.metrics).union(*(arm.test.metrics for arm in results.arms if arm.test))
    return [name for name in _ARM_COLUMNS if name in known]


def _interval(metrics: dict[str, float], name: str) -> _Cell:
    if name not in metrics:
        return _Cell("–")
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    note = f"{low:.2f}–{high:.2f}" if low is not None and high is not None else ""
    return _Cell(f"{metrics[name]:.3f}", note)


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _plan_rows(value: Any, path: str = "") -> Any:
    """The plan as rows of (path, value); lists of plain values on one row."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _plan_rows(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _plan_rows(item, f"{path}[{number}]")
    else:
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        if shown not in ("", []):
            yield path, shown
