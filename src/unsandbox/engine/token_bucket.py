"""A token bucket: limits a rate and allows bursts."""

from __future__ import annotations

import time


class TokenBucket:
    """A bucket that is full at first; tokens return at a steady rate.

    Args:
        capacity: Tokens in a full bucket: the burst that is allowed.
        per_s: Tokens that come back each second.
        now: Seconds of a monotonic clock; by default `time.monotonic()`.

    Example:
        >>> bucket = TokenBucket(2, per_s=1, now=0.0)
        >>> bucket.take(2, now=0.0)
        >>> bucket.wait_s(1, now=0.25)
        0.75
    """

    __slots__ = ("_tokens", "_updated", "capacity", "per_s")

    def __init__(self, capacity: float, per_s: float, now: float | None = None) -> None:
        self.capacity = capacity
        self.per_s = per_s
        self._tokens = capacity
        self._updated = time.monotonic() if now is None else now

    def wait_s(self, tokens: float, now: float | None = None) -> float:
        """Return the seconds until `tokens` are available; 0 if they are available now."""
        self._refill(now)
        return max(0.0, (tokens - self._tokens) / self.per_s)

    def take(self, tokens: float, now: float | None = None) -> None:
        """Take tokens even if too few are available: the bucket may owe some."""
        self._refill(now)
        self._tokens -= tokens

    def is_full(self, now: float | None = None) -> bool:
        """Return whether the bucket is full, so that a new bucket would be the same."""
        self._refill(now)
        return self._tokens >= self.capacity

    def _refill(self, now: float | None) -> None:
        now = time.monotonic() if now is None else now
        self._tokens = min(self.capacity, self._tokens + (now - self._updated) * self.per_s)
        self._updated = now
