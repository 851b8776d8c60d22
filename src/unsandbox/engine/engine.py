"""The engine: puts jobs, sessions, services, snapshots and images together; starts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

from unsandbox.engine.accounts.audit import AuditLog, audit_key
from unsandbox.engine.accounts.idempotency import IdempotencyStore
from unsandbox.engine.accounts.logbook import LogBook
from unsandbox.engine.accounts.quotas import Quotas
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.backends import Backends, default_backend, options_of
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.context import Context, Folder, Part
from unsandbox.engine.environments.store import EnvironmentStore
from unsandbox.engine.jobs.manager import JobManager
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.saved.images import Images
from unsandbox.engine.saved.snapshots import Snapshots
from unsandbox.engine.saved.sources import Source
from unsandbox.engine.services.services import Services
from unsandbox.engine.sessions.forks import Forks
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.engine.store.memory import MemoryStore
from unsandbox.engine.store.rows import Store
from unsandbox.engine.workspace.contexts import Contexts
from unsandbox.engine.workspace.workspaces import Workspaces
from unsandbox.sandbox import (
    Backend,
    LanguageTable,
    ProbeReport,
    find_system,
    load_languages,
)
from unsandbox.sandbox.languages.caches import ToolchainCaches, with_caches
from unsandbox.sandbox.persistent_spec import PersistentSandbox

logger = logging.getLogger("unsandbox.engine")

_TIDY_EVERY_S = 3600.0
_WATCH_EVERY_S = 1.0
_SAVE_CPU_EVERY_S = 30.0
_BEGINS_WITHIN_S = 5.0
"""Time within which new activity appears among the jobs, sessions or services."""


class Engine:
    """Jobs of many keys on this machine. One instance belongs to the event loop that started it.

    Args:
        config: The bounds.
        store: Storage of jobs and objects; without one they end with the process.
        backend: The isolation; when not given, the one that `config.isolation` demands.
        languages: The language table; the built-in one when not given.
        folder: Data folder; without one, sessions and other objects end with the process.
        box: Encrypts secrets at rest; with a data folder it must be the same at every start.
        blobs: URL of the store for snapshots and images; a folder in the data folder when not given.

    Attributes:
        context: The objects that all parts share.
        caches: Of the toolchains.
        jobs: Programs that run once.
        sessions: Persistent sandboxes with a shell; like the following, available once the engine is started.
        workspaces: Processes and files of sessions.
        contexts: Interpreters of sessions.
        services: Persistent sandboxes that keep a program running under a name.
        snapshots: Saved states of sessions and services.
        images: Published copies of services and snapshots.

    Example:
        >>> async def demo() -> str | None:
        ...     engine = Engine()
        ...     await engine.start()
        ...     record = await engine.jobs.submit(
        ...         "me", models.ExecuteRequest(language="python", code="print(1)")
        ...     )
        ...     job = await engine.jobs.get("me", record.job_id, wait_s=10)
        ...     await engine.stop()
        ...     return job.stdout
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        store: Store | None = None,
        backend: Backend | None = None,
        languages: LanguageTable | None = None,
        folder: Path | None = None,
        box: SecretBox | None = None,
        blobs: str | None = None,
    ) -> None:
        config = config or EngineConfig()
        store = store or MemoryStore()
        languages = languages or load_languages(system=with_caches(find_system(config.toolchains)))
        box = box or SecretBox.of_this_process()
        self._backend = backend or default_backend(config, languages)
        self.context = Context(
            config=config,
            store=store,
            backends=Backends(self._backend, config.isolation, options_of(config, languages)),
            languages=languages,
            logbook=LogBook(),
            box=box,
            quotas=Quotas(config, store),
            environments=EnvironmentStore(config.environments),
            audit=None if folder is None else AuditLog(folder, audit_key(box)),
        )
        self.caches = ToolchainCaches(languages.system)
        self.jobs = JobManager(self.context, self.caches)
        self.replies = IdempotencyStore(store)
        self.probe: ProbeReport | None = None
        self.sessions: Sessions
        self.workspaces: Workspaces
        self.forks: Forks
        self.contexts: Contexts
        self.services: Services
        self.snapshots: Snapshots
        self.images: Images
        self._folder = folder
        self._blobs_url = blobs
        self._parts: list[Part] = []
        self._tidying: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._seen_cpu: WeakKeyDictionary[PersistentSandbox, float] = WeakKeyDictionary()

    @property
    def config(self) -> EngineConfig:
        """The bounds."""
        return self.context.config

    @property
    def languages(self) -> LanguageTable:
        """The languages that can run here."""
        return self.context.languages

    @property
    def quotas(self) -> Quotas:
        """The totals that each key may use."""
        return self.context.quotas

    @property
    def logbook(self) -> LogBook:
        """The events that the owner of a key may read."""
        return self.context.logbook

    @property
    def audit(self) -> AuditLog | None:
        """The audit log; None without a data folder."""
        return self.context.audit

    async def start(self) -> ProbeReport:
        """Probe the isolation and begin to take jobs.

        Raises:
            SandboxUnavailable: The isolation is not available here; nothing is ever run with less.
            EngineError: The data folder or the blob store cannot be used.
        """
        self.probe = await self._backend.open()
        try:
            await self._start_parts()
        except BaseException:
            await self._stop_parts()
            raise
        self._tidying = asyncio.create_task(self._tidy())
        self._watching = asyncio.create_task(self._watch())
        return self.probe

    async def _start_parts(self) -> None:
        context = self.context
        await self.replies.start()
        await context.quotas.ledger.load()
        if context.audit is not None:
            context.audit.open()
            context.audit.note("started", backend=self._backend.name)
        folder = Folder.at(self._folder or self._backend.scratch(), durable=self._folder is not None)
        blobs = await asyncio.to_thread(Blobs.open, folder.path, self._blobs_url)
        self.sessions = Sessions(context, folder)
        self.workspaces = Workspaces(context, self.sessions)
        self.forks = Forks(context, self.sessions)
        self.contexts = Contexts(self.sessions)
        self.services = Services(context, folder)
        sources: dict[str, Source] = {self.sessions.kind: self.sessions, self.services.kind: self.services}
        self.snapshots = Snapshots(context, blobs, sources)
        self.images = Images(context, blobs, self.snapshots, sources)
        self.services.open_image = self.images.open
        for part in (self.sessions, self.services, self.snapshots, self.images):
            self._parts.append(part)
            await part.start()
        await blobs.sweep()

    async def _stop_parts(self) -> None:
        await self.caches.close()
        for part in reversed(self._parts):
            await part.stop()
        await self.context.backends.close()
        await self._backend.close()
        if self.audit is not None:
            self.audit.note("stopped")
            self.audit.close()

    async def stop(self, grace_s: float | None = None) -> None:
        """Accept nothing new, let running jobs finish, mark the rest as failed, and release everything.

        Args:
            grace_s: Seconds to wait for running jobs. Default: `config.stop_grace_s`.
        """
        self.logbook.close()
        await self._end_task(self._tidying)
        await self.jobs.stop(self.config.stop_grace_s if grace_s is None else grace_s)
        await self._end_task(self._watching)
        with contextlib.suppress(Exception):
            await self.quotas.ledger.save()
        await self._stop_parts()

    @staticmethod
    async def _end_task(task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        """Enforce the CPU limits of keys, while anything exists that can use CPU time."""
        save_at = time.monotonic() + _SAVE_CPU_EVERY_S
        rest_at = 0.0
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            try:
                self._charge_persistent()
                self.jobs.enforce_cpu_limits()
            except Exception:
                logger.exception("the CPU time of keys could not be checked; retrying later")
            if self._is_idle() or time.monotonic() >= save_at:
                save_at = time.monotonic() + _SAVE_CPU_EVERY_S
                try:
                    await self.quotas.ledger.save()
                except Exception:
                    logger.exception("the CPU time of keys could not be stored; retrying later")
                    continue
            if self.quotas.activity.is_set():
                self.quotas.activity.clear()
                rest_at = time.monotonic() + _BEGINS_WITHIN_S
            elif time.monotonic() >= rest_at and self._is_idle():
                await self.quotas.activity.wait()

    def _persistent(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every session and service that has one now."""
        return itertools.chain(self.sessions.sandboxes, self.services.sandboxes())

    def _is_idle(self) -> bool:
        """Return whether nothing can use CPU time, so that there is nothing to check."""
        return not self.jobs.unfinished and next(self._persistent(), None) is None

    def _charge_persistent(self) -> None:
        """Charge keys for the CPU time that sessions and services have used since the last call."""
        for owner, sandbox in list(self._persistent()):
            if self.quotas.counts_cpu(owner) and (used := sandbox.cpu_s()) is not None:
                self.quotas.charge_cpu(owner, max(0.0, used - self._seen_cpu.get(sandbox, 0.0)))
                self._seen_cpu[sandbox] = used

    def numbers(self) -> dict[str, int]:
        """Return how many jobs and objects of each kind there are now."""
        waiting, running = self.jobs.counts()
        return {
            "jobs_waiting": waiting,
            "jobs_running": running,
            "sessions": len(self.sessions),
            "services": len(self.services),
            "snapshots": len(self.snapshots),
            "images": len(self.images),
        }

    async def _tidy(self) -> None:
        """Delete old jobs and old kept answers every hour."""
        store = self.context.store
        while True:
            try:
                await store.prune(time.time() - self.config.retention_s, self.config.retention_jobs)
                await self.replies.prune()
            except Exception:
                logger.exception("old jobs and answers could not be deleted; retrying later")
            await asyncio.sleep(_TIDY_EVERY_S)
