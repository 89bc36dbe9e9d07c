"""What a person sees while studies run: a live table on a terminal, plain lines elsewhere. Pure: state in, text out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedstudy.wire.admin import AggregatorState, Phase, SiteState
from fedstudy_operator.reconcile.words import main_metric

_COLOURS = {
    "Training": "green",
    "Evaluating": "cyan",
    "Idle": "dim",
    "Done": "green",
    "Failed": "red",
    "Late": "yellow",
    "Revoked": "red",
}
_NAMED = 4
"""With so many sites, each is named while they are waited for; with more they are counted."""
_WAITING = {
    "": "starting",
    "Provisioning": "starting",
    "InvitationNotFound": "starting",
    "PodPending": "starting",
    "Enrolling": "enrolling",
    "PendingHubAcceptance": "enrolling",
    "DialFailed": "connecting",
    "NotConnected": "connecting",
    "NoPlan": "connecting",
    "NotProfiled": "checking its data",
    "PreflightRunning": "checking its data",
    "Idle": "ready",
    "Participating": "ready",
    "CrashLooping": "crashing",
}
_ABSENCE = {
    "NoAnswer": "did not answer in time",
    "Disconnected": "is not connected",
}
_NOT_YET_OR_NO_MORE = ("Invited", "Enrolled", "Done", "Revoked")
"""States of a site that need no connection."""


@dataclass(frozen=True)
class StudyView:
    """A study as the display needs it.

    Attributes:
        name: of the study.
        state: of its aggregator; None before it answers.
        waiting: what is being waited for before that, in a few words.
    """

    name: str
    state: AggregatorState | None
    waiting: str = ""


def waiting_text(summaries: Mapping[str, str]) -> str:
    """What sites are waited for: each by name where they are few, else counted by what they do.

    Args:
        summaries: site → `status.summary` of its participant; empty where it has none yet.
    """
    words = {site: _doing(summary) for site, summary in summaries.items()}
    if len(words) <= _NAMED:
        return " · ".join(f"{site}: {word}" for site, word in words.items())
    counts = ", ".join(f"{count} {word}" for word, count in Counter(words.values()).most_common())
    return f"{len(words)} sites: {counts}"


def _doing(summary: str) -> str:
    """A participant's summary in words: SomeReason → some reason."""
    if " " in summary:  # a round and its instruction: it has work already
        return "ready"
    return _WAITING.get(summary) or "".join(f" {c.lower()}" if c.isupper() else c for c in summary).strip()


def trouble(site: SiteState) -> str:
    """What is the matter with a site, in words; empty where nothing is."""
    if site.state == "Revoked":
        return ""
    if site.reason:
        return _ABSENCE.get(site.reason, site.reason)
    return "" if site.connected or site.state in _NOT_YET_OR_NO_MORE else "connection lost"


def size(count: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds for people: 3:07, or a dash where unknown."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def headline(view: StudyView, elapsed: float) -> str:
    """One line about a study: phase, round, metric, bytes, time."""
    state = view.state
    if state is None:
        return f"{view.name}: {view.waiting or 'starting'} · {duration(elapsed)}"
    parts = [f"{view.name}: {_phase(state)}"]
    if state.round:
        parts.append(f"round {state.round}/{state.rounds}")
    if shown := main_metric(state.metrics):
        parts.append(f"validation {shown[0]} {shown[1]:.3f} (round {state.metrics_round})")
    parts.append(f"{size(state.bytes_in + state.bytes_out)} moved")
    parts.append(duration(elapsed))
    if state.seconds_left is not None and state.phase not in (Phase.COMPLETE, Phase.FAILED):
        parts.append(f"about {duration(state.seconds_left)} left")
    return " · ".join(parts)


def site_cells(site: SiteState) -> list[str]:
    """A site's row: name, state, round, samples, loss, rate, time left."""
    progress = site.progress
    done = f"{progress.samples_done}/{progress.samples_total}" if progress.samples_total else "–"
    return [
        site.name,
        site.state if site.connected or site.state in _NOT_YET_OR_NO_MORE else f"{site.state} (lost)",
        str(site.last_round or "–"),
        str(site.samples or "–"),
        done,
        f"{progress.loss:.3f}" if progress.loss is not None else "–",
        f"{progress.samples_per_second:.1f}/s" if progress.samples_per_second else "–",
        duration(progress.seconds_left),
    ]


def table(view: StudyView, elapsed: float) -> RenderableType:
    """The live table of one study."""
    rows = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in ("site", "state", "round", "cases", "samples", "loss", "rate", "left"):
        rows.add_column(name, justify="left" if name in ("site", "state") else "right")
    for site in view.state.sites if view.state else []:
        cells = site_cells(site)
        rows.add_row(cells[0], Text(cells[1], style=_COLOURS.get(site.state, "")), *cells[2:])
    title = Text(headline(view, elapsed), style="bold")
    notes = (
        [Text(view.state.message, style="yellow")]
        if view.state and view.state.message and view.state.phase is not Phase.COMPLETE
        else []
    )
    reasons = [
        Text(f"{s.name}: {what}", style="yellow")
        for s in (view.state.sites if view.state else [])
        if (what := trouble(s))
    ]
    return Group(title, rows, *notes, *reasons)


@dataclass
class Display:
    """Shows studies on a console; with a terminal as a live table, else as a line for each thing that changed."""

    console: Console
    quiet: bool = False
    _live: Live | None = None
    _said: dict[str, str] = field(default_factory=dict)
    _met: set[str] = field(default_factory=set)
    _start: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, views: Sequence[StudyView]) -> None:
        """Show the present state."""
        elapsed = time.monotonic() - self._start
        if self._live is not None:
            self._live.update(Group(*(table(view, elapsed) for view in views)))
        elif not self.quiet:
            for view in views:
                self._lines(view, elapsed)

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _lines(self, view: StudyView, elapsed: float) -> None:
        """A line when the phase, the round, the metric, or a site's state or reason changed."""
        state = view.state
        key = (
            view.waiting
            if state is None
            else f"{state.phase}{state.round}{state.metrics_round}{state.message}"
        )
        if self._said.get(view.name) != key:
            self._said[view.name] = key
            message = f" · {state.message}" if state and state.message else ""
            self.say(headline(view, elapsed) + message)
        for site in state.sites if state else []:
            # Late, lost and failed sites are worth a line each; a site that works as it should is not.
            what, name = trouble(site), f"{view.name}/{site.name}"
            if site.connected:
                self._met.add(name)
            elif name not in self._met and not site.reason:
                continue  # on its way: it is lost only after it was there
            if self._said.get(name, "") != what:
                self._said[name] = what
                if what or site.state != "Revoked":
                    self.say(f"{view.name}: {site.name}: {what or 'is back'}")


def _phase(state: AggregatorState) -> str:
    words = {
        Phase.WAITING_FOR_SITES: "waiting for sites",
        Phase.PROLOGUE: "exchanging statistics",
        Phase.TRAINING: "training",
        Phase.EPILOGUE: "final evaluation",
        Phase.COMPLETE: "complete",
        Phase.FAILED: "failed",
        Phase.SUSPENDED: "suspended",
    }
    return words[state.phase]
