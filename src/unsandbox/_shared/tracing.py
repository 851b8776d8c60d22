"""Spans of OpenTelemetry, in programs that use it; in all others nothing, not even an import."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def span(operation: str, method: str, path: str) -> Iterator[Any]:
    """Open a client span around one operation, all its attempts included.

    Args:
        operation: Its name in the endpoint table.
        method: HTTP method.
        path: Template of its path; ids are not told.

    Yields:
        The span, or None.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield None
        return
    attributes = {"http.request.method": method, "url.template": path, "unsandbox.operation": operation}
    tracer = trace.get_tracer("unsandbox")
    with tracer.start_as_current_span(
        f"unsandbox {operation}", kind=trace.SpanKind.CLIENT, attributes=attributes
    ) as current:
        yield current


def inject(headers: dict[str, str]) -> None:
    """Add the headers that let the server continue the trace (W3C Trace Context)."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(headers)
