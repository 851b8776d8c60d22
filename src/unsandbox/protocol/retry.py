"""The decision whether and when a failed request is sent again: a pure function without clock or randomness."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass

from unsandbox.errors import RETRYABLE_STATUSES

SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods that may be repeated as they are (RFC 9110, 9.2.2)."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number and timing of retries. Times are in seconds.

    Attributes:
        max_retries: Further attempts after the first; 0 turns retrying off.
        base_s: Upper bound of the first delay; it doubles with each retry.
        cap_s: Upper bound of every delay.
        retry_after_cap_s: With a longer `Retry-After` the error is raised at once.
        statuses: HTTP statuses after which a request is retried.
    """

    max_retries: int = 2
    base_s: float = 0.25
    cap_s: float = 8.0
    retry_after_cap_s: float = 60.0
    statuses: frozenset[int] = RETRYABLE_STATUSES


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed attempt.

    Attributes:
        method: HTTP method.
        number: 1 for the first attempt.
        status: Status of the answer; None when there was none.
        has_idempotency_key: Whether it has an `Idempotency-Key` that the server is known to honour.
        retry_after_s: Delay that the server asked for, in seconds.
        remaining_s: Seconds left until the caller's deadline; None without one.
        sent: Whether a part of the request may have reached the server.
    """

    method: str
    number: int
    status: int | None = None
    has_idempotency_key: bool = False
    retry_after_s: float | None = None
    remaining_s: float | None = None
    sent: bool = True


def retry_delay(attempt: Attempt, policy: RetryPolicy, jitter: float) -> float | None:
    """Return the seconds to wait before the next attempt, or None if the error should be raised.

    A connection that failed and the statuses 429, 502, 503 and 504 are repeated; a POST or PATCH only with an
    idempotency key or when nothing was sent, as the server may have acted on the first one. 429 and 503 are
    answers given *instead* of acting, so they are repeated for every method.

    Args:
        attempt: What happened.
        policy: The bounds.
        jitter: A random number in [0, 1), which the caller draws.

    Example:
        >>> retry_delay(Attempt("GET", 1, status=503), RetryPolicy(base_s=1.0), jitter=0.5)
        0.75
        >>> retry_delay(Attempt("POST", 1, status=502), RetryPolicy(), jitter=0.5) is None
        True
    """
    if attempt.number > policy.max_retries:
        return None
    if attempt.status is not None and attempt.status not in policy.statuses:
        return None
    repeatable = attempt.method in SAFE_METHODS or attempt.has_idempotency_key or not attempt.sent
    if not repeatable and attempt.status not in {429, 503}:
        return None
    if attempt.retry_after_s is not None:
        if attempt.retry_after_s > policy.retry_after_cap_s:
            return None
        delay = attempt.retry_after_s
    else:
        ceiling = min(policy.cap_s, policy.base_s * 2.0 ** min(attempt.number - 1, 60))
        # Half fixed, half random: spreads many clients in time.
        delay = ceiling * (1 + jitter) / 2
    if attempt.remaining_s is not None and delay >= attempt.remaining_s:
        return None
    return delay


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3), or None.

    Both forms are read, seconds and date; a date in the past gives 0, nonsense gives None.

    Args:
        headers: Response headers; the name is looked up as `Retry-After`.
        now: Unix time in seconds.

    Example:
        >>> parse_retry_after({"Retry-After": "1.5"}, now=0.0)
        1.5
    """
    text = headers.get("Retry-After", "").strip()
    if not text or not text.isascii():
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
        return max(0.0, seconds)
    return seconds if 0 <= seconds < float("inf") else None
