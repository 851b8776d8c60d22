"""A store for an engine that lives and dies with its process."""

from __future__ import annotations

from unsandbox.engine.store.objects import ObjectRow
from unsandbox.engine.store.rows import JobRow


class MemoryStore:
    """A store that stores nothing, for an engine whose data ends with its process."""

    keeps = False

    async def add_job(self, row: JobRow) -> None:
        """Do nothing."""

    async def finish_job(self, row: JobRow) -> None:
        """Do nothing."""

    async def find_job(self, owner: str, job_id: str) -> JobRow | None:  # noqa: ARG002
        """Return None."""
        return None

    async def large_result(self, owner: str, job_id: str) -> None:  # noqa: ARG002
        """Return None."""
        return

    async def find_by_idempotency_key(self, owner: str, key: str) -> JobRow | None:  # noqa: ARG002
        """Return None."""
        return None

    async def list_jobs(self, owner: str, limit: int) -> list[JobRow]:  # noqa: ARG002
        """Return nothing."""
        return []

    async def results_bytes(self, owner: str) -> int:  # noqa: ARG002
        """Return 0."""
        return 0

    async def trim_results(self, owner: str, most: int) -> list[str]:  # noqa: ARG002
        """Return nothing."""
        return []

    async def prune(self, older_than: float, most: int) -> int:  # noqa: ARG002
        """Return 0."""
        return 0

    async def put_object(self, row: ObjectRow) -> None:
        """Do nothing."""

    async def delete_object(self, object_id: str) -> None:
        """Do nothing."""

    async def load_objects(self, kind: str) -> list[ObjectRow]:  # noqa: ARG002
        """Return nothing."""
        return []
