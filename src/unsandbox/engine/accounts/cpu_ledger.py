"""The CPU time of each key by minute, for one day; stored across restarts."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from unsandbox.engine.store.objects import Collection, ObjectStore, Record

HOUR_S = 3600
DAY_S = 86400
_SLICE_S = 60


class CpuUse(Record, kw_only=True):
    """The stored CPU time of a key: seconds by minute since 1970."""

    minutes: dict[int, float] = msgspec.field(default_factory=dict)


class CpuLedger:
    """The CPU use of all keys that have a limit.

    Args:
        store: Storage for it.
        clock: Returns Unix time.
    """

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.time) -> None:
        self._collection: Collection[CpuUse] = Collection("cpu_use", CpuUse, store)
        self._clock = clock
        self._uses: dict[str, CpuUse] = {}
        self._unsaved: set[str] = set()

    async def load(self) -> None:
        """Load the state that an earlier process stored."""
        self._uses = {use.owner: use for use in await self._collection.load()}

    async def save(self) -> None:
        """Store what has changed; what cannot be stored stays to be stored."""
        for owner in list(self._unsaved):
            self._unsaved.discard(owner)
            try:
                await self._collection.put(self._uses[owner])
            except BaseException:
                self._unsaved.add(owner)
                raise

    def charge(self, owner: str, seconds: float) -> None:
        """Record CPU time."""
        now = int(self._clock() // _SLICE_S)
        use = self._uses.get(owner)
        if use is None:
            use = self._uses[owner] = CpuUse(
                object_id=f"cpu:{owner}"[:64], owner=owner, created_at=self._clock()
            )
        if now not in use.minutes:
            # Entries in the future come from a wrong clock and must not count for ever.
            oldest = now - DAY_S // _SLICE_S
            use.minutes = {minute: used for minute, used in use.minutes.items() if oldest < minute < now}
        use.minutes[now] = use.minutes.get(now, 0.0) + seconds
        self._unsaved.add(owner)

    def used(self, owner: str, window_s: int) -> float:
        """Return the seconds of CPU time within the last `window_s` seconds, in whole minutes."""
        return sum(used for _, used in self._within(owner, window_s))

    def free_in(self, owner: str, window_s: int, limit: float) -> float:
        """Return after how many seconds without further use less than `limit` is left in the window."""
        left = self.used(owner, window_s)
        for minute, used in self._within(owner, window_s):
            left -= used
            if left < limit:
                return max(1.0, (minute + 1) * _SLICE_S + window_s - self._clock())
        return float(window_s)

    def _within(self, owner: str, window_s: int) -> list[tuple[int, float]]:
        use = self._uses.get(owner)
        if use is None:
            return []
        now = self._clock()
        oldest, newest = int((now - window_s) // _SLICE_S), int(now // _SLICE_S)
        return sorted(item for item in use.minutes.items() if oldest <= item[0] <= newest)
