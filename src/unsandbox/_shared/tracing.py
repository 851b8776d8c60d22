"""The client's telemetry for OpenTelemetry: a span for each operation, a measurement for each request."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from unsandbox import _telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from unsandbox._shared.hooks import RequestEvent, RetryEvent

__all__ = ["count_retry", "inject", "measure", "measuring", "span"]

inject = _telemetry.inject
measuring = _telemetry.measuring

_REQUESTS = _telemetry.Seconds("http.client.request.duration", "Duration of HTTP client requests.")
_RETRIES = _telemetry.Count(
    "unsandbox.client.retries", "{retry}", "Requests that failed and were sent again, by operation."
)


def span(operation: str, method: str, path: str, origin: str) -> AbstractContextManager[Span | None]:
    """Open a client span around one operation, all its attempts included.

    Args:
        operation: Its name in the endpoint table.
        method: HTTP method.
        path: Template of its path, without ids.
        origin: Scheme, host and port of the server.
    """
    if not _telemetry.tracing():
        return _telemetry.NO_SPAN
    attributes: _telemetry.Attributes = {
        "http.request.method": method,
        "url.template": path,
        "unsandbox.operation": operation,
        **_server(origin),
    }
    return _telemetry.span(f"unsandbox {operation}", "CLIENT", attributes)


def measure(
    event: RequestEvent, origin: str, seconds: float, *, status: int | None = None, error: str | None = None
) -> None:
    """Record the measurement of one request.

    Args:
        event: The request.
        origin: Scheme, host and port of the server.
        seconds: From its first byte to the end of its answer, or to its failure.
        status: HTTP status of the answer, if there was one.
        error: Name of the error that came instead.
    """
    if not _telemetry.measuring():
        return
    attributes: dict[str, str | int | float | bool] = {
        "http.request.method": event.method,
        "url.template": event.path,
        **_server(origin),
    }
    if status is not None:
        attributes["http.response.status_code"] = status
        error = str(status) if status >= 400 else error
    if error is not None:
        attributes["error.type"] = error
    _REQUESTS.record(seconds, attributes)


def count_retry(event: RetryEvent) -> None:
    """Count a repetition, and note it in the span of its operation."""
    kind = None
    if _telemetry.measuring():
        kind = _telemetry.error_type(event.error)
        _RETRIES.add({"unsandbox.operation": event.operation, "error.type": kind})
    if _telemetry.tracing():
        from opentelemetry import trace

        current = trace.get_current_span()
        kind = kind or _telemetry.error_type(event.error)
        current.add_event("retry", {"error.type": kind, "delay_s": event.delay_s})
        current.set_attribute("http.request.resend_count", event.attempt)


def _server(origin: str) -> dict[str, str | int]:
    parts = urlsplit(origin)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}
