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
    """Return Unix time by a clock that was set when this process began and never again; no jump moves it."""
    return _BEGAN + time.monotonic()


class Activity(Generic[R]):
    """Notes when an object was last used; it is stored now and then, so that a restart knows about it.

    Args:
        collection: Where the objects are.
        background: Does the storing.
    """

    def __init__(self, collection: Collection[R], background: Background) -> None:
        self._collection = collection
        self._background = background
        self._saved: dict[str, float] = {}

    def touch(self, record: R) -> None:
        """Take note of a use."""
        record.last_activity = steady_time()
        saved = self._saved.get(record.object_id, record.created_at)
        if record.last_activity - saved > _SAVE_ACTIVITY_EVERY_S:
            self._saved[record.object_id] = record.last_activity
            if self._collection.find(record.object_id) is record:
                self._background.start(self._collection.update(record))

    def forget(self, object_id: str) -> None:
        """Take note that an object is gone."""
        self._saved.pop(object_id, None)
