"""When sessions and services were last used."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

from unsandbox.engine.background import Background
from unsandbox.engine.persistent.limits import PersistentRecord
from unsandbox.engine.store.objects import Collection

_SAVE_ACTIVITY_EVERY_S = 30.0
_BEGAN = time.time() - time.monotonic()

R = TypeVar("R", bound=PersistentRecord)


def steady_time() -> float:
    """Return Unix time from a clock that was set at the start of this process and never jumps."""
    return _BEGAN + time.monotonic()


class Activity(Generic[R]):
    """Records when an object was last used, and stores that from time to time for the next start.

    Args:
        collection: The objects.
        background: Runs the storing tasks.
    """

    def __init__(self, collection: Collection[R], background: Background) -> None:
        self._collection = collection
        self._background = background
        self._saved: dict[str, float] = {}

    def touch(self, record: R) -> None:
        """Record a use."""
        record.last_activity = steady_time()
        saved = self._saved.get(record.object_id, record.created_at)
        if record.last_activity - saved > _SAVE_ACTIVITY_EVERY_S:
            self._saved[record.object_id] = record.last_activity
            if self._collection.find(record.object_id) is record:
                self._background.start(self._collection.update(record))

    def forget(self, object_id: str) -> None:
        """Forget a deleted object."""
        self._saved.pop(object_id, None)
