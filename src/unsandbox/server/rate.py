"""The rate limit of requests: a token bucket per key."""

from __future__ import annotations

import time

from unsandbox.engine import LimitReached
from unsandbox.engine.accounts.keys import KeySettings
from unsandbox.engine.token_bucket import TokenBucket

_SWEEP_ABOVE = 10_000


class Rates:
    """The buckets of all keys that have a limit and have sent a request lately."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._sweep_above = _SWEEP_ABOVE

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, owner: str, settings: KeySettings, now: float | None = None) -> None:
        """Take one token.

        Args:
            owner: The key.
            settings: Its limits.
            now: Seconds of a monotonic clock.

        Raises:
            LimitReached: The rate is exceeded; the message has the seconds to wait.
        """
        rate = settings.rate_per_minute
        if rate is None:
            return
        now = time.monotonic() if now is None else now
        bucket = self._buckets.get(owner)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[owner] = TokenBucket(settings.burst or rate, rate / 60.0, now)
        # The limits of a key may be changed at any time.
        bucket.capacity, bucket.per_s = settings.burst or rate, rate / 60.0
        if (wait_s := bucket.wait_s(1, now)) > 0:
            raise LimitReached(
                f"this key may send {rate} requests per minute; retry in {wait_s:.1f} s",
                code="rate_limit_exceeded",
                retry_after=max(1, round(wait_s + 0.5)),
            )
        bucket.take(1, now)

    def _sweep(self, now: float) -> None:
        """Drop full buckets, which need no state; the next sweep is at twice the number that is left."""
        if len(self._buckets) >= self._sweep_above:
            self._buckets = {
                owner: bucket for owner, bucket in self._buckets.items() if not bucket.is_full(now)
            }
            self._sweep_above = max(_SWEEP_ABOVE, 2 * len(self._buckets))
