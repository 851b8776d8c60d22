"""The state of one operation over all its attempts, and the conversion of its errors."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox.errors import (
    APIError,
    AuthenticationError,
    ConnectionFailedError,
    UnavailableError,
    UnsandboxError,
    with_base,
)
from unsandbox.protocol.contents import LARGE, Pieces, chunks_of
from unsandbox.protocol.retry import Attempt, RetryPolicy
from unsandbox.protocol.signing import CLOCK_TOLERANCE_S


class PreparedRequest:
    """Body and idempotency key of one operation.

    Attributes:
        body: The bytes to send, the same in every attempt. A small one is in memory.
        key: Idempotency key, the same in every attempt, so that a server acts once; None for none.
        content_type: Of the body.
        needs: Features without which a server would drop a part of it in silence.
        sent: Whether the server may have received and executed an attempt.
    """

    __slots__ = ("body", "content_type", "key", "needs", "sent")

    def __init__(
        self,
        body: bytes | Pieces = b"",
        content_type: str = "application/json",
        *,
        creates: bool = True,
        needs: Sequence[str] = (),
    ) -> None:
        small = not isinstance(body, bytes) and len(body) <= LARGE
        self.body = b"".join(chunks_of(body)) if small else body
        self.content_type = content_type
        self.needs = needs
        self.key: str | None = os.urandom(16).hex() if creates else None
        self.sent = False


class Bounds(NamedTuple):
    """How long one call may take, and how patiently it is repeated.

    Attributes:
        deadline: The caller's deadline.
        timeout: Seconds for one HTTP request; None for the client's own.
        retry: Policy for repeating it; None for the client's own.
        urgent: Not to wait for a free connection: ending jobs must be possible while jobs hold all of them.
    """

    deadline: Deadline = NEVER
    timeout: float | None = None
    retry: RetryPolicy | None = None
    urgent: bool = False


UNBOUNDED = Bounds()
"""No deadline, and otherwise the client's own."""

INSTEAD_OF_ACTING = frozenset({429, 503})
"""Statuses of a server that has not executed the request."""


def failed_attempt(
    method: str, number: int, error: UnsandboxError, deadline: Deadline = NEVER, *, repeatable: bool = False
) -> Attempt:
    """Describe an attempt that failed.

    Args:
        method: HTTP method.
        number: Which attempt, from 1.
        error: How it failed.
        deadline: The caller's deadline.
        repeatable: Whether the server acts once, even if the request is sent several times.
    """
    return Attempt(
        method,
        number,
        status=getattr(error, "status", None),
        has_idempotency_key=repeatable,
        sent=getattr(error, "sent", True),
        retry_after_s=getattr(error, "retry_after", None),
        remaining_s=deadline.remaining(),
    )


def may_have_acted(error: ConnectionFailedError | APIError) -> bool:
    """Return whether the server may have executed a request that failed with this error."""
    if isinstance(error, APIError):
        return isinstance(error, UnavailableError) and error.status not in INSTEAD_OF_ACTING
    return error.sent


def library_error(error: APIError, library: str, headers: Mapping[str, str]) -> APIError:
    """Return the error as one that is also an error of the HTTP library, with a hint where one helps."""
    return with_base(type(error), library)(
        str(error) + _hint(error, headers),
        status=error.status,
        code=error.code,
        server_message=error.server_message,
        request_id=error.request_id,
        retry_after=error.retry_after,
        body=error.body,
    )


def _hint(error: APIError, headers: Mapping[str, str]) -> str:
    if 300 <= error.status < 400:
        parts = urlsplit(headers.get("Location", ""))
        there = f" to {parts.scheme}://{parts.hostname}" if parts.scheme and parts.hostname else ""
        return f": the server redirects{there}, and signed requests follow no redirect; change the API base URL"
    if isinstance(error, AuthenticationError) and abs(off := clock_offset(headers)) > CLOCK_TOLERANCE_S:
        return f"; this machine's clock is {abs(off):.0f} s off, and {CLOCK_TOLERANCE_S} s are allowed: set it"
    return ""


def clock_offset(headers: Mapping[str, str]) -> float:
    """Return the seconds that the server's clock is ahead, from the `Date` of its answer; 0 without one."""
    try:
        return parsedate_to_datetime(headers.get("Date", "")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
