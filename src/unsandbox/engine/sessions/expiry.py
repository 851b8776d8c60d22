"""Sessions that are not used for their `ttl` expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unsandbox.engine.persistent.activity import steady_time
from unsandbox.engine.sessions.record import SessionRecord

_AFTER_S = 0.05
"""So that the time is over for sure when the timer fires."""


class Expiry:
    """One timer for each session.

    Args:
        in_use: Tells whether a call uses a session now.
        expired: Called when a session was not used for its `ttl`.
    """

    def __init__(
        self, in_use: Callable[[SessionRecord], bool], expired: Callable[[SessionRecord], None]
    ) -> None:
        self._in_use = in_use
        self._expired = expired
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self, record: SessionRecord, not_before_s: float = 0.0) -> None:
        """Begin to watch a session, which expires in `not_before_s` seconds at the earliest."""
        delay = max(not_before_s, record.last_activity + record.ttl - steady_time())
        loop = asyncio.get_running_loop()
        self._timers[record.object_id] = loop.call_later(delay + _AFTER_S, self.check, record)

    def stop(self, record: SessionRecord) -> None:
        """Watch a session no longer."""
        if (timer := self._timers.pop(record.object_id, None)) is not None:
            timer.cancel()

    def stop_all(self) -> None:
        """Watch no session any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def check(self, record: SessionRecord) -> None:
        """Expire a session, or look again when its time will be over."""
        self.stop(record)
        if self._in_use(record):
            record.last_activity = steady_time()
        if steady_time() - record.last_activity < record.ttl:
            self.start(record)
        else:
            self._expired(record)
