"""The jobs in memory, with the set of those that have not ended."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator

from unsandbox.engine.jobs.records import JobRecord
from unsandbox.protocol.contents import LARGE


class JobTable:
    """All jobs that wait or run, and the last ones that have ended.

    Args:
        kept_jobs: Number of ended jobs to keep.
        kept_bytes: Total size of their results; the newest one is kept regardless of its size.
    """

    def __init__(self, kept_jobs: int, kept_bytes: int) -> None:
        self._kept_jobs = kept_jobs
        self._kept_bytes = kept_bytes
        self._jobs: dict[str, JobRecord] = {}
        self._by_idempotency_key: dict[tuple[str, str], JobRecord] = {}
        self._unfinished: dict[str, set[JobRecord]] = {}
        self._input: dict[JobRecord, int] = {}
        self._input_by_owner: Counter[str] = Counter()
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._ended_bytes = 0
        self._next_end: dict[str, asyncio.Event] = {}

    def __contains__(self, record: JobRecord) -> bool:
        return self._jobs.get(record.job_id) is record

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(self._jobs.values())

    def find(self, owner: str, job_id: str) -> JobRecord | None:
        """Return a job of an owner."""
        record = self._jobs.get(job_id)
        return record if record is not None and record.owner == owner else None

    def with_idempotency_key(self, owner: str, key: str) -> JobRecord | None:
        """Return the job of an owner that was created with this key."""
        return self._by_idempotency_key.get((owner, key))

    def unfinished_of(self, owner: str) -> Collection[JobRecord]:
        """Return the jobs of an owner that wait or run."""
        return self._unfinished.get(owner, ())

    def unfinished(self) -> Iterator[JobRecord]:
        """Return the jobs of all owners that wait or run."""
        return itertools.chain.from_iterable(self._unfinished.values())

    def add(self, record: JobRecord) -> None:
        """Add a job that has not ended; it counts towards the limits from now on."""
        self._jobs[record.job_id] = record
        if record.idempotency_key is not None:
            self._by_idempotency_key[record.owner, record.idempotency_key] = record
        self._unfinished.setdefault(record.owner, set()).add(record)
        self._input[record] = size = record.input_bytes
        self._input_by_owner[record.owner] += size

    def input_of(self, owner: str) -> int:
        """Return the bytes of programs, input and files of an owner's jobs that have not started."""
        return self._input_by_owner[owner]

    @property
    def input_bytes(self) -> int:
        """Those of all owners."""
        return self._input_by_owner.total()

    @property
    def ended_bytes(self) -> int:
        """Bytes that the results in memory take."""
        return self._ended_bytes

    def took_input(self, record: JobRecord) -> None:
        """Note that a job has started, or ended, and holds no files any more."""
        self._input_by_owner[record.owner] -= self._input.pop(record, 0)
        if not self._input_by_owner[record.owner]:
            del self._input_by_owner[record.owner]

    def discard(self, record: JobRecord) -> None:
        """Remove a job that was not accepted after all."""
        self._finish(record)
        self._remove(record)

    def end(self, record: JobRecord, *, stored: bool = False) -> None:
        """Count a job, which has a result now, among the ended ones; the oldest of these are forgotten.

        Args:
            record: The job.
            stored: Whether the result can be read from the store; a large one is forgotten at once then.
        """
        self._finish(record)
        self._ended[record.job_id] = size = record.size
        self._ended_bytes += size
        if waiting := self._next_end.pop(record.owner, None):
            waiting.set()
        if stored and size > LARGE:
            self._forget(record.job_id)
        while len(self._ended) > self._kept_jobs or (
            self._ended_bytes > self._kept_bytes and len(self._ended) > 1
        ):
            self._forget(next(iter(self._ended)))

    def forget(self, job_ids: Iterable[str]) -> None:
        """Drop ended jobs; those that are not in memory are ignored."""
        for job_id in job_ids:
            if job_id in self._ended:
                self._forget(job_id)

    def next_end(self, owner: str) -> asyncio.Event:
        """Return an event that is set when a job of an owner ends."""
        return self._next_end.setdefault(owner, asyncio.Event())

    def _finish(self, record: JobRecord) -> None:
        self.took_input(record)
        mine = self._unfinished[record.owner]
        mine.remove(record)
        if not mine:
            del self._unfinished[record.owner]

    def _forget(self, job_id: str) -> None:
        self._ended_bytes -= self._ended.pop(job_id)
        self._remove(self._jobs[job_id])

    def _remove(self, record: JobRecord) -> None:
        del self._jobs[record.job_id]
        if record.idempotency_key is not None:
            key = record.owner, record.idempotency_key
            if self._by_idempotency_key.get(key) is record:
                del self._by_idempotency_key[key]
