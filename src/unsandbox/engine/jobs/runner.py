"""Runs accepted jobs: each one waits for a place, gets a sandbox, and ends with a result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from unsandbox.engine.background import Background, run_large
from unsandbox.engine.context import Context
from unsandbox.engine.errors import LimitReached
from unsandbox.engine.jobs.command import CommandJob
from unsandbox.engine.jobs.completion import Completion
from unsandbox.engine.jobs.output import OutputBuffer
from unsandbox.engine.jobs.queue import FairQueue
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.results import captured_size, failed_result, result_of
from unsandbox.engine.jobs.table import JobTable
from unsandbox.protocol import models
from unsandbox.protocol.contents import LARGE
from unsandbox.protocol.models import JobStatus
from unsandbox.sandbox import SandboxError
from unsandbox.sandbox.persistent_spec import CommandOutcome

logger = logging.getLogger("unsandbox.engine")

_CANCEL_WAIT_S = 10.0


class JobRunner:
    """Assigns places to jobs, runs them, and ends them early on request.

    Args:
        context: The objects that the parts of the engine share.
        table: The jobs in memory.
        completion: Receives the results.
    """

    def __init__(self, context: Context, table: JobTable, completion: Completion) -> None:
        self._context = context
        self._table = table
        self._completion = completion
        config = context.config
        self._queue = FairQueue(config.running_slots, config.extra_slots, self._has_memory)
        self._work = Background()
        self._one_large = asyncio.Lock()
        """Held from the making of a large result until it is stored: as text it takes more memory."""
        self._stopping = False
        context.quotas.jobs_memory = self._memory_of

    def run(self, record: JobRecord) -> None:
        """Run a job as soon as a place is free."""
        if self._stopping:
            self._work.start(self._finish_unstarted(record))
            return
        self._queue.put(record)
        self._fill_places()

    def run_command(self, record: JobRecord, work: Coroutine[Any, Any, CommandOutcome]) -> None:
        """Run a command, which needs no place because its sandbox exists already."""
        running = CommandJob(asyncio.create_task(work))
        record.attach(running)
        self._work.start(self._finish_command(record, running))

    async def cancel(self, record: JobRecord) -> None:
        """End a job and wait a while for its result; one that has ended stays as it is."""
        if self._queue.remove(record):
            cancelled = failed_result(record, JobStatus.CANCELLED, "the job was cancelled before it ran")
            await self._completion.finish(record, cancelled)
        elif record.result is None:
            record.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(record.ended.wait(), _CANCEL_WAIT_S)

    def enforce_cpu_limits(self) -> None:
        """End the running jobs of keys that have used up their CPU time, and start what waited for memory."""
        quotas = self._context.quotas
        for owner, records in list(self._queue.placed()):
            if not quotas.counts_cpu(owner):
                continue
            running = [record for record in records if record.running is not None]
            used = sum(record.running.cpu_s() or 0.0 for record in running if record.running is not None)
            if running and used >= quotas.cpu_left(owner):
                for record in running:
                    record.end_for("the CPU time of this key was used up while it ran")
        self._fill_places()

    async def stop(self, grace_s: float) -> None:
        """End waiting jobs, let running ones end within the grace time, then end those too."""
        self._stopping = True
        while (record := self._queue.pop()) is not None:
            await self._finish_unstarted(record)
        unfinished = list(self._table.unfinished())
        if unfinished:
            waits = [asyncio.create_task(record.ended.wait()) for record in unfinished]
            _, pending = await asyncio.wait(waits, timeout=grace_s)
            for record in unfinished:
                if record.result is None:
                    record.end_for("the server stopped while it ran")
            if pending:
                await asyncio.wait(pending, timeout=_CANCEL_WAIT_S)
            for wait in waits:
                wait.cancel()
        await self._work.cancel()

    def _has_memory(self, record: JobRecord) -> bool:
        return record.spec is None or self._context.quotas.has_memory(record.owner, record.memory_bytes)

    def _memory_of(self, owner: str) -> int:
        return sum(record.memory_bytes for record in self._queue.placed_of(owner))

    def _fill_places(self) -> None:
        while (record := self._queue.take()) is not None:
            self._work.start(self._run_and_finish(record))

    async def _finish_unstarted(self, record: JobRecord) -> None:
        result = failed_result(record, JobStatus.FAILED, "the server stopped before it ran")
        await self._completion.finish(record, result)

    async def _run_and_finish(self, record: JobRecord) -> None:
        async with contextlib.AsyncExitStack() as held:
            await self._completion.finish(record, await self._run_in_place(record, held))

    async def _run_in_place(self, record: JobRecord, held: contextlib.AsyncExitStack) -> models.Job:
        try:
            return await self._run(record, held)
        except SandboxError as error:
            logger.exception("job %s: the sandbox failed", record.job_id)
            return failed_result(record, JobStatus.FAILED, f"the sandbox failed: {error}")
        except Exception:
            logger.exception("job %s: the engine failed", record.job_id)
            return failed_result(record, JobStatus.FAILED, "the engine failed; its log says why")
        finally:
            # Before the result is stored, so that the next program does not wait for the disk.
            self._queue.give_back(record)
            self._fill_places()

    async def _run(self, record: JobRecord, held: contextlib.AsyncExitStack) -> models.Job:
        spec, quotas = record.spec, self._context.quotas
        if record.kill_reason is not None:
            return failed_result(record, JobStatus.FAILED, record.kill_reason)
        if spec is None or record.cancel_requested:
            return failed_result(record, JobStatus.CANCELLED, "the job was cancelled before it ran")
        try:
            quotas.check_cpu(record.owner)
        except LimitReached as refusal:
            return failed_result(record, JobStatus.FAILED, refusal.message)
        if record.trace is not None:
            record.trace.started()
        record.output = OutputBuffer()
        record.started.set()
        running = await self._context.backends.for_job(record.isolation).start(spec, record.output)
        record.attach(running)
        record.spec = spec = replace(spec, files=())
        self._table.took_input(record)
        try:
            outcome = await running.wait()
        finally:
            record.running = None
        # If CPU time is not counted, assume that the job has used all that it could.
        used = outcome.wall_s * spec.limits.vcpu if outcome.cpu_s is None else outcome.cpu_s
        quotas.charge_cpu(record.owner, used)
        size = captured_size(outcome)
        if size > LARGE:
            await held.enter_async_context(self._one_large)
        return await run_large(size, result_of, record, outcome, spec.limits)

    async def _finish_command(self, record: JobRecord, running: CommandJob) -> None:
        async with contextlib.AsyncExitStack() as held:
            if await running.captured() > LARGE:
                await held.enter_async_context(self._one_large)
            result = await running.result(record)
            record.running = None
            await self._completion.finish(record, result)
