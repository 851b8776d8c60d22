"""Sessions that have ended: for a while the server knows why."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from unsandbox.engine.errors import UnknownObject
from unsandbox.engine.sessions.record import SessionRecord

_KEPT_S = 3600.0
_MOST = 10_000
_WORDS = {
    "deleted": "it was deleted on request",
    "idle": "it was not used for its ttl of {ttl} s",
    "deadline": "its time was over",
}


@dataclass(frozen=True, slots=True)
class _Ended:
    owner: str
    container: str
    ttl: int
    reason: str
    at: float


class EndedSessions:
    """Why sessions ended, for an hour and as long as this server runs."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    def note(self, record: SessionRecord, reason: str) -> None:
        """Note why a session ended: `deleted`, `idle` or `deadline`."""
        now = time.monotonic()
        self._ended[record.object_id] = _Ended(record.owner, record.container, record.ttl, reason, now)
        while len(self._ended) > _MOST or next(iter(self._ended.values())).at < now - _KEPT_S:
            self._ended.popitem(last=False)

    def explain(self, owner: str, name: str) -> UnknownObject | None:
        """Return the refusal of a call to a session that has ended; None if it is not known."""
        ended = self._ended.get(name)
        if ended is None:
            found = (item for item in reversed(self._ended.values()) if item.container == name)
            ended = next((item for item in found if item.owner == owner), None)
        if ended is None or ended.owner != owner:
            return None
        why = _WORDS[ended.reason].format(ttl=ended.ttl)
        return UnknownObject(f"the session has ended: {why}", code="session_not_found", reason=ended.reason)
