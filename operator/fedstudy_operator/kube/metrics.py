"""The operator's metrics: the names of controller-runtime, so that dashboards which know them work, and a few of our own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fedstudy_operator.cluster import Key
from fedstudy_operator.queue import WorkQueue
from fedstudy_operator.reconcile.passes import Pass

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Counter(
            "controller_runtime_reconcile",
            "Passes by kind and result.",
            ["controller", "result"],
            registry=self.registry,
        )
        self.errors = Counter(
            "controller_runtime_reconcile_errors", "Passes that failed, by kind.", ["controller"], registry=self.registry
        )  # fmt: skip
        self.seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "How long a pass takes.",
            ["controller"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.leader = Gauge(
            "fedstudy_operator_leader", "1 where this replica holds the Lease.", registry=self.registry
        )
        self.events = Counter(
            "fedstudy_operator_watch_events", "Events of the watches by kind.", ["kind"], registry=self.registry
        )  # fmt: skip
        self.restarts = Counter(
            "fedstudy_watch_restarts",
            "Watches that broke and were opened again, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.paused = Gauge(
            "fedstudy_operator_paused", "Resources that are paused by annotation.", registry=self.registry
        )

    def watch_queue(self, queue: WorkQueue[Key]) -> None:
        """Show the queue too."""
        self.registry.register(_QueueCollector(queue))

    async def measured(self, key: Key, work: Pass) -> float | None:
        """A pass, counted and timed."""
        started = time.perf_counter()
        result = "error"
        try:
            again = await work(key)
            result = "success" if again is None else "requeue_after"
            return again
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        finally:
            self.seconds.labels(key.kind).observe(time.perf_counter() - started)
            self.passes.labels(key.kind, result).inc()
            if result == "error":
                self.errors.labels(key.kind).inc()


class _QueueCollector(Collector):
    """The queue's figures at the moment of asking."""

    def __init__(self, queue: WorkQueue[Key]) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """As prometheus-client asks for them."""
        seen = self._queue.figures()
        for name, text, value in (
            ("workqueue_depth", "Keys that wait for a worker.", float(seen.ready)),
            ("workqueue_unfinished_work_seconds", "Seconds of all passes under way.", seen.unfinished_seconds),
            ("workqueue_longest_running_processor_seconds", "Seconds of the longest.", seen.longest_seconds),
        ):  # fmt: skip
            gauge = GaugeMetricFamily(name, text, labels=["name"])
            gauge.add_metric(["fedstudy"], value)
            yield gauge
        for name, text, value in (
            ("workqueue_adds", "Keys that were put on the queue.", float(seen.adds)),
            ("workqueue_retries", "Passes that failed and were put off.", float(seen.retries)),
        ):
            counter = CounterMetricFamily(name, text, labels=["name"])
            counter.add_metric(["fedstudy"], value)
            yield counter
