"""Selects the next job: in order within a key, with keys taking turns, so that every key gets a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator

from unsandbox.engine.jobs.records import JobRecord


class FairQueue:
    """Waiting jobs, and the jobs that have one of the places.

    One key's thousand jobs do not delay another key's first: keys take turns, and when all places are taken, a
    key that has no place may still start one job beyond them, as long as there are such extra places.

    Args:
        places: Number of jobs that may run at once.
        extra: Further places, one at a time for keys that have none.
        fits: Tells whether there is room for a job now; only its own key waits until there is.
    """

    def __init__(
        self, places: int, extra: int = 0, fits: Callable[[JobRecord], bool] = lambda _record: True
    ) -> None:
        self._places = places
        self._extra = extra
        self._fits = fits
        self._waiting: dict[str, deque[JobRecord]] = {}
        self._turns: deque[str] = deque()
        self._placed: dict[str, set[JobRecord]] = {}

    def put(self, record: JobRecord) -> None:
        """Add a job at the end of its key's line."""
        line = self._waiting.get(record.owner)
        if line is None:
            line = self._waiting[record.owner] = deque()
            self._turns.append(record.owner)
        line.append(record)

    def remove(self, record: JobRecord) -> bool:
        """Remove a waiting job; return False if it is not in the queue."""
        line = self._waiting.get(record.owner, deque())
        try:
            line.remove(record)
        except ValueError:
            return False
        return True

    def take(self) -> JobRecord | None:
        """Give the next job a place and return it, or None; `give_back` frees the place."""
        taken = sum(map(len, self._placed.values()))
        if taken < self._places:
            record = self.pop(fitting_only=True)
        elif taken < self._places + self._extra:
            record = self.pop(newcomers_only=True, fitting_only=True)
        else:
            record = None
        if record is not None:
            self._placed.setdefault(record.owner, set()).add(record)
        return record

    def give_back(self, record: JobRecord) -> None:
        """Free the place of a job."""
        mine = self._placed[record.owner]
        mine.remove(record)
        if not mine:
            del self._placed[record.owner]

    def placed(self) -> Iterator[tuple[str, Collection[JobRecord]]]:
        """Return the jobs that have a place, by key."""
        return iter(self._placed.items())

    def placed_of(self, owner: str) -> Collection[JobRecord]:
        """Return the jobs of one key that have a place."""
        return self._placed.get(owner, ())

    def pop(self, *, newcomers_only: bool = False, fitting_only: bool = False) -> JobRecord | None:
        """Take the next job out, whether or not there is a place for it.

        Args:
            newcomers_only: Only of keys that have no place.
            fitting_only: Only if there is room for it.
        """
        for _ in range(len(self._turns)):
            owner = self._turns.popleft()
            line = self._waiting[owner]
            if (newcomers_only and owner in self._placed) or (
                fitting_only and line and not self._fits(line[0])
            ):
                self._turns.append(owner)
                continue
            record = line.popleft() if line else None
            if line:
                self._turns.append(owner)
            else:
                del self._waiting[owner]
            if record is not None:
                return record
        return None
