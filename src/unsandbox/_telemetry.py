"""OpenTelemetry, in programs that use it: spans and measurements; in all others nothing, not even an import.

Both sides stand on this. Nothing that is told holds code, output, keys, ids that open something, or the words
of an error: of an error only its kind.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unsandbox._version import __version__

if TYPE_CHECKING:
    from opentelemetry import metrics
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

Attributes = Mapping[str, str | int | float | bool]

_SCOPE = "unsandbox"
_HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds that the semantic conventions give for seconds of HTTP requests."""


def tracing() -> bool:
    """Return whether the program has loaded the API of spans; otherwise it cannot use any."""
    return "opentelemetry.trace" in sys.modules


def measuring() -> bool:
    """Return whether the program has loaded the API of metrics."""
    return "opentelemetry.metrics" in sys.modules


@functools.cache
def tracer() -> Tracer:
    """Return the tracer of this package; call it only when `tracing()`."""
    from opentelemetry import trace

    return trace.get_tracer(_SCOPE, __version__)


NO_SPAN: AbstractContextManager[Span | None] = contextlib.nullcontext()
"""The span of programs without OpenTelemetry."""


def span(
    name: str,
    kind: Literal["CLIENT", "SERVER", "INTERNAL"],
    attributes: Attributes,
    parent: Context | None = None,
) -> AbstractContextManager[Span | None]:
    """Open a span that is the current one within the block; an error that leaves the block marks it.

    Args:
        name: Of few possible ones, so no ids.
        kind: Which end of a call it is.
        attributes: The attributes that are known at its start.
        parent: The context of its parent; by default the current span.

    Returns:
        A context manager for the span; `NO_SPAN` in a program without OpenTelemetry.
    """
    return _opened(name, kind, attributes, parent) if tracing() else NO_SPAN


@contextlib.contextmanager
def _opened(
    name: str,
    kind: Literal["CLIENT", "SERVER", "INTERNAL"],
    attributes: Attributes,
    parent: Context | None,
) -> Iterator[Span]:
    from opentelemetry.trace import SpanKind

    # The exception itself is not recorded, because its text and traceback may contain private data.
    with tracer().start_as_current_span(
        name,
        context=parent,
        kind=SpanKind[kind],
        attributes=dict(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            mark_failed(current, error_type(error))
            raise


def mark_failed(current: Span, kind: str) -> None:
    """Mark a span as failed.

    Args:
        current: The span.
        kind: How: a status code, or the name of an error class.
    """
    from opentelemetry.trace import StatusCode

    current.set_attribute("error.type", kind)
    current.set_status(StatusCode.ERROR)


def error_type(error: BaseException) -> str:
    """Return the `error.type` of the conventions: the HTTP status, otherwise the name of the class."""
    status = getattr(error, "status", None)
    return type(error).__name__ if status is None else str(status)


def inject(headers: dict[str, str]) -> None:
    """Add the headers that let the other side continue the trace (W3C Trace Context)."""
    if tracing():
        from opentelemetry import propagate

        propagate.inject(headers)


def extract(headers: Mapping[str, str]) -> Context | None:
    """Return the context of the trace that a request belongs to; None in a program without OpenTelemetry."""
    if not tracing():
        return None
    from opentelemetry import propagate

    return propagate.extract(headers)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A histogram of durations.

    Attributes:
        name: By the semantic conventions where they have one.
        description: For people.
    """

    name: str
    description: str

    def record(self, seconds: float, attributes: Attributes) -> None:
        """Record one measurement; call it only if `measuring()`, so that attributes are not built in vain."""
        _histogram(self).record(seconds, dict(attributes))


@dataclass(frozen=True, slots=True)
class Count:
    """A counter that only grows.

    Attributes:
        name: As for `Seconds`.
        unit: The counted thing, in braces.
        description: For people.
    """

    name: str
    unit: str
    description: str

    def add(self, attributes: Attributes) -> None:
        """Count one; call it only when `measuring()`."""
        _counter(self).add(1, dict(attributes))


@functools.cache
def _histogram(what: Seconds) -> metrics.Histogram:
    from opentelemetry import metrics

    return metrics.get_meter(_SCOPE, __version__).create_histogram(
        what.name, "s", what.description, explicit_bucket_boundaries_advisory=_HTTP_BUCKETS_S
    )


@functools.cache
def _counter(what: Count) -> metrics.Counter:
    from opentelemetry import metrics

    return metrics.get_meter(_SCOPE, __version__).create_counter(what.name, what.unit, what.description)
