"""The queue of waiting jobs: first come first served within a key, turn by turn between keys."""

from __future__ import annotations

import asyncio
from collections import deque

from unsandbox.engine.jobs import JobRecord


class FairQueue:
    """A queue in which one key's thousand jobs do not delay another key's first.

    Bound to the event loop it is used on.
    """

    def __init__(self) -> None:
        self._by_owner: dict[str, deque[JobRecord]] = {}
        self._turns: deque[str] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def put(self, record: JobRecord) -> None:
        """Add a job at the end of its key's line."""
        line = self._by_owner.get(record.owner)
        if line is None:
            line = self._by_owner[record.owner] = deque()
            self._turns.append(record.owner)
        line.append(record)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def remove(self, record: JobRecord) -> bool:
        """Take a job out before its turn; return False when it is not waiting here."""
        line = self._by_owner.get(record.owner, deque())
        try:
            line.remove(record)
        except ValueError:
            return False
        return True

    def pop(self) -> JobRecord | None:
        """Return the next job, or None when there is none."""
        while self._turns:
            owner = self._turns.popleft()
            line = self._by_owner[owner]
            record = line.popleft() if line else None
            if line:
                self._turns.append(owner)
            else:
                del self._by_owner[owner]
            if record is not None:
                return record
        return None

    async def get(self) -> JobRecord:
        """Return the next job; wait for one when there is none."""
        while (record := self.pop()) is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # A wake-up that was meant for us must not be lost on the others.
                if waiter.done() and not waiter.cancelled() and self._waiting:
                    self._waiting.popleft().set_result(None)
                raise
        return record
