"""What a client tells those who want to know: requests, answers, repetitions. Never bodies, queries or keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request is about to be sent.

    Attributes:
        operation: Its name in the endpoint table.
        method: HTTP method.
        path: Template of its path, such as `/jobs/{id}`.
        attempt: 1 for the first time.
        body_bytes: Size of its body.
    """

    operation: str
    method: str
    path: str
    attempt: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class ResponseEvent:
    """An answer has come.

    Attributes:
        request: What it answers.
        status: HTTP status.
        seconds: From the first byte sent to the last one received, waiting for a free connection included.
        body_bytes: Size of its body.
        request_id: The server's id of the request, for its log.
    """

    request: RequestEvent
    status: int
    seconds: float
    body_bytes: int
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """A request failed and is sent again.

    Attributes:
        operation: Its name in the endpoint table.
        attempt: The one that failed, from 1.
        delay_s: Seconds until the next one.
        error: Why; an `APIError` has a `status`.
    """

    operation: str
    attempt: int
    delay_s: float
    error: Exception


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called by a client, in its order of events; an async client awaits what can be awaited.

    An error that a hook raises is raised by the call. Looks at a job while it is waited for are requests like
    all others (operation `get_job`).

    Attributes:
        request: Before each request.
        response: After each answer, whatever its status.
        retry: Before the pause after which a request is sent again.

    Example:
        ```python
        hooks = Hooks(retry=lambda event: print(event.operation, event.attempt, event.error))
        client = AsyncClient(hooks=hooks)
        ```
    """

    request: Callable[[RequestEvent], object] | None = None
    response: Callable[[ResponseEvent], object] | None = None
    retry: Callable[[RetryEvent], object] | None = None


NO_HOOKS = Hooks()
