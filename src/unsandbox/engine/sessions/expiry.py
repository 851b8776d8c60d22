"""Sessions end at their deadline, or when they are not used for their `ttl`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from unsandbox.engine.background import Background
from unsandbox.engine.persistent.activity import steady_time
from unsandbox.engine.sessions.record import SessionRecord
from unsandbox.engine.store.objects import Collection

logger = logging.getLogger("unsandbox.engine.sessions.sessions")

_AGAIN_S = 60.0
_AFTER_S = 0.05
"""So that the time is over for sure when the timer fires."""


class Expiry:
    """One timer for each session.

    Args:
        collection: All sessions.
        background: Runs the deletions.
        in_use: Tells whether a call uses a session now.
        remove: Deletes a session, for the reason `deadline` or `idle`.
    """

    def __init__(
        self,
        collection: Collection[SessionRecord],
        background: Background,
        in_use: Callable[[SessionRecord], bool],
        remove: Callable[[SessionRecord, str], Awaitable[None]],
    ) -> None:
        self._collection = collection
        self._background = background
        self._in_use = in_use
        self._remove = remove
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self, record: SessionRecord, not_before_s: float = 0.0) -> None:
        """Begin to watch a session, which expires in `not_before_s` seconds at the earliest."""
        delay = max(not_before_s, record.due - steady_time())
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
        if record.ends_at is None and self._in_use(record):
            record.last_activity = steady_time()
        if steady_time() < record.due:
            self.start(record)
        else:
            self._expired(record, "idle" if record.ends_at is None else "deadline")

    def _expired(self, record: SessionRecord, reason: str) -> None:
        if self._collection.find(record.object_id) is record:
            logger.info("%s: deleted (%s; ttl %d s)", record.container, reason, record.ttl)
            self._background.start(self._expire(record, reason))

    async def _expire(self, record: SessionRecord, reason: str) -> None:
        try:
            await self._remove(record, reason)
        except Exception:
            logger.exception("%s could not be deleted; retrying later", record.container)
            self.start(record, not_before_s=_AGAIN_S)
