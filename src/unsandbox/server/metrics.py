"""The server's metrics in the text format of Prometheus, by `prometheus-client`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unsandbox.engine import Engine
from unsandbox.server.watchdog import LoopWatchdog

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


@dataclass(frozen=True, slots=True)
class Budget:
    """Everything that a server holds for others and that has a bound.

    Attributes:
        connections: Open connections, by the process that serves them.
        refused: Connections and beginnings of requests that found no room, by what there were too many of.
        held_bytes: Bytes by what they are.
        ingress_starts: How often the ingress process was started.
    """

    connections: Mapping[str, int]
    refused: Mapping[str, int]
    held_bytes: Mapping[str, int]
    ingress_starts: int


class Metrics:
    """The numbers of one server and its engine.

    Args:
        engine: Asked for its numbers when they are read.
        budget: Returns what the server holds.
        watchdog: Counts the times in which the event loop is held.
    """

    def __init__(
        self, engine: Engine, budget: Callable[[], Budget], watchdog: LoopWatchdog | None = None
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        labels = ("method", "route")
        self._requests = Counter(
            "unsandbox_http_requests", "Requests answered.", (*labels, "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "unsandbox_http_request_seconds",
            "Seconds from a request's headers to its answer.",
            labels,
            buckets=_LATENCIES_S,
            registry=self._registry,
        )
        self._registry.register(_EngineNumbers(engine))
        self._registry.register(_Held(budget))
        if watchdog is not None:
            self._registry.register(_Stalls(watchdog))
        # Looked up once: the library checks and joins the labels each time.
        self._series = functools.cache(
            lambda method, route, status: (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        )

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` is the path's template, so that the labels stay few."""
        count, times = self._series(method, route, status)
        count.inc()
        times.observe(seconds)

    def text(self) -> bytes:
        """Return everything as text."""
        return generate_latest(self._registry)


class _EngineNumbers(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        numbers = self._engine.numbers()
        for name, help_text in (
            ("jobs_waiting", "Jobs accepted and not started."),
            ("jobs_running", "Jobs in a sandbox."),
            ("sessions", "Sessions that exist."),
            ("services", "Services that exist."),
            ("snapshots", "Snapshots that are kept."),
            ("images", "Images that are kept."),
        ):
            if name in numbers:
                yield GaugeMetricFamily(f"unsandbox_{name}", help_text, value=numbers[name])
        ended = CounterMetricFamily("unsandbox_jobs_ended", "Jobs that ended, by status.", labels=["status"])
        for status, count in self._engine.jobs.ended_by_status.items():
            ended.add_metric([status], count)
        yield ended


class _Held(Collector):
    def __init__(self, budget: Callable[[], Budget]) -> None:
        self._budget = budget

    def collect(self) -> Iterator[Metric]:
        budget = self._budget()
        for name, help_text, label, values in (
            (
                "connections",
                "Open connections, by the process that serves them.",
                "process",
                budget.connections,
            ),
            ("held_bytes", "Bytes held for others, by what they are.", "kind", budget.held_bytes),
        ):
            gauge = GaugeMetricFamily(f"unsandbox_{name}", help_text, labels=[label])
            for key, value in values.items():
                gauge.add_metric([key], value)
            yield gauge
        refused = CounterMetricFamily("unsandbox_refused", "Refused for want of room.", labels=["kind"])
        for key, value in budget.refused.items():
            refused.add_metric([key], value)
        yield refused
        yield CounterMetricFamily(
            "unsandbox_ingress_starts", "Starts of the ingress process.", value=budget.ingress_starts
        )
        with contextlib.suppress(OSError):
            yield GaugeMetricFamily(
                "unsandbox_open_descriptors",
                "Open file descriptors of the server process.",
                value=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            )


class _Stalls(Collector):
    def __init__(self, watchdog: LoopWatchdog) -> None:
        self._watchdog = watchdog

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "unsandbox_loop_stalls", "Times in which the event loop was held.", value=self._watchdog.count
        )
        yield CounterMetricFamily(
            "unsandbox_loop_stall_seconds", "Seconds of these together.", value=self._watchdog.total_s
        )
