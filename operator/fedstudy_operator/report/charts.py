"""The report's figures as inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedstudy.results import Arm, Curve, Evaluation, Results, RoundRecord, SiteMetrics

INK, GRID = "#1f2a37", "#d9dee5"
COLOURS = {"federated": "#0b6e99", "pooled": "#7a4fb5", "local": "#d9822b"}
GROUPS = {"all": "#0b6e99", "low": "#2c8a57", "high": "#c23b4b"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedstudy",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def metric_curves(results: Results, metric: str, label: str) -> str:
    """Validation metric by round: the federation, and the arms beside it."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(label, "round", label)
        _line(axes, "federated", [r.validation for r in results.rounds if r.validation], metric, 2.2)
        for arm in results.arms:
            _line(axes, arm.name, arm.curve, metric, 1.4)
        return _svg(figure, axes, legend=bool(results.arms))


def loss_curve(rounds: Sequence[RoundRecord]) -> str:
    """Mean training loss by round."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas("Training loss", "round", "mean loss")
        known = [(r.round, r.loss) for r in rounds if r.loss is not None]
        axes.plot([r for r, _ in known], [v for _, v in known], color=COLOURS["federated"], linewidth=2.2)
        return _svg(figure, axes)


def site_forest(sites: Sequence[SiteMetrics], arms: Sequence[Arm], metric: str, label: str) -> str:
    """A site a row: the shared model's metric with its 95 % interval, and the site's own model beside it."""
    shown = [site for site in sites if metric in site.metrics]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(f"{label} by site (test)", label, "", height=0.42 * len(shown) + 1.3)
        for row, site in enumerate(shown):
            value = site.metrics[metric]
            low, high = site.metrics.get(f"{metric}_low", value), site.metrics.get(f"{metric}_high", value)
            axes.plot([low, high], [row, row], color=COLOURS["federated"], linewidth=1.6, zorder=2)
            axes.plot(
                [value],
                [row],
                "o",
                color=COLOURS["federated"],
                markersize=6,
                label="federated" if not row else None,
            )
            own = next((arm.own_test.get(site.site) for arm in arms if arm.name == "local"), None)
            if own is not None and metric in own.metrics:
                axes.plot(
                    [own.metrics[metric]],
                    [row],
                    "D",
                    color=COLOURS["local"],
                    markersize=5,
                    label="own model" if not row else None,
                )
        axes.set_yticks(range(len(shown)), [f"{site.site} (n={site.cases})" for site in shown])
        axes.invert_yaxis()
        return _svg(figure, axes, legend=any(arm.own_test for arm in arms))


def calibration(curve: Curve) -> str:
    """Observed share against mean predicted probability."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas("Calibration (test)", "predicted probability", "observed share")
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2, linestyle="--")
        most = max(curve.counts, default=1) or 1
        sizes = [18 + 90 * count / most for count in curve.counts] or 30
        axes.plot(curve.x, curve.y, color=COLOURS["federated"], linewidth=1.2)
        axes.scatter(curve.x, curve.y, s=sizes, color=COLOURS["federated"], zorder=3)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        return _svg(figure, axes)


def kaplan_meier(curves: Mapping[str, Curve], unit: str) -> str:
    """Survival by risk group with 95 % bands."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas("Survival by risk group (test)", unit, "surviving share")
        for name, curve in curves.items():
            colour = next((c for word, c in GROUPS.items() if word in name.lower()), INK)
            width = 1.2 if "all" in name.lower() else 2
            axes.step(curve.x, curve.y, where="post", color=colour, linewidth=width, label=name)
            if curve.low and curve.high:
                axes.fill_between(
                    curve.x, curve.low, curve.high, step="post", color=colour, alpha=0.12, linewidth=0
                )
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        return _svg(figure, axes, legend=True)


def _line(axes: Axes, name: str, evaluations: Sequence[Evaluation], metric: str, width: float) -> None:
    known = [(e.round, e.metrics[metric]) for e in evaluations if metric in e.metrics]
    marker = "o" if len(known) < 2 else None
    axes.plot(
        [r for r, _ in known],
        [v for _, v in known],
        color=COLOURS.get(name, INK),
        linewidth=width,
        label=name,
        marker=marker,
    )


def _canvas(title: str, x: str, y: str, height: float = 3.3) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.set_xlabel(x)
    if x == "round":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure, axes: Axes, *, legend: bool = False) -> str:
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" role="img"', text, count=1)
