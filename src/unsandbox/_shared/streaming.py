"""Endpoints whose answers stay open: event streams, logs and terminals."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["JOB_EVENTS", "LOGS", "PORT", "SERVICE_LOGS", "TERMINAL", "StreamEndpoint"]


class StreamEndpoint(NamedTuple):
    """An endpoint whose answer stays open.

    Attributes:
        name: Its name for hooks and spans.
        path: Template of its path.
    """

    name: str
    path: str


JOB_EVENTS = StreamEndpoint("stream_events", "/jobs/{id}/events")
LOGS = StreamEndpoint("stream_logs", "/logs/stream")
SERVICE_LOGS = StreamEndpoint("stream_service_logs", "/services/{id}/logs/stream")
TERMINAL = StreamEndpoint("terminal", "/sessions/{id}/shell")
PORT = StreamEndpoint("connect_port", "/sessions/{id}/ports/{port}")
