"""Where services run: the stored documents, the files beside them, and the runs of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from unsandbox.engine.background import Background, run_uncancelled
from unsandbox.engine.config import usable_cpus
from unsandbox.engine.context import Context, Folder
from unsandbox.engine.errors import Conflict, UnknownObject
from unsandbox.engine.persistent.activity import Activity
from unsandbox.engine.persistent.limits import persistent_limits, remove_tree
from unsandbox.engine.saved.sources import SavedState
from unsandbox.engine.services.bootstrap import (
    Bootstrap,
    deployment_files,
    read_deployment,
    remove_deployments,
    script_argv,
    write_deployment,
)
from unsandbox.engine.services.document import FAILED, FROZEN, RUNNING, STOPPED, ServiceRecord
from unsandbox.engine.services.hostnames import ServiceNames
from unsandbox.engine.services.log import ServiceLog
from unsandbox.engine.services.supervisor import End, Launch, ServiceSupervisor
from unsandbox.engine.services.vault import VaultSealer
from unsandbox.engine.store.objects import Collection
from unsandbox.protocol.contents import Content
from unsandbox.sandbox.languages.shells import find_shell
from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import NetworkMode

logger = logging.getLogger("unsandbox.engine.services.services")

_FIRST_HIGH_PORT = 1024
_LONGEST_DELAY_S = 60.0
_STEADY_S = 60.0


class ServiceRegistry:
    """Starts, stops and finds services; knows nothing of requests.

    Args:
        context: What the parts of the engine share.
        folder: Where the disks of services lie.

    Attributes:
        shelf: All services.
        names: Finds them by host name.
        sealer: Opens and closes vaults.
        activity: Notes when they are used.
    """

    def __init__(self, context: Context, folder: Folder) -> None:
        self._context = context
        self._root = folder.path / "services"
        self._config = context.config
        self.shelf: Collection[ServiceRecord] = Collection(
            "service", ServiceRecord, context.store, lambda item, name: name in (item.name, item.container)
        )
        self.names = ServiceNames(self.shelf, context.config.reserved_domains)
        self.sealer = VaultSealer(context.box)
        self._runs: dict[str, ServiceSupervisor] = {}
        self._delays: dict[str, float] = {}
        self._background = Background()
        self.activity = Activity(self.shelf, self._background)
        self._gate = asyncio.Semaphore(2 * usable_cpus())

    async def load(self) -> None:
        """Take up what an earlier process left: what ran is started again, the rest when it is asked for."""
        for document in await self.shelf.load():
            run = self._runs[document.object_id] = await self._new_run(document)
            if document.state == RUNNING:
                run.start_later()
        self.names.refresh()
        await asyncio.to_thread(self._sweep)

    async def close(self) -> None:
        """End every program and sandbox; what is stored stays."""
        grace_s = min(self._config.service_grace_s, self._config.stop_grace_s)
        await asyncio.gather(*(self._end(run, grace_s) for run in self._runs.values()), return_exceptions=True)
        for run in self._runs.values():
            run.log.close()
        await self._background.finish()

    def known(self, object_id: str) -> ServiceRecord:
        """Return a service whoever owns it.

        Raises:
            UnknownObject: There is none of this id.
        """
        document = self.shelf.find(object_id)
        if document is None:
            raise UnknownObject(f"no service {object_id[:80]!r}", code="service_not_found")
        return document

    def run_of(self, document: ServiceRecord) -> ServiceSupervisor:
        """Return what this process has of a service.

        Raises:
            UnknownObject: It was deleted.
        """
        run = self._runs.get(document.object_id)
        if run is None or self.shelf.find(document.object_id) is not document:
            raise UnknownObject(f"service {document.object_id} was deleted", code="service_not_found")
        return run

    def sandboxes(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every service that has one now."""
        for object_id, run in self._runs.items():
            if run.sandbox is not None and (document := self.shelf.find(object_id)) is not None:
                yield document.owner, run.sandbox

    @contextlib.asynccontextmanager
    async def locked(self, document: ServiceRecord) -> AsyncIterator[ServiceSupervisor]:
        """Hold a service: nobody else changes what runs of it meanwhile.

        Raises:
            UnknownObject: It was deleted.
        """
        async with self.run_of(document).lock:
            yield self.run_of(document)

    async def save(self, document: ServiceRecord) -> None:
        """Store a changed service, unless it was deleted."""
        if self.shelf.find(document.object_id) is document:
            await self.shelf.update(document)
            self.names.refresh()

    async def change(self, document: ServiceRecord, **changes: Any) -> None:
        """Change fields of a service and store it; when that fails, they are as they were."""
        before = {name: getattr(document, name) for name in changes}
        for name, value in changes.items():
            setattr(document, name, value)
        try:
            await self.save(document)
        except Exception:
            for name, value in before.items():
                # Unless somebody else has changed it meanwhile.
                if getattr(document, name) is changes[name]:
                    setattr(document, name, value)
            raise

    async def add(
        self,
        document: ServiceRecord,
        bootstrap: Bootstrap | None,
        files: dict[str, bytes | Content],
        state: SavedState | None,
    ) -> None:
        """Start a new service and store it; nothing of it stays when that fails."""
        run = await self._new_run(document)
        try:
            for name, value in (await self.deploy(document, bootstrap, files)).items():
                setattr(document, name, value)
            async with run.lock:
                await run.start(state)
                if run.sandbox is not None:
                    document.isolation = run.sandbox.backend
            self._runs[document.object_id] = run
            await self.shelf.put(document)
        except BaseException:
            await self._end(run, 0.0)
            await self._forget(document, run)
            raise
        self.names.refresh()

    async def remove(self, document: ServiceRecord) -> None:
        """End a service and remove all that is of it.

        Raises:
            Conflict: It is locked.
        """
        async with self.locked(document) as run:
            if document.locked:
                raise Conflict("the service is locked; unlock it first", code="service_locked")
            await self.shelf.drop(document)
            self.names.refresh()
            await run.stop(0.0)
        await self._forget(document, run)

    async def deploy(
        self, document: ServiceRecord, bootstrap: Bootstrap | None, files: dict[str, bytes | Content]
    ) -> dict[str, Any]:
        """Write what a service is to run; return what changes in its document when it counts."""
        script = bootstrap.script if bootstrap else None
        return {
            "deployment": await asyncio.to_thread(write_deployment, self._folder(document), script, files),
            "has_bootstrap": bootstrap is not None,
            "bootstrap_url": bootstrap.url if bootstrap else None,
        }

    async def deployed(self, document: ServiceRecord) -> tuple[bytes | None, dict[str, bytes | Content]]:
        """Return the script and the files of a service."""
        return await asyncio.to_thread(self.read_deployed, document)

    def read_deployed(self, document: ServiceRecord) -> tuple[bytes | None, dict[str, bytes | Content]]:
        """As `deployed`; blocks."""
        return read_deployment(self._folder(document), document.deployment)

    async def start_again(
        self, document: ServiceRecord, run: ServiceSupervisor, state: SavedState | None = None, **changes: Any
    ) -> None:
        """End the program of a service and start it; the caller holds the service.

        Args:
            document: The service.
            run: What runs of it.
            state: What its sandbox is made of; by default its work folder.
            changes: Of the document, such as a new deployment. If they cannot be stored nothing is changed.
        """
        await run.stop(self._config.service_grace_s)
        try:
            await self.change(document, state=RUNNING, restarts=0, last_end=None, **changes)
        except BaseException:
            if document.state == RUNNING:
                run.start_later()
            raise
        finally:
            await asyncio.to_thread(remove_deployments, self._folder(document), document.deployment)
        self._delays.pop(document.object_id, None)
        await self.start_or_retry(run, state)

    async def start_or_retry(self, run: ServiceSupervisor, state: SavedState | None) -> None:
        """Start a service; when that fails the caller is told why, and it is tried again in the background."""
        try:
            await run.start(state)
        except BaseException:
            run.start_later()
            raise

    async def _new_run(self, document: ServiceRecord) -> ServiceSupervisor:
        log = await asyncio.to_thread(ServiceLog, self._folder(document) / "log")

        async def prepare() -> Launch:
            return await self._prepare(document)

        async def on_end(end: End) -> float | None:
            return await self._take_note_of_end(document, end)

        return ServiceSupervisor(self._context, log, prepare, on_end, self._gate)

    async def _prepare(self, document: ServiceRecord) -> Launch:
        script, files = await self.deployed(document)
        shell = find_shell(document.shell, self._context.languages.system).program if document.shell else "sh"
        port = {"PORT": str(document.ports[0])} if document.ports else {}
        spec = PersistentSpec(
            limits=persistent_limits(self._context, document.owner, document.vcpu),
            network=NetworkMode(document.network_mode),
            env=port | self.sealer.open(document.vault),
            files=deployment_files(script, files),
            low_ports=any(number < _FIRST_HIGH_PORT for number in document.ports),
            work_disk=self._folder(document) / "disk",
        )
        argv = None if script is None else script_argv(script, shell)
        return Launch(document.isolation, spec, argv, document.ports)

    async def _take_note_of_end(self, document: ServiceRecord, end: End) -> float | None:
        """Decide what follows the end of a program: seconds until it is started again, or None."""
        if document.state == FROZEN:
            return 0.0
        name, delay = document.object_id, None
        document.last_end = end.words
        if document.restart == "always" or (document.restart == "on-failure" and end.exit_code != 0):
            last = 0.0 if end.ran_s > _STEADY_S else self._delays.get(name, 0.0)
            delay = min(_LONGEST_DELAY_S, 2 * last or self._config.restart_delay_s)
            self._delays[name] = delay
            document.restarts += 1
        else:
            document.state = STOPPED if end.exit_code == 0 else FAILED
        self._context.logbook.note("engine", document.owner, f"service {name}: {end.words}")
        try:
            # Also when the engine stops just now: else the next one starts again what had ended.
            await run_uncancelled(self.save(document))
        except UnknownObject:
            return None
        except Exception:
            # A full disk is no reason to leave the program dead.
            logger.exception("the end of the program of %s could not be stored", name)
        return delay

    async def _forget(self, document: ServiceRecord, run: ServiceSupervisor) -> None:
        run.log.close()
        for kept in (self._runs, self._delays):
            kept.pop(document.object_id, None)
        self.activity.forget(document.object_id)
        await asyncio.to_thread(remove_tree, self._folder(document))

    async def _end(self, run: ServiceSupervisor, grace_s: float) -> None:
        async with run.lock:
            await run.stop(grace_s)

    def _folder(self, document: ServiceRecord) -> Path:
        return self._root / document.object_id

    def _sweep(self) -> None:
        """Remove what was left of services that were being made or deleted when an earlier process died."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._root.iterdir():
                document = self.shelf.find(path.name)
                if document is None:
                    remove_tree(path)
                else:
                    remove_deployments(path, document.deployment)
