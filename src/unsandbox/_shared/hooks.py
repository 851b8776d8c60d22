"""What a client tells those who want to know: requests, answers, repetitions, looks.

Never bodies, queries or keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request is about to be sent.

    Attributes:
        operation: Its name in the endpoint table; `stream_events`, `stream_logs` and `stream_service_logs` open
            answers that come piece by piece, `terminal` opens a WebSocket.
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
        status: HTTP status; 101 of a WebSocket that is open.
        seconds: From the first byte sent to the last one received, waiting for a free connection included; of a
            stream and a WebSocket until they are open.
        body_bytes: Size of its body; None of a stream and a WebSocket, whose bytes are still to come.
        request_id: The server's id of the request, for its log.
    """

    request: RequestEvent
    status: int
    seconds: float
    body_bytes: int | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """A request failed and is sent again, or what it had opened broke and is opened again.

    Attributes:
        operation: As in `RequestEvent`.
        attempt: The one that failed, from 1; of what was open, how often it broke without a new byte between.
        delay_s: Seconds until the next one.
        error: Why; an `APIError` has a `status`.
    """

    operation: str
    attempt: int
    delay_s: float
    error: Exception


@dataclass(frozen=True, slots=True)
class PollEvent:
    """Jobs that are waited for were looked at. Each look is a request, too, and told as such before.

    Attributes:
        operation: `get_job` for one job; `wait_jobs` for many of a `map` at once.
        job_ids: Which jobs.
        number: How many looks at them there were, this one included.
        ended: How many of them have ended.
        seconds: How long they have been waited for.
    """

    operation: str
    job_ids: tuple[str, ...]
    number: int
    ended: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called by a client, in its order of events; an async client awaits what can be awaited.

    An error that a hook raises is raised by the call, which first ends on the server what it began there. While
    it does so, and whenever else it cleans up, hooks are still called, but their errors are only logged.

    Attributes:
        request: Before each request, also those that open a stream or a WebSocket.
        response: After each answer, whatever its status.
        retry: Before the pause after which a request is sent again.
        poll: After each look at jobs that are waited for.

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
