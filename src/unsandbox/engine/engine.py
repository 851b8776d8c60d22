"""The engine: jobs, and all that lasts, put together; started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from pathlib import Path
from weakref import WeakKeyDictionary

from unsandbox.engine.accounts.audit import AuditLog, audit_key
from unsandbox.engine.accounts.idempotency import IdempotencyStore
from unsandbox.engine.accounts.logbook import LogBook
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.backends import Backends, default_backend, pool_of
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.context import Context, Part
from unsandbox.engine.jobs.desk import JobManager
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.saved.images import Images
from unsandbox.engine.saved.snapshots import Snapshots
from unsandbox.engine.saved.sources import Source
from unsandbox.engine.services.services import Services
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.engine.store.store import MemoryStore, Store
from unsandbox.sandbox import (
    Backend,
    LanguageTable,
    ProbeReport,
    find_system,
    load_languages,
)
from unsandbox.sandbox.languages.caches import with_caches
from unsandbox.sandbox.persistent_spec import PersistentSandbox

logger = logging.getLogger("unsandbox.engine")

_TIDY_EVERY_S = 3600.0
_WATCH_EVERY_S = 1.0
_SAVE_CPU_EVERY_S = 30.0
_BEGINS_WITHIN_S = 5.0
"""What has stirred is in one of the lists after so long."""


class Engine(JobManager):
    """Jobs of many keys on this machine. One instance belongs to the event loop that started it.

    Args:
        config: The bounds.
        store: Where jobs live on; without one they are gone with the process.
        backend: The isolation; when not given, what `config.isolation` demands.
        languages: The language table; the built-in one when not given.
        folder: Data folder for what lasts; without one, sessions and the like are gone with the process.
        box: Encrypts what is secret at rest; with a data folder it must be the same at every start.
        blobs: URL of the store for snapshots and images; a folder in the data folder when not given.

    Attributes:
        sessions: Live sandboxes with a shell; like every part, there once the engine is started.
        snapshots: Saved states of sessions and services.
        images: Published copies of services and snapshots.
        services: Live sandboxes that keep a program running under a name.

    Example:
        >>> async def demo() -> str | None:
        ...     engine = Engine()
        ...     await engine.start()
        ...     record = await engine.submit("me", models.ExecuteRequest(language="python", code="print(1)"))
        ...     await record.ended.wait()
        ...     await engine.stop()
        ...     return record.as_job().stdout
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
        languages = languages or load_languages(system=with_caches(find_system(config.toolchains)))
        self._backend = backend or default_backend(config, languages)
        self._box = box or SecretBox.of_this_process()
        super().__init__(
            config,
            store or MemoryStore(),
            Backends(self._backend, config.isolation, languages.system, pool_of(config, languages)),
            languages,
            LogBook(),
            None if folder is None else AuditLog(folder, audit_key(self._box)),
        )
        self.replies = IdempotencyStore(self._store)
        self.probe: ProbeReport | None = None
        self.sessions: Sessions
        self.snapshots: Snapshots
        self.images: Images
        self.services: Services
        self._folder = folder
        self._blobs_url = blobs
        self._parts: list[Part] = []
        self._tidying: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._seen_cpu: WeakKeyDictionary[PersistentSandbox, float] = WeakKeyDictionary()

    async def start(self) -> ProbeReport:
        """Probe the isolation and begin to take jobs.

        Raises:
            SandboxUnavailable: The isolation cannot be had here; nothing is ever run with less.
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
        await self.replies.start()
        await self.quotas.ledger.load()
        if self.audit is not None:
            self.audit.open()
            self.audit.note("started", backend=self._backend.name)
        context = Context(
            config=self.config,
            store=self._store,
            backends=self.backends,
            languages=self.languages,
            folder=self._folder or self._backend.scratch(),
            lasting=self._folder is not None,
            logbook=self.logbook,
            box=self._box,
            quotas=self.quotas,
            audit=self.audit,
        )
        blobs = await asyncio.to_thread(Blobs.open, context.folder, self._blobs_url)
        self.sessions = Sessions(context)
        self.services = Services(context)
        sources: dict[str, Source] = {self.sessions.kind: self.sessions, self.services.kind: self.services}
        self.snapshots = Snapshots(context, blobs, sources)
        self.images = Images(context, blobs, self.snapshots, sources)
        self.services.golden = self.images.golden
        for part in (self.sessions, self.services, self.snapshots, self.images):
            self._parts.append(part)
            await part.start()
        await blobs.sweep()

    async def _stop_parts(self) -> None:
        await self.caches.close()
        for part in reversed(self._parts):
            await part.stop()
        await self.backends.close()
        await self._backend.close()
        if self.audit is not None:
            self.audit.note("stopped")
            self.audit.close()

    async def stop(self) -> None:
        """Take nothing new, let running jobs end within the grace time, mark the others, free everything."""
        self.logbook.close()
        await self._end_task(self._tidying)
        await self.stop_jobs()
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
        """Hold keys to their CPU time, as long as there is anything that could use some."""
        save_at = time.monotonic() + _SAVE_CPU_EVERY_S
        rest_at = 0.0
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            try:
                self._charge_live()
                self.watch_cpu()
            except Exception:
                logger.exception("the CPU time of keys could not be looked at; it is tried again")
            if self._at_rest() or time.monotonic() >= save_at:
                save_at = time.monotonic() + _SAVE_CPU_EVERY_S
                try:
                    await self.quotas.ledger.save()
                except Exception:
                    logger.exception("the CPU time of keys could not be stored; it is tried again")
                    continue
            if self.quotas.stirred.is_set():
                self.quotas.stirred.clear()
                rest_at = time.monotonic() + _BEGINS_WITHIN_S
            elif time.monotonic() >= rest_at and self._at_rest():
                await self.quotas.stirred.wait()

    def _at_rest(self) -> bool:
        """Whether nothing is there that could use CPU time: then nothing has to be looked at."""
        live = itertools.chain(self.sessions.live(), self.services.live())
        return not self.unfinished and next(live, None) is None

    def _charge_live(self) -> None:
        """Take note of what sessions and services have used since the last time."""
        for owner, sandbox in (*self.sessions.live(), *self.services.live()):
            if self.quotas.counts_cpu(owner) and (used := sandbox.cpu_s()) is not None:
                self.quotas.charge_cpu(owner, max(0.0, used - self._seen_cpu.get(sandbox, 0.0)))
                self._seen_cpu[sandbox] = used

    def numbers(self) -> dict[str, int]:
        """Return how much of everything there is now."""
        waiting, running = self.job_numbers()
        return {
            "jobs_waiting": waiting,
            "jobs_running": running,
            "sessions": len(self.sessions),
            "services": len(self.services),
            "snapshots": len(self.snapshots),
            "images": len(self.images),
        }

    async def _tidy(self) -> None:
        """Now and then forget what has been kept long enough."""
        while True:
            try:
                await self._store.prune(time.time() - self.config.retention_s, self.config.retention_jobs)
                await self.replies.prune()
            except Exception:
                logger.exception("what is too old could not be removed; it is tried again later")
            await asyncio.sleep(_TIDY_EVERY_S)
