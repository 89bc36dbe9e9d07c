"""The aggregator's metrics, read from its state and its database when Prometheus asks: docs/metrics.md has their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedstudy.aggregator.engine import Engine
from fedstudy.aggregator.enrolment import Enrolments
from fedstudy.aggregator.view import aggregator_state
from fedstudy.metrics import by_label, folder_bytes, gauge, histogram, not_after_seconds
from fedstudy.wire.admin import AggregatorState, Phase

_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


class AggregatorFigures(Collector):
    """All of them.

    Args:
        certificate: the file of the server certificate.
    """

    def __init__(self, engine: Engine, enrolments: Enrolments, certificate: Path) -> None:
        self._engine, self._enrolments, self._certificate = engine, enrolments, certificate

    def describe(self) -> Iterator[Metric]:
        """Nothing: names do not depend on the state, and registering asks nothing of the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Now."""
        engine = self._engine
        if engine.store.closed:
            return
        state = aggregator_state(engine, self._enrolments)
        yield from _study(state)
        yield from _sites(state)
        yield from _work(engine)
        yield gauge("fedstudy_store_bytes", "Bytes of the state folder.", folder_bytes(engine.folder))
        held = 1 if engine.trouble else 0
        yield gauge("fedstudy_held_by_full_disk", "1 while a full disk holds the study up.", held)
        if (end := not_after_seconds(self._certificate)) is not None:
            yield gauge(
                "fedstudy_certificate_not_after_seconds", "When the certificate ends, Unix time.", end
            )


def _study(state: AggregatorState) -> Iterator[Metric]:
    working = state.phase in (Phase.PROLOGUE, Phase.TRAINING, Phase.EPILOGUE)
    yield gauge("fedstudy_round", "The round under way, or the last one; 0 is the prologue.", state.round)
    yield gauge("fedstudy_rounds", "Rounds planned.", state.rounds)
    yield gauge("fedstudy_training", "1 while sites have work.", int(working))
    phases = GaugeMetricFamily("fedstudy_phase", "1 for the phase that the study is in.", labels=["phase"])
    yield by_label(phases, {phase.value: float(phase is state.phase) for phase in Phase})
    metrics = GaugeMetricFamily(
        "fedstudy_validation", "Latest metric on the validation splits of all sites.", labels=["metric"]
    )
    yield by_label(metrics, state.metrics)
    pending = len(state.pending)
    yield gauge("fedstudy_enrolments_pending", "Certificate requests that wait for the operator.", pending)


def _sites(state: AggregatorState) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "fedstudy_site_connected", "1 while a site's stream is open.", labels=["site"]
    )
    yield by_label(connected, {s.name: float(s.connected) for s in state.sites if s.state != "Revoked"})
    received = CounterMetricFamily(
        "fedstudy_site_received_bytes", "Bytes received from a site.", labels=["site"]
    )
    yield by_label(received, {s.name: s.bytes_in for s in state.sites})
    sent = CounterMetricFamily("fedstudy_site_sent_bytes", "Bytes sent to a site.", labels=["site"])
    yield by_label(sent, {s.name: s.bytes_out for s in state.sites})


def _work(engine: Engine) -> Iterator[Metric]:
    found = engine.store.figures()
    yield histogram("fedstudy_round_seconds", "How long rounds took.", "", {"": found.rounds}, _SECONDS)
    yield histogram(
        "fedstudy_stage_seconds", "How long closed stages took, by kind.", "kind", found.stages, _SECONDS
    )
    accepted = CounterMetricFamily("fedstudy_updates_accepted", "Answers accepted, by kind.", labels=["kind"])
    yield by_label(accepted, found.answers)
    refused = CounterMetricFamily(
        "fedstudy_refusals", "Refused: handshakes, calls, and answers (Submit), by what.", labels=["what"]
    )
    yield by_label(refused, found.refusals)
    count, seconds = engine.folds
    yield CounterMetricFamily("fedstudy_folds", "Stages worked up since the start.", value=count)
    yield CounterMetricFamily("fedstudy_fold_seconds", "Seconds spent on that.", value=seconds)
