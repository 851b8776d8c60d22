"""Stored jobs, and the interface of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from unsandbox.engine.store.objects import ObjectStore
from unsandbox.protocol.contents import Pieces
from unsandbox.protocol.splitting import Parted


@dataclass(frozen=True, slots=True)
class JobRow:
    """A stored job; `result` is the JSON of its answer if there is one, a large one in parts."""

    job_id: str
    owner: str
    status: str
    language: str
    created_at: float
    completed_at: float | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    result: bytes | Pieces | Parted | None = None


class JobStore(Protocol):
    """Where jobs live on when they are no longer in memory.

    Attributes:
        keeps: Whether they do.
    """

    keeps: bool

    async def add_job(self, row: JobRow) -> None:
        """Store a job that was accepted; returns when it is durable."""

    async def finish_job(self, row: JobRow) -> None:
        """Store the end of a job; returns when it is durable."""

    async def find_job(self, owner: str, job_id: str) -> JobRow | None:
        """Return a job of this owner."""

    async def large_result(self, owner: str, job_id: str) -> Pieces | None:
        """Return the stored answer of a job as it is, if it is large; otherwise None."""

    async def find_by_idempotency_key(self, owner: str, key: str) -> JobRow | None:
        """Return the job that was created with this key."""

    async def list_jobs(self, owner: str, limit: int) -> list[JobRow]:
        """Return jobs without their results, newest first."""

    async def results_bytes(self, owner: str) -> int:
        """Return the total size in bytes of an owner's stored results."""

    async def trim_results(self, owner: str, most: int) -> list[str]:
        """Delete the oldest ended jobs of an owner until `most` bytes or less are left; return their ids."""

    async def prune(self, older_than: float, most: int) -> int:
        """Delete jobs that ended before a Unix time, and the oldest beyond a number; return the count."""


class Store(JobStore, ObjectStore, Protocol):
    """Storage of jobs and objects."""
