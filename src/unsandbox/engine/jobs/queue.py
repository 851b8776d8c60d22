"""Which job is next: first come first served within a key, turn by turn between keys, nobody shut out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from unsandbox.engine.jobs.records import JobRecord


class FairQueue:
    """Waiting jobs, and how many of them may work at once.

    One key's thousand jobs do not delay another key's first: keys take turns, and when all places are taken, a
    key that has nothing at work may still start one job beyond them, as long as there are such extra places.

    Args:
        places: Jobs at work at once.
        extra: Further places, one at a time for keys that have none.
        fits: Tells whether there is room for a job now; its key waits, and nobody else, until there is.
    """

    def __init__(
        self, places: int, extra: int = 0, fits: Callable[[JobRecord], bool] = lambda _record: True
    ) -> None:
        self._places = places
        self._extra = extra
        self._fits = fits
        self._by_owner: dict[str, deque[JobRecord]] = {}
        self._turns: deque[str] = deque()
        self._working: Counter[str] = Counter()
        self.working = 0
        """How many jobs were taken and not yet given back."""

    def put(self, record: JobRecord) -> None:
        """Add a job at the end of its key's line."""
        line = self._by_owner.get(record.owner)
        if line is None:
            line = self._by_owner[record.owner] = deque()
            self._turns.append(record.owner)
        line.append(record)

    def remove(self, record: JobRecord) -> bool:
        """Take a job out before its turn; return False when it is not waiting here."""
        line = self._by_owner.get(record.owner, deque())
        try:
            line.remove(record)
        except ValueError:
            return False
        return True

    def take(self) -> JobRecord | None:
        """Return the next job that may work now, or None; `give_back` its place when its work is done."""
        if self.working < self._places:
            record = self.pop(fitting_only=True)
        elif self.working < self._places + self._extra:
            record = self.pop(newcomers_only=True, fitting_only=True)
        else:
            record = None
        if record is not None:
            self._working[record.owner] += 1
            self.working += 1
        return record

    def give_back(self, record: JobRecord) -> None:
        """Make room for another job."""
        self.working -= 1
        self._working[record.owner] -= 1
        if not self._working[record.owner]:
            del self._working[record.owner]

    def pop(self, *, newcomers_only: bool = False, fitting_only: bool = False) -> JobRecord | None:
        """Take the next job out, whether or not there is a place for it.

        Args:
            newcomers_only: Only of keys that have nothing at work.
            fitting_only: Only if there is room for it.
        """
        for _ in range(len(self._turns)):
            owner = self._turns.popleft()
            line = self._by_owner[owner]
            if (newcomers_only and self._working[owner]) or (fitting_only and line and not self._fits(line[0])):
                self._turns.append(owner)
                continue
            record = line.popleft() if line else None
            if line:
                self._turns.append(owner)
            else:
                del self._by_owner[owner]
            if record is not None:
                return record
        return None
