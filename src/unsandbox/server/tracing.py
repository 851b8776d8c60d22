"""OpenTelemetry for requests: a span that continues the caller's trace, and a duration histogram."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web

from unsandbox import _telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_REQUESTS = _telemetry.Seconds("http.server.request.duration", "Duration of HTTP server requests.")
_UNKNOWN = "_OTHER"
"""The conventions' name for an unknown method."""


def route_of(request: web.Request) -> str | None:
    """Return the template of a request's path, such as `/jobs/{id}`; None where nothing is served."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


@contextlib.contextmanager
def serving(request: web.Request) -> Iterator[Span | None]:
    """Open the span of one request, a child of the caller's when the request says which that is."""
    if not _telemetry.tracing():
        yield None
        return
    route = route_of(request)
    method = request.method if route else _UNKNOWN
    attributes = {"http.request.method": method, "url.scheme": request.scheme}
    if route:
        attributes["http.route"] = route
    parent = _telemetry.extract(request.headers)
    with _telemetry.span(f"{method} {route}" if route else "HTTP", "SERVER", attributes, parent) as current:
        yield current


def answered(current: Span | None, status: int) -> None:
    """Note the status of the answer in the span of its request."""
    if current is not None:
        current.set_attribute("http.response.status_code", status)
        if status >= 500:
            _telemetry.mark_failed(current, str(status))


def measure(request: web.Request, status: int, seconds: float) -> None:
    """Take the measurement of one request.

    Args:
        request: The request.
        status: HTTP status of its answer.
        seconds: From its headers to its answer.
    """
    if not _telemetry.measuring():
        return
    route = route_of(request)
    attributes: dict[str, str | int | float | bool] = {
        "http.request.method": request.method if route else _UNKNOWN,
        "url.scheme": request.scheme,
        "http.response.status_code": status,
    }
    if route:
        attributes["http.route"] = route
    if status >= 500:
        attributes["error.type"] = str(status)
    _REQUESTS.record(seconds, attributes)
