"""Accepts or refuses jobs, and turns an accepted one into a sandbox specification and a stored row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unsandbox.engine.accounts.audit import code_hash
from unsandbox.engine.backends import check_network
from unsandbox.engine.context import Context
from unsandbox.engine.environments.access import environment_root
from unsandbox.engine.errors import InvalidRequest, LimitReached
from unsandbox.engine.jobs.inputs import (
    check_request,
    input_files,
    input_modes,
    is_large,
    stdin_bytes,
)
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.rows import revived, row_of
from unsandbox.engine.jobs.table import JobTable
from unsandbox.protocol import models
from unsandbox.sandbox import Limits, NetworkMode, SandboxSpec, SandboxUnavailable, UnknownLanguageError
from unsandbox.sandbox.languages.caches import ToolchainCaches
from unsandbox.sandbox.spec import MIB


class Admission:
    """Checks requests against the language table, the backends, and the limits of their keys.

    Args:
        context: What the parts of the engine share.
        table: Where accepted jobs are added.
        caches: Of the toolchains; what a job can use of them is part of its specification.
    """

    def __init__(self, context: Context, table: JobTable, caches: ToolchainCaches) -> None:
        self._context = context
        self._table = table
        self._caches = caches

    def check_room(self, owner: str, concurrency: int | None) -> None:
        """Refuse a job when its key has too many.

        Args:
            owner: The key.
            concurrency: Jobs that it may have waiting or running; by default the engine's bound.

        Raises:
            LimitReached: The key has reached this number.
        """
        active = len(self._table.unfinished_of(owner))
        limit = concurrency or self._context.config.concurrency_per_key
        if active >= limit:
            raise LimitReached(
                f"this key already has {active} jobs queued or running; wait for one to end",
                active_executions=active,
                concurrency_limit=limit,
            )

    def check_input(self, record: JobRecord) -> None:
        """Refuse a job when its key's jobs that have not ended hold too many bytes, in memory or in files.

        Raises:
            LimitReached: They do.
        """
        most = self._context.config.waiting_bytes_per_key
        if self._table.input_of(record.owner) + record.input_bytes > most:
            raise LimitReached(
                f"the programs and files of this key's queued jobs have more than {most >> 20} MiB; wait for "
                "one to start",
                code="too_much_input",
            )

    async def new_record(self, owner: str, request: models.ExecuteRequest) -> JobRecord:
        """Return the record of a requested job, ready to run, not yet accepted.

        Raises:
            InvalidRequest: It can never be run as it is.
            TooLarge: Program or files exceed the limits.
            LimitReached: The key has no memory or CPU time left.
        """
        context = self._context
        isolation = self._isolation(owner, request)
        build = self._spec_builder(owner, request, isolation)
        spec = await asyncio.to_thread(build) if is_large(request) else build()
        context.quotas.check_job(owner, spec.limits.memory_bytes)
        return JobRecord(
            owner=owner,
            spec=spec,
            language=context.languages.resolve(request.language).name,
            network_mode=request.network_mode,
            isolation=isolation,
            code_sha256=code_hash(request.code) if context.audit is not None else "",
        )

    async def accept(self, record: JobRecord) -> JobRecord:
        """Store a job. It counts towards the limits at once, and is durable when this returns.

        Returns:
            The record, or the one that its idempotency key already made before a restart.
        """
        self._table.add(record)
        self._context.quotas.activity.set()
        try:
            stored = await self._store(record)
        except BaseException:
            self._table.discard(record)
            raise
        finally:
            record.accepted.set()
        if stored is not None:
            self._table.discard(record)
            return stored
        self._audit(record)
        return record

    async def _store(self, record: JobRecord) -> JobRecord | None:
        store = self._context.store
        if record.idempotency_key is not None:
            row = await store.find_by_idempotency_key(record.owner, record.idempotency_key)
            if row is not None:
                return revived(row)
        await store.add_job(row_of(record))
        return None

    def _isolation(self, owner: str, request: models.ExecuteRequest) -> str:
        try:
            return self._context.quotas.isolation(owner, request.isolation)
        except SandboxUnavailable as error:
            raise InvalidRequest(str(error), code="isolation_unavailable") from error

    def _spec_builder(
        self, owner: str, request: models.ExecuteRequest, isolation: str
    ) -> Callable[[], SandboxSpec]:
        """Return the function that reads program and files, which any thread may call."""
        context = self._context
        try:
            language = context.languages.resolve(request.language)
        except UnknownLanguageError as error:
            raise InvalidRequest(str(error), code="unknown_language") from error
        try:
            backend = context.backends.for_job(isolation)
        except SandboxUnavailable as error:
            raise InvalidRequest(str(error), code="isolation_unavailable") from error
        check_network(backend, NetworkMode(request.network_mode))
        limits = Limits(
            wall_s=float(request.ttl or language.time_s),
            vcpu=float(request.vcpu),
            memory_bytes=_memory_bytes(request, context.quotas.memory_bytes(owner, request.vcpu)),
            output_bytes=context.quotas.output_bytes(owner),
            compile_s=request.compile_timeout,
            cpu_s=request.cpu_time,
        )
        environment = environment_root(context, owner, request.env_name)
        cache = self._caches.place_or_make(language, backend) if request.version is None else None

        def build() -> SandboxSpec:
            check_request(request, context.config)
            try:
                return language.build_spec(
                    request.code,
                    env=request.env or {},
                    input_files=input_files(request.input_files or [], context.config),
                    input_modes=input_modes(request.input_files or []),
                    stdin=stdin_bytes(request),
                    network=NetworkMode(request.network_mode),
                    limits=limits,
                    return_artifacts=request.return_artifacts,
                    args=request.args or (),
                    compiler_args=request.compiler_args or (),
                    cache=cache,
                    cache_scope=owner,
                    version=request.version,
                    compile_apart=bool(request.compile_output),
                    system=context.languages.system,
                    environment=environment,
                )
            except ValueError as error:
                raise InvalidRequest(str(error)) from error

        return build

    def _audit(self, record: JobRecord) -> None:
        audit = self._context.audit
        if audit is None or record.spec is None:
            return
        limits = record.spec.limits
        audit.note(
            "job_accepted",
            owner=record.owner,
            job=record.job_id,
            language=record.language,
            code_sha256=record.code_sha256,
            isolation=self._context.backends.for_job(record.isolation).name,
            network_mode=record.network_mode,
            ttl_s=limits.wall_s,
            vcpu=limits.vcpu,
            memory_bytes=limits.memory_bytes,
        )


def _memory_bytes(request: models.ExecuteRequest, most: int) -> int:
    """Return the memory limit of a job: the requested one, or the maximum."""
    if request.memory_mb is None:
        return most
    if request.memory_mb * MIB > most:
        raise InvalidRequest(
            f"memory_mb is {request.memory_mb}; with vcpu {request.vcpu} at most {most // MIB} are allowed"
        )
    return request.memory_mb * MIB
