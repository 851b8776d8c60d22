"""The jobs of all keys: submit, run, wait for, follow, cancel and list them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from unsandbox.engine.background import run_large
from unsandbox.engine.context import Context
from unsandbox.engine.errors import Stopping, UnknownJob
from unsandbox.engine.jobs.admission import Admission
from unsandbox.engine.jobs.command import SHELL
from unsandbox.engine.jobs.completion import Completion
from unsandbox.engine.jobs.output import follow
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.rows import listed, result_bytes, revived, same_request, summary_of, within
from unsandbox.engine.jobs.runner import JobRunner
from unsandbox.engine.jobs.table import JobTable
from unsandbox.engine.jobs.tracing import JobTrace
from unsandbox.engine.store.objects import note_made
from unsandbox.protocol import models
from unsandbox.protocol.contents import Pieces
from unsandbox.protocol.events import Cursor
from unsandbox.sandbox.languages.caches import ToolchainCaches
from unsandbox.sandbox.persistent_spec import CommandOutcome

LIST_LIMIT = 1000
_LINGER_S = 0.005


class JobManager:
    """The jobs of an engine.

    Accepting is in `Admission`, running in `JobRunner`, the end in `Completion`; `JobTable` holds the records.

    Args:
        context: What the parts of the engine share.
        caches: Of the toolchains.

    Attributes:
        table: The jobs in memory.
    """

    def __init__(self, context: Context, caches: ToolchainCaches) -> None:
        self._config = context.config
        self._store = context.store
        self._quotas = context.quotas
        self.table = JobTable(context.config.kept_jobs, context.config.kept_bytes)
        self._admission = Admission(context, self.table, caches)
        self._completion = Completion(context, self.table)
        self._runner = JobRunner(context, self.table, self._completion)
        self._stopping = False

    async def submit(
        self,
        owner: str,
        request: models.ExecuteRequest,
        *,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
        detected_language: str | None = None,
        concurrency: int | None = None,
    ) -> JobRecord:
        """Accept a job; it is stored when this returns.

        Args:
            owner: The public key it belongs to.
            request: The program and its settings.
            idempotency_key: The same key again gives the same job, and runs nothing.
            fingerprint: Hash of the request, to tell a repeated request from a different one.
            detected_language: The language that a `#!` line named, repeated in the answer.
            concurrency: Jobs that the key may have waiting or running; by default the engine's bound.

        Raises:
            InvalidRequest: It can never be run as it is.
            TooLarge: Program or files exceed the limits.
            LimitReached: The key has as many jobs as it may have, or no memory or CPU time left.
            Conflict: The idempotency key belongs to another request.
            Stopping: The engine is shutting down.
        """
        if (prior := await self._prior(owner, idempotency_key, fingerprint)) is not None:
            return prior
        self._admission.check_room(owner, concurrency)
        record = await self._admission.new_record(owner, request)
        # Meanwhile the key may have sent more jobs, even this one again.
        if (prior := await self._prior(owner, idempotency_key, fingerprint)) is not None:
            return prior
        self._admission.check_room(owner, concurrency)
        self._admission.check_input(record)
        record.detected_language = detected_language
        record.idempotency_key = idempotency_key
        record.fingerprint = fingerprint
        accepted = await self._admission.accept(record)
        if accepted is not record:
            return same_request(accepted, fingerprint)
        record.trace = JobTrace.begin(record.job_id, record.language, record.network_mode)
        self._runner.run(record)
        return record

    async def run_command(
        self,
        owner: str,
        work: Coroutine[Any, Any, CommandOutcome],
        *,
        network_mode: str,
        concurrency: int | None = None,
    ) -> JobRecord:
        """Create a job from a command in a persistent sandbox.

        Args:
            owner: The key that it belongs to.
            work: Runs the command; cancelled with the job.
            network_mode: The network mode of the sandbox.
            concurrency: Jobs that the key may have waiting or running; by default the engine's bound.

        Raises:
            LimitReached: The key has as many jobs as it may have, or no CPU time left.
            Stopping: The engine is shutting down.
        """
        record = JobRecord(owner=owner, spec=None, language=SHELL, network_mode=network_mode)
        record.started.set()
        try:
            self._check_not_stopping()
            self._admission.check_room(owner, concurrency)
            self._quotas.check_cpu(owner)
            if (note := note_made.get()) is not None:
                await note("job", record.job_id)
            await self._admission.accept(record)
        except BaseException:
            work.close()
            raise
        record.trace = JobTrace.begin(record.job_id, record.language, record.network_mode)
        if record.trace is not None:
            record.trace.started()
        self._runner.run_command(record, work)
        return record

    async def get(self, owner: str, job_id: str, wait_s: float = 0.0) -> models.Job:
        """Return a job, after waiting at most `wait_s` seconds for its end.

        Raises:
            UnknownJob: No such job of this owner.
        """
        record = await self._find(owner, job_id)
        if wait_s > 0 and not record.ended.is_set():
            # `wait_for` would create a task, which costs each result another iteration of the event loop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await record.ended.wait()
        return record.as_job()

    async def stored_answer(self, owner: str, job_id: str) -> Pieces | None:
        """Return the answer of a job whose large result is in the store alone; it is not decoded for that."""
        return None if self.table.find(owner, job_id) else await self._store.large_result(owner, job_id)

    async def wait_any(
        self, owner: str, job_ids: Sequence[str], wait_s: float
    ) -> tuple[list[models.Job], list[str]]:
        """Return those of several jobs that have ended, after waiting at most `wait_s` seconds for one.

        Args:
            owner: The key they belong to.
            job_ids: The jobs.
            wait_s: How long to wait while none has ended.

        Returns:
            Ended jobs with their results, as many as one answer should hold, and the ids that are unknown.
        """
        ends = time.monotonic() + wait_s
        lingered = False
        while True:
            next_end = self.table.next_end(owner)
            records, unknown = await self._find_many(owner, job_ids)
            ended = [record for record in records if record.result is not None]
            left_s = ends - time.monotonic()
            if lingered or unknown or len(ended) == len(records) or left_s <= 0:
                return within(ended, self._config.waited_bytes), unknown
            if ended:
                # Jobs often end at the same time: one answer for several jobs is cheaper than one for each.
                lingered = True
                await asyncio.sleep(_LINGER_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(next_end.wait(), left_s)

    async def follow(
        self, owner: str, job_id: str, cursor: Cursor, idle_s: float
    ) -> AsyncIterator[tuple[str, bytes, Cursor] | models.Job | None]:
        """Yield the output of a job from a cursor on, as it is written, and finally its result.

        Args:
            owner: The key that it belongs to.
            job_id: The job.
            cursor: The position to start at.
            idle_s: None is yielded after each `idle_s` seconds without output.

        Raises:
            UnknownJob: No such job of this owner.
        """
        async for event in follow(await self._find(owner, job_id), cursor, idle_s):
            yield event

    async def cancel(self, owner: str, job_id: str) -> models.Job:
        """End a job and return it with its partial output; one that has ended stays as it is.

        Raises:
            UnknownJob: No such job of this owner.
        """
        record = await self._find(owner, job_id)
        await self._runner.cancel(record)
        return record.as_job()

    async def list_of(self, owner: str, limit: int = LIST_LIMIT) -> list[models.Job]:
        """Return the jobs of an owner without their output, newest first."""
        found = {
            row.job_id: (row.created_at, summary_of(row)) for row in await self._store.list_jobs(owner, limit)
        }
        for record in self.table:
            if record.owner == owner and record.accepted.is_set():
                found[record.job_id] = (record.created_at, listed(record.as_job()))
        newest_first = sorted(found.values(), key=lambda item: item[0], reverse=True)
        return [job for _, job in newest_first[:limit]]

    def active(self, owner: str) -> int:
        """Return how many jobs of an owner wait or run."""
        return len(self.table.unfinished_of(owner))

    async def encoded(self, job: models.Job) -> bytes | Pieces:
        """Return the JSON of a job; that of one that has just ended was made already, to be stored."""
        return await self._completion.encoded(job)

    @property
    def unfinished(self) -> bool:
        """Whether any job waits or runs."""
        return any(True for _ in self.table.unfinished())

    def counts(self) -> tuple[int, int]:
        """Return how many jobs wait and how many run."""
        running = [record.running is not None for record in self.table.unfinished()]
        return running.count(False), running.count(True)

    @property
    def ended_by_status(self) -> Counter[str]:
        """How many jobs have ended with each status."""
        return self._completion.ended_by_status

    def enforce_cpu_limits(self) -> None:
        """End the running jobs of keys that have used up their CPU time, and start what waited for memory."""
        self._runner.enforce_cpu_limits()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let running jobs finish within the grace time, and mark the rest as failed."""
        self._stopping = True
        await self._runner.stop(grace_s)
        await self._completion.close()

    async def _prior(
        self, owner: str, idempotency_key: str | None, fingerprint: str | None
    ) -> JobRecord | None:
        """Return the job that was created with this idempotency key, if there is one."""
        self._check_not_stopping()
        if idempotency_key and (prior := self.table.with_idempotency_key(owner, idempotency_key)):
            await prior.accepted.wait()
            if prior in self.table or prior.result is not None:
                return same_request(prior, fingerprint)
        return None

    def _check_not_stopping(self) -> None:
        if self._stopping:
            raise Stopping("the server is stopping; send the request again in a moment")

    async def _find(self, owner: str, job_id: str) -> JobRecord:
        if (record := self.table.find(owner, job_id)) is not None:
            return record
        row = await self._store.find_job(owner, job_id)
        if row is None:
            raise UnknownJob(
                f"no job {job_id[:80]!r} was found for this key; ended jobs are kept for a limited time"
            )
        return await run_large(result_bytes(row), revived, row)

    async def _find_many(self, owner: str, job_ids: Sequence[str]) -> tuple[list[JobRecord], list[str]]:
        records, unknown = [], []
        for job_id in job_ids:
            try:
                records.append(await self._find(owner, job_id))
            except UnknownJob:
                unknown.append(job_id)
        return records, unknown
