"""Hooks: callbacks for requests, answers, retries and polls. Events never contain bodies, queries or keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request is about to be sent.

    Attributes:
        operation: Name in the endpoint table. `stream_events`, `stream_logs` and `stream_service_logs` open
            event streams, and `terminal` opens a WebSocket.
        method: HTTP method.
        path: Template of the path, such as `/jobs/{id}`.
        attempt: Number of the attempt, from 1.
        body_bytes: Size of the body.
    """

    operation: str
    method: str
    path: str
    attempt: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class ResponseEvent:
    """An answer has arrived.

    Attributes:
        request: The request.
        status: HTTP status; 101 for an open WebSocket.
        seconds: Time from the start of the request, including the wait for a free connection, to the last byte;
            for a stream or WebSocket, until it is open.
        body_bytes: Size of the body; None for streams and WebSockets.
        request_id: The server's id of the request, as in its log.
    """

    request: RequestEvent
    status: int
    seconds: float
    body_bytes: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """A request failed and is sent again, or a stream broke and is reopened.

    Attributes:
        operation: See `RequestEvent`.
        attempt: Number of the failed attempt, from 1; for a stream, the number of breaks without a new byte.
        delay_s: Seconds until the next attempt.
        error: The error; an `APIError` has a `status`.
    """

    operation: str
    attempt: int
    delay_s: float
    error: Exception


@dataclass(frozen=True, slots=True)
class PollEvent:
    """Jobs were polled. Each poll is also a request, with its own events.

    Attributes:
        operation: `get_job` for one job; `wait_jobs` for the jobs of a `map`.
        job_ids: Ids of the jobs.
        number: Number of the poll, from 1.
        ended: Number of jobs that have ended.
        seconds: Time since the wait began.
    """

    operation: str
    job_ids: tuple[str, ...]
    number: int
    ended: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks of a client. An async client awaits awaitable results.

    If a hook raises, the call cancels its work on the server and raises the same exception.
    Exceptions in hooks during a clean-up are only logged.

    Attributes:
        request: Called before each request, including those that open a stream or a WebSocket.
        response: Called after each answer with any status.
        retry: Called before the pause that precedes a retry.
        poll: Called after each poll of jobs.

    Example:
        ```python
        hooks = Hooks(retry=lambda event: print(event.operation, event.attempt, event.error))
        client = AsyncClient(hooks=hooks)
        ```
    """

    request: Callable[[RequestEvent], object] | None = None
    response: Callable[[ResponseEvent], object] | None = None
    retry: Callable[[RetryEvent], object] | None = None
    poll: Callable[[PollEvent], object] | None = None


NO_HOOKS = Hooks()
