"""The spans and metrics of each job for OpenTelemetry: how long it waited for a place, and how long it ran."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from unsandbox import _telemetry

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from unsandbox.protocol.models import Job

_WAITED = _telemetry.Seconds("unsandbox.job.queue.duration", "Seconds from acceptance of a job to its start.")
_RAN = _telemetry.Seconds("unsandbox.job.run.duration", "Seconds that a job ran, by status.")


class JobTrace:
    """The spans of one job, children of the request that made it: `job queue`, then `job run`.

    Args:
        job_id: The job.
        language: Its language.
        network_mode: Its network.
    """

    __slots__ = ("_attributes", "_began", "_job_id", "_parent", "_running", "_span")

    def __init__(self, job_id: str, language: str, network_mode: str) -> None:
        self._job_id = job_id
        self._attributes = {
            "unsandbox.job.language": language,
            "unsandbox.job.network_mode": network_mode,
        }
        self._running = False
        self._began = time.monotonic()
        self._parent: Context | None = None
        self._span: Span | None = None
        if _telemetry.tracing():
            from opentelemetry import context

            # Another request may start this job by making room for it; its span is current then.
            self._parent = context.get_current()
            self._span = self._begin("job queue")

    @classmethod
    def begin(cls, job_id: str, language: str, network_mode: str) -> JobTrace | None:
        """Return the trace of a job that has just been accepted; None when nothing records it."""
        return cls(job_id, language, network_mode) if _telemetry.tracing() or _telemetry.measuring() else None

    def started(self) -> None:
        """Record that its sandbox is asked for."""
        if self._span is not None:
            self._span.end()
            self._span = self._begin("job run")
        self._measure(_WAITED)
        self._running = True

    def ended(self, result: Job) -> None:
        """Record the status and exit code of its result."""
        status = result.status or ""
        if self._running:
            self._attributes["unsandbox.job.status"] = status
            self._measure(_RAN)
        if self._span is not None:
            self._span.set_attribute("unsandbox.job.status", status)
            if result.exit_code is not None:
                self._span.set_attribute("process.exit.code", result.exit_code)
            if status == "failed":
                _telemetry.mark_failed(self._span, status)
            self._span.end()
            self._span = None

    def _begin(self, name: str) -> Span:
        attributes = self._attributes | {"unsandbox.job.id": self._job_id}
        return _telemetry.tracer().start_span(name, context=self._parent, attributes=attributes)

    def _measure(self, what: _telemetry.Seconds) -> None:
        now = time.monotonic()
        if _telemetry.measuring():
            what.record(now - self._began, self._attributes)
        self._began = now
