"""The end of a job: stores, limits and reports its result, and wakes everything that waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict

from unsandbox.engine.context import Context
from unsandbox.engine.encoding import encode_answer
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.rows import row_of
from unsandbox.engine.jobs.table import JobTable
from unsandbox.engine.memory import trim_soon
from unsandbox.engine.store.rows import JobRow
from unsandbox.protocol import models
from unsandbox.protocol.contents import Pieces
from unsandbox.sandbox.spec import MIB

logger = logging.getLogger("unsandbox.engine")

_FRESH = 64
"""Number of results whose encoding is cached until they are requested, which mostly happens at once."""
_FRESH_BYTES = 256 * MIB
"""Of these together; a large one lies in a file."""
_SAVE_AGAIN_S = 5.0


class Completion:
    """Finishes jobs.

    Args:
        context: What the parts of the engine share.
        table: The jobs in memory.

    Attributes:
        ended_by_status: How many jobs have ended with each status.
    """

    def __init__(self, context: Context, table: JobTable) -> None:
        self._context = context
        self._table = table
        self.ended_by_status: Counter[str] = Counter()
        self._fresh: OrderedDict[str, bytes | Pieces] = OrderedDict()
        self._fresh_bytes = 0
        self._results_bytes: dict[str, int] = {}
        self._unsaved: list[JobRow] = []
        self._saving: asyncio.Task[None] | None = None

    async def finish(self, record: JobRecord, result: models.Job) -> None:
        """End a job with a result, which is stored when this returns, unless the disk is full."""
        record.spec = None
        if record.trace is not None:
            record.trace.ended(result)
            record.trace = None
        encoded = await encode_answer(result)
        stored = await self._save(row_of(record, result, encoded))
        await self._keep_results_within(record.owner, len(encoded))
        if len(encoded) <= MIB or isinstance(encoded, Pieces):
            self._fresh[record.job_id] = encoded
            self._fresh_bytes += len(encoded)
        while len(self._fresh) > _FRESH or self._fresh_bytes > _FRESH_BYTES:
            self._fresh_bytes -= len(self._fresh.popitem(last=False)[1])
        if len(encoded) > MIB:
            trim_soon()
        record.finish(result)
        self._table.end(record, stored=stored)
        self._report(record, result)

    async def encoded(self, job: models.Job) -> bytes | Pieces:
        """Return the JSON of a job, from the cache if the job has just ended."""
        encoded = self._fresh.pop(job.job_id or "", None)
        if encoded is not None:
            self._fresh_bytes -= len(encoded)
            if job.status in models.TERMINAL_STATUSES:
                return encoded
        return await encode_answer(job)

    async def close(self) -> None:
        """Try again to store the results for which the disk was full."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
        await self._save_again()

    async def _save(self, row: JobRow) -> bool:
        """Store a result; return whether it can be read from there."""
        try:
            await self._context.store.finish_job(row)
        except Exception:
            # The caller still gets the result from memory, and it is stored when there is space again.
            logger.exception("job %s: its result could not be stored; retrying later", row.job_id)
            self._unsaved.append(row)
            if self._saving is None or self._saving.done():
                self._saving = asyncio.create_task(self._save_later())
            return False
        return self._context.store.keeps

    async def _save_later(self) -> None:
        while self._unsaved:
            await asyncio.sleep(_SAVE_AGAIN_S)
            await self._save_again()

    async def _save_again(self) -> None:
        while self._unsaved:
            try:
                await self._context.store.finish_job(self._unsaved[0])
            except Exception:  # noqa: BLE001 - it was logged when it failed first
                return
            self._unsaved.pop(0)

    async def _keep_results_within(self, owner: str, added: int) -> None:
        """Delete the oldest ended jobs of a key whose stored results exceed its limit."""
        most_mb = self._context.quotas.settings(owner).results_mb
        limit = self._context.config.results_bytes_per_key if most_mb is None else most_mb * MIB
        store = self._context.store
        known = self._results_bytes.get(owner)
        total = await store.results_bytes(owner) if known is None else known + added
        if total > limit:
            # Free some additional space, so that this does not happen with every job.
            self._table.forget(await store.trim_results(owner, limit * 3 // 4))
            total = await store.results_bytes(owner)
        self._results_bytes[owner] = total

    def _report(self, record: JobRecord, result: models.Job) -> None:
        status = record.status.value
        self.ended_by_status[status] += 1
        if self._context.audit is not None:
            self._context.audit.note(
                "job_ended", owner=record.owner, job=record.job_id, status=status, exit_code=result.exit_code
            )
        took = f" in {result.total_time_ms:.0f} ms" if result.total_time_ms is not None else ""
        self._context.logbook.note(
            "engine",
            record.owner,
            f"job {record.job_id} ({record.language}) {status}, exit code {result.exit_code}{took}",
        )
