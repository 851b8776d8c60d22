"""Jobs from acceptance to result: stored, queued, run, watched, ended, remembered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from unsandbox.engine.accounts.audit import AuditLog, code_hash
from unsandbox.engine.accounts.logbook import LogBook
from unsandbox.engine.accounts.quotas import Quotas
from unsandbox.engine.backends import Backends, check_network
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import InvalidRequest, LimitReached, Stopping, UnknownJob
from unsandbox.engine.jobs.command import SHELL, CommandJob
from unsandbox.engine.jobs.output import OutputBuffer, pieces_behind
from unsandbox.engine.jobs.queue import FairQueue
from unsandbox.engine.jobs.records import (
    JobRecord,
    check_request,
    failed_result,
    input_files,
    is_large,
    result_of,
    stdin_bytes,
)
from unsandbox.engine.jobs.rows import listed, revived, row_of, same_request, summary_of, within
from unsandbox.engine.jobs.tracing import JobTrace
from unsandbox.engine.store.store import JobRow, Store
from unsandbox.protocol import codec, models
from unsandbox.protocol.contents import Pieces
from unsandbox.protocol.events import Cursor
from unsandbox.protocol.models import JobStatus
from unsandbox.sandbox import (
    LanguageTable,
    Limits,
    NetworkMode,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
    UnknownLanguageError,
)
from unsandbox.sandbox.languages.caches import ToolchainCaches
from unsandbox.sandbox.persistent_spec import CommandOutcome
from unsandbox.sandbox.spec import MIB

logger = logging.getLogger("unsandbox.engine")

LIST_LIMIT = 1000
_CANCEL_WAIT_S = 10.0
_LINGER_S = 0.005
_FRESH = 64
"""Results whose encoding is kept until they are asked for, which mostly is at once."""
_TIDY_EVERY_S = 3600.0
_SAVE_AGAIN_S = 5.0


class JobManager:
    """The jobs of all keys. A part of `Engine`, which makes what it works with.

    Args:
        config: The bounds.
        store: Where jobs live on.
        backends: Make sandboxes.
        languages: What can run here.
        logbook: Told of every end.
        audit: Told of every acceptance and end, in a data folder.
    """

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        backends: Backends,
        languages: LanguageTable,
        logbook: LogBook,
        audit: AuditLog | None,
    ) -> None:
        self.config = config
        self.quotas = Quotas(config, store)
        self.languages = languages
        self.backends = backends
        self.logbook = logbook
        self.audit = audit
        self.caches = ToolchainCaches(languages.system)
        self.ended_by_status: Counter[str] = Counter()
        self._store = store
        self._queue = FairQueue(config.running_slots, config.extra_slots, self._has_memory)
        self._jobs: dict[str, JobRecord] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._fresh: OrderedDict[str, bytes] = OrderedDict()
        self._ended_bytes = 0
        self._by_idempotency: dict[tuple[str, str], JobRecord] = {}
        self._active: dict[str, int] = {}
        self._running: set[JobRecord] = set()
        self._results: dict[str, int] = {}
        self._at_work: set[asyncio.Task[None]] = set()
        self._some_ended: dict[str, asyncio.Event] = {}
        self._unsaved: list[JobRow] = []
        self._saving: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
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
            request: What to run.
            idempotency_key: The same key again gives the same job, and runs nothing.
            fingerprint: Hash of the request, to tell a repeated request from a different one.
            detected_language: What a `#!` line said, to be told in the answer.
            concurrency: Jobs that the key may have waiting or running; by default the engine's bound.

        Raises:
            InvalidRequest: It can never be run as it is.
            TooLarge: Program or files exceed the limits.
            LimitReached: The key has as many jobs as it may have, or no memory or CPU time left.
            Conflict: The idempotency key belongs to another request.
            Stopping: The engine is shutting down.
        """
        self._check_not_stopping()
        if (prior := await self._prior(owner, idempotency_key, fingerprint)) is not None:
            return prior
        self._check_room(owner, concurrency)
        isolation = self._isolation(owner, request)
        build = self._spec_builder(owner, request, isolation)
        if is_large(request):
            spec = await asyncio.to_thread(build)
            # The key may have sent more jobs meanwhile, and even this one again.
            self._check_not_stopping()
            if (prior := await self._prior(owner, idempotency_key, fingerprint)) is not None:
                return prior
            self._check_room(owner, concurrency)
        else:
            spec = build()
        self.quotas.check_job(owner, spec.limits.memory_bytes)
        record = JobRecord(
            owner=owner,
            spec=spec,
            language=self.languages.resolve(request.language).name,
            network_mode=request.network_mode,
            isolation=isolation,
            code_sha256=code_hash(request.code) if self.audit is not None else "",
            detected_language=detected_language,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )
        return await self._accept(record)

    async def _prior(
        self, owner: str, idempotency_key: str | None, fingerprint: str | None
    ) -> JobRecord | None:
        """Return the job that this idempotency key made before, if there is one."""
        prior = self._by_idempotency.get((owner, idempotency_key)) if idempotency_key else None
        if prior is not None:
            await prior.accepted.wait()
            if prior.result is not None or prior.job_id in self._jobs:
                return same_request(prior, fingerprint)
        return None

    async def run_beside(
        self,
        owner: str,
        work: Coroutine[Any, Any, CommandOutcome],
        *,
        network_mode: str,
        concurrency: int | None = None,
    ) -> JobRecord:
        """Keep as a job what runs in a sandbox that is there already: a command in a service.

        Args:
            owner: The key it belongs to.
            work: Runs it; cancelled when the job is.
            network_mode: What that sandbox has.
            concurrency: Jobs that the key may have waiting or running; by default the engine's bound.

        Raises:
            LimitReached: The key has as many jobs as it may have, or no CPU time left.
            Stopping: The engine is shutting down.
        """
        record = JobRecord(owner=owner, spec=None, language=SHELL, network_mode=network_mode)
        record.status = JobStatus.RUNNING
        try:
            self._check_not_stopping()
            self._check_room(owner, concurrency)
            self.quotas.check_cpu(owner)
            self._claim(owner)
            try:
                await self._store.add_job(row_of(record))
            except BaseException:
                self._release(owner)
                raise
        except BaseException:
            work.close()
            raise
        record.accepted.set()
        if (trace := JobTrace.of(record)) is not None:
            record.trace = trace
            trace.started(record)
        self._jobs[record.job_id] = record
        running = CommandJob(asyncio.create_task(work))
        record.attach(running)
        ending = asyncio.create_task(self._end_beside(record, running))
        self._beside.add(ending)
        ending.add_done_callback(self._beside.discard)
        return record

    async def _end_beside(self, record: JobRecord, running: CommandJob) -> None:
        result = await running.result(record)
        record.running = None
        await self._finish(record, result)

    async def get(self, owner: str, job_id: str, wait_s: float = 0.0) -> models.Job:
        """Return a job, after waiting at most `wait_s` seconds for its end.

        Raises:
            UnknownJob: No such job of this owner.
        """
        record = await self._find(owner, job_id)
        if wait_s > 0 and not record.ended.is_set():
            # Not `wait_for`, which makes a task of it: one more round of the loop for each result.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await record.ended.wait()
        return record.as_job()

    async def wait_any(
        self, owner: str, job_ids: Sequence[str], wait_s: float
    ) -> tuple[list[models.Job], list[str]]:
        """Return those of several jobs that have ended, after waiting at most `wait_s` seconds for one.

        Args:
            owner: Whose jobs.
            job_ids: Which jobs.
            wait_s: How long to wait while none has ended.

        Returns:
            Ended jobs with their results, as many as one answer should hold, and the ids that are unknown.
        """
        ends = time.monotonic() + wait_s
        lingered = False
        while True:
            signal = self._some_ended.setdefault(owner, asyncio.Event())
            records, unknown = await self._find_many(owner, job_ids)
            ended = [record for record in records if record.result is not None]
            left_s = ends - time.monotonic()
            if lingered or unknown or len(ended) == len(records) or left_s <= 0:
                return within(ended, self.config.waited_bytes), unknown
            if ended:
                # Jobs often end in swarms: one answer for a few of them is cheaper than one for each.
                lingered = True
                await asyncio.sleep(_LINGER_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(signal.wait(), left_s)

    async def follow(
        self, owner: str, job_id: str, cursor: Cursor, idle_s: float
    ) -> AsyncIterator[tuple[str, bytes, Cursor] | models.Job | None]:
        """Yield the output of a job from a cursor on, as it is written, and at last its result.

        Args:
            owner: Whose job.
            job_id: Which job.
            cursor: Where to begin.
            idle_s: After so many seconds without output None is yielded.

        Raises:
            UnknownJob: No such job of this owner.
        """
        record = await self._find(owner, job_id)
        while True:
            tape = record.tape
            pieces = tape.pieces(cursor) if tape is not None else []
            for piece in pieces:
                yield piece
                cursor = piece[2]
            if record.result is not None:
                break
            if tape is not record.tape or (tape is not None and tape.pieces(cursor)):
                continue  # More came while the caller was busy with the last piece.
            try:
                async with asyncio.timeout(idle_s):
                    await (tape.changed() if tape is not None else record.started.wait())
            except TimeoutError:
                yield None
        result = record.result
        rests = (result.stdout_bytes[cursor.stdout :], result.stderr_bytes[cursor.stderr :])
        for piece in pieces_behind(cursor, *rests):
            yield piece
        yield result

    async def cancel(self, owner: str, job_id: str) -> models.Job:
        """End a job and return it with its partial output; one that has ended stays as it is.

        Raises:
            UnknownJob: No such job of this owner.
        """
        record = await self._find(owner, job_id)
        if record.running is not None:
            record.running.cancel()
        elif self._queue.remove(record):
            await self._finish(
                record, failed_result(record, JobStatus.CANCELLED, "the job was cancelled before it ran")
            )
        elif not record.ended.is_set():
            # Between the queue and its sandbox: the worker looks at this before it goes on.
            record.cancel_requested = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(record.ended.wait(), _CANCEL_WAIT_S)
        return record.as_job()

    async def list_jobs(self, owner: str, limit: int = LIST_LIMIT) -> list[models.Job]:
        """Return the jobs of an owner without their output, newest first."""
        found = {
            row.job_id: (row.created_at, summary_of(row)) for row in await self._store.list_jobs(owner, limit)
        }
        for record in self._jobs.values():
            if record.owner == owner and record.accepted.is_set():
                found[record.job_id] = (record.created_at, listed(record.as_job()))
        newest_first = sorted(found.values(), key=lambda item: item[0], reverse=True)
        return [job for _, job in newest_first[:limit]]

    def active_jobs(self, owner: str) -> int:
        """Return how many jobs of an owner wait or run."""
        return self._active.get(owner, 0)

    def _check_not_stopping(self) -> None:
        if self._stopping:
            raise Stopping("the server is stopping; send the request again in a moment")

    def _check_room(self, owner: str, concurrency: int | None) -> None:
        active = self._active.get(owner, 0)
        limit = concurrency or self.config.concurrency_per_key
        if active >= limit:
            raise LimitReached(
                f"this key already has {active} jobs waiting or running; wait for one to end",
                active_executions=active,
                concurrency_limit=limit,
            )

    def _isolation(self, owner: str, request: models.ExecuteRequest) -> str:
        try:
            return self.quotas.isolation(owner, request.isolation)
        except SandboxUnavailable as error:
            raise InvalidRequest(str(error), code="isolation_unavailable") from error

    def _spec_builder(
        self, owner: str, request: models.ExecuteRequest, isolation: str
    ) -> Callable[[], SandboxSpec]:
        """Return the function that reads program and files, which any thread may call."""
        try:
            language = self.languages.resolve(request.language)
        except UnknownLanguageError as error:
            raise InvalidRequest(str(error), code="unknown_language") from error
        try:
            backend = self.backends.for_job(isolation)
        except SandboxUnavailable as error:
            raise InvalidRequest(str(error), code="isolation_unavailable") from error
        check_network(backend, NetworkMode(request.network_mode))
        limits = Limits(
            wall_s=float(request.ttl or language.time_s),
            vcpu=float(request.vcpu),
            memory_bytes=self.quotas.memory_bytes(owner, request.vcpu),
            output_bytes=self.quotas.output_bytes(owner),
        )
        cache = self.caches.place_or_make(language, backend)

        def build() -> SandboxSpec:
            check_request(request, self.config)
            try:
                return language.build_spec(
                    request.code,
                    env=request.env or {},
                    input_files=input_files(request.input_files or [], self.config),
                    stdin=stdin_bytes(request),
                    network=NetworkMode(request.network_mode),
                    limits=limits,
                    return_artifacts=request.return_artifacts,
                    args=request.args or (),
                    cache=cache,
                    cache_scope=owner,
                )
            except ValueError as error:
                raise InvalidRequest(str(error)) from error

        return build

    async def _accept(self, record: JobRecord) -> JobRecord:
        key = (record.owner, record.idempotency_key) if record.idempotency_key else None
        if key is not None:
            self._by_idempotency[key] = record
        self._claim(record.owner)
        try:
            stored = await self._store_new(record)
        except BaseException:
            self._forget(record, key)
            raise
        finally:
            record.accepted.set()
        if stored is not None:
            self._forget(record, key)
            return same_request(stored, record.fingerprint)
        self._jobs[record.job_id] = record
        self._audit_accepted(record)
        record.trace = JobTrace.of(record)
        self._queue.put(record)
        self._start_waiting()
        return record

    async def _store_new(self, record: JobRecord) -> JobRecord | None:
        """Store a job, or return the one that its idempotency key already made before a restart."""
        if record.idempotency_key is not None:
            row = await self._store.find_by_idempotency_key(record.owner, record.idempotency_key)
            if row is not None:
                return revived(row)
        await self._store.add_job(row_of(record))
        return None

    def _audit_accepted(self, record: JobRecord) -> None:
        if self.audit is None or record.spec is None:
            return
        limits = record.spec.limits
        self.audit.note(
            "job_accepted",
            owner=record.owner,
            job=record.job_id,
            language=record.language,
            code_sha256=record.code_sha256,
            isolation=self.backends.for_job(record.isolation).name,
            network_mode=record.network_mode,
            ttl_s=limits.wall_s,
            vcpu=limits.vcpu,
            memory_bytes=limits.memory_bytes,
        )

    def _forget(self, record: JobRecord, key: tuple[str, str] | None) -> None:
        if key is not None:
            self._by_idempotency.pop(key, None)
        self._release(record.owner)

    def _claim(self, owner: str) -> None:
        self._active[owner] = self._active.get(owner, 0) + 1
        self.quotas.stirred.set()

    def _release(self, owner: str) -> None:
        left = self._active[owner] - 1
        if left:
            self._active[owner] = left
        else:
            del self._active[owner]

    async def _find(self, owner: str, job_id: str) -> JobRecord:
        record = self._jobs.get(job_id)
        if record is not None and record.owner == owner:
            return record
        row = await self._store.find_job(owner, job_id)
        if row is None:
            raise UnknownJob(f"no job {job_id[:80]!r} of this key; ended jobs are kept for a limited time")
        return revived(row)

    async def _find_many(self, owner: str, job_ids: Sequence[str]) -> tuple[list[JobRecord], list[str]]:
        records, unknown = [], []
        for job_id in job_ids:
            try:
                records.append(await self._find(owner, job_id))
            except UnknownJob:
                unknown.append(job_id)
        return records, unknown

    def _has_memory(self, record: JobRecord) -> bool:
        return record.spec is None or self.quotas.has_memory(record.owner, record.spec.limits.memory_bytes)

    def _start_waiting(self) -> None:
        """Start the jobs for which there is a place."""
        while (record := self._queue.take()) is not None:
            self.quotas.jobs[record.owner] += _memory_of(record)
            task = asyncio.create_task(self._work(record))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    async def _work(self, record: JobRecord) -> None:
        try:
            result = await self._run(record)
        except SandboxError as error:
            logger.exception("job %s: the sandbox failed", record.job_id)
            result = failed_result(record, JobStatus.FAILED, f"the sandbox failed: {error}")
        except Exception:
            logger.exception("job %s: the engine failed", record.job_id)
            result = failed_result(record, JobStatus.FAILED, "the engine failed; its log says why")
        finally:
            # Before the result is stored: the next program need not wait for a disk.
            self._queue.give_back(record)
            self.quotas.jobs[record.owner] -= _memory_of(record)
            if not self.quotas.jobs[record.owner]:
                del self.quotas.jobs[record.owner]
            self._start_waiting()
        await self._finish(record, result)

    async def _save_later(self) -> None:
        """Try again and again to store results that found no room."""
        while self._unsaved:
            await asyncio.sleep(_SAVE_AGAIN_S)
            await self._save_again()

    async def _save_again(self) -> None:
        """Store results that found no room."""
        while self._unsaved:
            try:
                await self._store.finish_job(self._unsaved[0])
            except Exception:  # noqa: BLE001 - it was logged when it failed first
                return
            self._unsaved.pop(0)

    async def _run(self, record: JobRecord) -> models.Job:
        spec = record.spec
        if spec is None or record.cancel_requested:
            return failed_result(record, JobStatus.CANCELLED, "the job was cancelled before it ran")
        try:
            self.quotas.check_cpu(record.owner)
        except LimitReached as refusal:
            return failed_result(record, JobStatus.FAILED, refusal.message)
        record.status = JobStatus.RUNNING
        if record.trace is not None:
            record.trace.started(record)
        record.tape = OutputBuffer()
        record.started.set()
        running = await self.backends.for_job(record.isolation).start(spec, record.tape)
        record.attach(running)
        record.spec = spec = replace(spec, files=())
        self._running.add(record)
        try:
            outcome = await running.wait()
        finally:
            self._running.discard(record)
            record.running = None
        # Where nobody counts, it may have used all that it was given.
        used = outcome.wall_s * spec.limits.vcpu if outcome.cpu_s is None else outcome.cpu_s
        self.quotas.charge_cpu(record.owner, used)
        return result_of(record, outcome, spec.limits)

    def watch_cpu(self) -> None:
        """End the running jobs of keys that have used up their CPU time, and start what waited for memory."""
        in_use: dict[str, float] = {}
        for record in self._running:
            if self.quotas.counts_cpu(record.owner) and record.running is not None:
                in_use[record.owner] = in_use.get(record.owner, 0.0) + (record.running.cpu_s() or 0.0)
        for owner, used in in_use.items():
            if used >= self.quotas.cpu_left(owner):
                for record in [record for record in self._running if record.owner == owner]:
                    self._end_for(record, "the CPU time of this key was used up while it ran")
        self._start_waiting()

    @staticmethod
    def _end_for(record: JobRecord, reason: str) -> None:
        if record.running is not None and record.kill_reason is None:
            record.kill_reason = reason
            record.running.cancel()

    async def _finish(self, record: JobRecord, result: models.Job) -> None:
        record.spec = None
        if record.trace is not None:
            record.trace.ended(result)
            record.trace = None
        encoded = codec.encode_pieces(result)
        row = row_of(record, result, encoded)
        try:
            await self._store.finish_job(row)
        except Exception:
            # The result still reaches its caller from memory, and is stored when there is room again.
            logger.exception("job %s: its result could not be stored; it is tried again", record.job_id)
            self._unsaved.append(row)
            if self._saving is None or self._saving.done():
                self._saving = asyncio.create_task(self._save_later())
        await self._keep_results_within(record.owner, len(encoded))
        if self.audit is not None:
            self.audit.note(
                "job_ended",
                owner=record.owner,
                job=record.job_id,
                status=result.status,
                exit_code=result.exit_code,
            )
        record.result = result
        if isinstance(encoded, bytes) and len(encoded) <= MIB:
            self._fresh[record.job_id] = encoded
        if len(self._fresh) > _FRESH:
            self._fresh.popitem(last=False)
        record.status = JobStatus(result.status or JobStatus.FAILED)
        self.ended_by_status[record.status.value] += 1
        self._release(record.owner)
        record.ended.set()
        record.started.set()
        record.rest()
        if waiting := self._some_ended.pop(record.owner, None):
            waiting.set()
        if record.tape is not None:
            record.tape.wake()
            record.tape = None
        took = f" in {result.total_time_ms:.0f} ms" if result.total_time_ms is not None else ""
        ended = (
            f"job {record.job_id} ({record.language}) {record.status.value}, exit code {result.exit_code}{took}"
        )
        self.logbook.note("engine", record.owner, ended)
        self._ended[record.job_id] = size = record.size
        self._ended_bytes += size
        while len(self._ended) > self.config.kept_jobs or (
            self._ended_bytes > self.config.kept_bytes and len(self._ended) > 1
        ):
            job_id, size = self._ended.popitem(last=False)
            self._ended_bytes -= size
            self._forget_ended(job_id)

    async def _keep_results_within(self, owner: str, added: int) -> None:
        """Forget the oldest ended jobs of a key whose stored results are more than it may have."""
        limit = self.quotas.settings(owner).results_mb
        if limit is None:
            return
        known = self._results.get(owner)
        total = await self._store.results_bytes(owner) if known is None else known + added
        if total > limit * MIB:
            # Some room is made at once, so that this is not done for every job.
            for job_id in await self._store.trim_results(owner, limit * MIB * 3 // 4):
                if (size := self._ended.pop(job_id, None)) is not None:
                    self._ended_bytes -= size
                    self._forget_ended(job_id)
            total = await self._store.results_bytes(owner)
        self._results[owner] = total

    def _forget_ended(self, job_id: str) -> None:
        old = self._jobs.pop(job_id)
        if old.idempotency_key is not None:
            self._by_idempotency.pop((old.owner, old.idempotency_key), None)

    def encoded(self, job: models.Job) -> bytes | Pieces:
        """Return what a job is on the wire; one that has just ended was encoded already, to be stored."""
        encoded = self._fresh.pop(job.job_id or "", None)
        if encoded is not None and job.status in models.TERMINAL_STATUSES:
            return encoded
        return codec.encode_pieces(job)

    @property
    def unfinished(self) -> bool:
        """Whether any job waits or runs."""
        return bool(self._active)

    def job_numbers(self) -> tuple[int, int]:
        """Return how many jobs wait and how many run."""
        running = sum(record.running is not None for record in self._jobs.values())
        return sum(self._active.values()) - running, running

    async def stop_jobs(self) -> None:
        """Take nothing new, let running jobs end within the grace time, mark the others."""
        self._stopping = True
        while (record := self._queue.pop()) is not None:
            await self._finish(
                record, failed_result(record, JobStatus.FAILED, "the server stopped before it ran")
            )
        running = [record for record in self._jobs.values() if record.running is not None]
        if running:
            waits = [asyncio.create_task(record.ended.wait()) for record in running]
            _, pending = await asyncio.wait(waits, timeout=self.config.stop_grace_s)
            for record in running:
                self._end_for(record, "the server stopped while it ran")
            if pending:
                await asyncio.wait(pending, timeout=_CANCEL_WAIT_S)
        for task in (*self._at_work, *([self._saving] if self._saving else [])):
            task.cancel()
        await asyncio.gather(*self._at_work, *self._beside, return_exceptions=True)
        await self._save_again()


def _memory_of(record: JobRecord) -> int:
    return 0 if record.spec is None else record.spec.limits.memory_bytes
