"""What the engine tells OpenTelemetry of each job: how long it waited for a place, and how long it ran."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from unsandbox import _telemetry

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from unsandbox.engine.jobs.records import JobRecord
    from unsandbox.protocol.models import Job

_WAITED = _telemetry.Seconds("unsandbox.job.queue.duration", "Seconds from acceptance of a job to its start.")
_RAN = _telemetry.Seconds("unsandbox.job.run.duration", "Seconds that a job was at work, by status.")


class JobTrace:
    """The spans of one job, children of the request that made it: `job queue`, then `job run`.

    Args:
        record: The job.
    """

    __slots__ = ("_attributes", "_began", "_parent", "_running", "_span")

    def __init__(self, record: JobRecord) -> None:
        self._attributes = {
            "unsandbox.job.language": record.language,
            "unsandbox.job.network_mode": record.network_mode,
        }
        self._running = False
        self._began = time.monotonic()
        self._parent: Context | None = None
        self._span: Span | None = None
        if _telemetry.tracing():
            from opentelemetry import context

            # Jobs are started by whoever makes room for them, so what is current then is another request's.
            self._parent = context.get_current()
            self._span = self._begin("job queue", record.job_id)

    @classmethod
    def of(cls, record: JobRecord) -> JobTrace | None:
        """Return the trace of a job that has just been accepted; None where nobody listens."""
        return cls(record) if _telemetry.tracing() or _telemetry.measuring() else None

    def started(self, record: JobRecord) -> None:
        """Tell that its sandbox is asked for."""
        if self._span is not None:
            self._span.end()
            self._span = self._begin("job run", record.job_id)
        self._measure(_WAITED)
        self._running = True

    def ended(self, result: Job) -> None:
        """Tell how it ended.

        Args:
            result: The job with its result; of that, status and exit code are told.
        """
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

    def _begin(self, name: str, job_id: str) -> Span:
        attributes = self._attributes | {"unsandbox.job.id": job_id}
        return _telemetry.tracer().start_span(name, context=self._parent, attributes=attributes)

    def _measure(self, what: _telemetry.Seconds) -> None:
        now = time.monotonic()
        if _telemetry.measuring():
            what.record(now - self._began, self._attributes)
        self._began = now
