"""The agent's metrics, read from what it shows its operator when Prometheus asks: docs/metrics.md has their names.

They stay in the hospital, with everything else that the agent serves on this port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedstudy.agent.board import Board
from fedstudy.agent.ledger import Head
from fedstudy.metrics import by_label, folder_bytes, gauge, unix_time
from fedstudy.wire.admin import AgentState


class AgentFigures(Collector):
    """All of them.

    Args:
        folder: the agent's state.
        refusals: how many calls and handshakes were refused since the start.
    """

    def __init__(self, board: Board, folder: Path, refusals: Callable[[], int]) -> None:
        self._board, self._folder, self._refusals = board, folder, refusals

    def describe(self) -> Iterator[Metric]:
        """Nothing: names do not depend on the state."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Now."""
        state = self._board.state
        yield from _hub(state)
        yield from _work(state)
        yield from _trainer(state)
        entries = Head.parse(state.ledger_head).entries
        yield CounterMetricFamily("fedstudy_ledger_entries", "Entries of the ledger.", value=entries)
        sent = "Bytes that have left the hospital, as the ledger has them."
        yield CounterMetricFamily("fedstudy_sent_bytes", sent, value=state.bytes_sent)
        refused = "Refused handshakes and calls since the start."
        yield CounterMetricFamily("fedstudy_refusals", refused, value=self._refusals())
        yield gauge("fedstudy_store_bytes", "Bytes of the state folder.", folder_bytes(self._folder))


def _hub(state: AgentState) -> Iterator[Metric]:
    yield gauge("fedstudy_enrolled", "1 with a certificate of the study.", int(state.enrolled))
    yield gauge("fedstudy_hub_connected", "1 while the stream to the hub is open.", int(state.connected))
    if (end := unix_time(state.certificate_not_after)) is not None:
        yield gauge("fedstudy_certificate_not_after_seconds", "When the certificate ends, Unix time.", end)


def _work(state: AgentState) -> Iterator[Metric]:
    yield gauge("fedstudy_plan_approved", "1 while the offered plan is approved.", int(state.approved))
    yield gauge("fedstudy_policy_violations", "What of the plan the policy refuses.", len(state.violations))
    yield gauge("fedstudy_round", "The round that the site is in.", state.round)
    yield gauge(
        "fedstudy_work_waiting",
        "1 while an instruction waits for, or is at, a trainer.",
        int(bool(state.work)),
    )
    yield gauge("fedstudy_finished", "1 when the study is over.", int(state.finished))
    metrics = GaugeMetricFamily(
        "fedstudy_validation", "Latest metric on this hospital's own cases.", labels=["metric"]
    )
    yield by_label(metrics, state.metrics)


def _trainer(state: AgentState) -> Iterator[Metric]:
    progress = state.progress
    yield gauge("fedstudy_trainer_samples_done", "Cases done of the work under way.", progress.samples_done)
    yield gauge("fedstudy_trainer_samples_total", "Cases of the work under way.", progress.samples_total)
    rate = progress.samples_per_second or 0.0
    yield gauge("fedstudy_trainer_samples_per_second", "How fast the trainer is.", rate)
    yield gauge(
        "fedstudy_trainer_silent",
        "1 while the trainer that took the work shows no sign of life.",
        int(state.trainer_silent),
    )
    if (seen := unix_time(state.trainer_last_seen)) is not None:
        yield gauge("fedstudy_trainer_last_seen_seconds", "Last sign of life of a trainer, Unix time.", seen)
    if progress.loss is not None:
        yield gauge("fedstudy_trainer_loss", "Mean training loss of the work under way.", progress.loss)
