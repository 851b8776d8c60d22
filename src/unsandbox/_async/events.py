"""Reports requests to hooks, logger and OpenTelemetry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from unsandbox._compat.aio import maybe_await
from unsandbox._shared.hooks import Hooks, PollEvent, RequestEvent, ResponseEvent, RetryEvent
from unsandbox._shared.tracing import count_retry, measure, measuring
from unsandbox.errors import UnsandboxError
from unsandbox.protocol.endpoints.jobs import REQUEST_ID_HEADER

__all__ = ["Observer"]

logger = logging.getLogger("unsandbox.client")

E = TypeVar("E")


class Observer:
    """Reports the events of one connection.

    Args:
        hooks: Whom to tell.
        cleaning: Whether this is a clean-up, which no error of a hook may stop.
    """

    __slots__ = ("_cleaning", "hooks")

    def __init__(self, hooks: Hooks, *, cleaning: bool = False) -> None:
        self.hooks = hooks
        self._cleaning = cleaning

    def event(
        self, operation: str, method: str, path: str, attempt: int, body_bytes: int = 0
    ) -> RequestEvent | None:
        """Return the event of a request; None if there is no listener: no hook, no metrics, no log.

        The other methods accept this None and do nothing.
        """
        heard = self.hooks.request is not None or self.hooks.response is not None
        if heard or measuring() or logger.isEnabledFor(logging.DEBUG):
            return RequestEvent(operation, method, path, attempt, body_bytes)
        return None

    async def asks(self, event: RequestEvent | None) -> None:
        """Report that a request is about to be sent."""
        if event is not None:
            await self._call(self.hooks.request, event)

    async def answered(
        self,
        event: RequestEvent | None,
        origin: str,
        status: int,
        headers: Mapping[str, str],
        began: float,
        body_bytes: int | None = None,
    ) -> None:
        """Report an answer.

        Args:
            event: The request.
            origin: Scheme, host and port of the server.
            status: HTTP status.
            headers: Of the answer.
            began: When the request was begun, by the monotonic clock.
            body_bytes: Size of its body, if it was read.
        """
        if event is None:
            return
        seconds = time.monotonic() - began
        measure(event, origin, seconds, status=status)
        logger.debug("%s: %d after %.1f ms", event.operation, status, seconds * 1000)
        if self.hooks.response is not None:
            request_id = headers.get(REQUEST_ID_HEADER)
            await self._call(self.hooks.response, ResponseEvent(event, status, seconds, body_bytes, request_id))

    def failed(self, event: RequestEvent | None, origin: str, error: UnsandboxError, began: float) -> None:
        """Report that no answer arrived; the call then raises the error or reports a retry."""
        if event is not None:
            measure(event, origin, time.monotonic() - began, error=type(error).__name__)

    async def repeats(self, operation: str, attempt: int, delay_s: float, error: Exception) -> None:
        """Report a retry."""
        logger.info("%s: attempt %d failed (%s); again in %.2f s", operation, attempt, _kind(error), delay_s)
        event = RetryEvent(operation, attempt, delay_s, error)
        count_retry(event)
        await self._call(self.hooks.retry, event)

    async def looked(
        self, operation: str, job_ids: tuple[str, ...], number: int, ended: int, began: float
    ) -> None:
        """Report a poll of jobs; the arguments are those of `PollEvent`, `began` of the monotonic clock."""
        if self.hooks.poll is not None:
            seconds = time.monotonic() - began
            await self._call(self.hooks.poll, PollEvent(operation, job_ids, number, ended, seconds))

    async def _call(self, hook: Callable[[E], object] | None, event: E) -> None:
        if hook is None:
            return
        try:
            await maybe_await(hook(event))
        except Exception as error:
            if not self._cleaning:
                raise
            logger.warning("a hook failed during a clean-up, which goes on: %s", type(error).__name__)


def _kind(error: Exception) -> str:
    """Return the kind of an error without its text, which may contain the server's message."""
    status = getattr(error, "status", None)
    return type(error).__name__ if status is None else f"{type(error).__name__} {status}"
