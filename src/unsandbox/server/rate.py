"""How many requests a key may send: a token bucket per key."""

from __future__ import annotations

import time

from unsandbox.engine import LimitReached
from unsandbox.engine.accounts.keys import KeySettings

_FORGET_ABOVE = 10_000


class Rates:
    """The buckets of all keys that have a limit. Full at first; a token comes back every 60 / rate seconds."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, owner: str, settings: KeySettings, now: float | None = None) -> None:
        """Take one token.

        Args:
            owner: The key.
            settings: Its limits.
            now: Seconds of a monotonic clock.

        Raises:
            LimitReached: There is none; the message says when the next one comes.
        """
        rate = settings.rate_per_minute
        if rate is None:
            return
        now = time.monotonic() if now is None else now
        capacity = float(settings.burst or rate)
        tokens, since = self._buckets.get(owner, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * rate / 60.0)
        if tokens < 1.0:
            self._buckets[owner] = (tokens, now)
            wait_s = (1.0 - tokens) * 60.0 / rate
            raise LimitReached(
                f"this key may send {rate} requests a minute; the next one in {wait_s:.1f} s",
                code="rate_limit_exceeded",
                retry_after=max(1, round(wait_s + 0.5)),
            )
        if len(self._buckets) > _FORGET_ABOVE:
            self._buckets.clear()
        self._buckets[owner] = (tokens - 1.0, now)
