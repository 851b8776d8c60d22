"""The services of an engine: the stored records, the files beside them, and their supervisors."""

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
from unsandbox.engine.persistent.limits import persistent_limits
from unsandbox.engine.saved.sources import SavedState
from unsandbox.engine.services.bootstrap import Bootstrap
from unsandbox.engine.services.deployment import (
    deployment_files,
    read_deployment,
    read_script,
    remove_deployments,
    script_argv,
    write_deployment,
)
from unsandbox.engine.services.hostnames import ServiceNames
from unsandbox.engine.services.log import ServiceLog
from unsandbox.engine.services.record import FAILED, FROZEN, RUNNING, STOPPED, ServiceRecord
from unsandbox.engine.services.supervisor import End, Launch, ServiceSupervisor
from unsandbox.engine.services.vault import VaultSealer
from unsandbox.engine.store.objects import Collection
from unsandbox.protocol.contents import Content
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.languages.shells import find_shell
from unsandbox.sandbox.launcher.cleanup import remove_tree
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
        folder: The folder with the disks of services.

    Attributes:
        collection: All services.
        names: Finds them by host name.
        sealer: Opens and closes vaults.
        activity: Notes when they are used.
    """

    def __init__(self, context: Context, folder: Folder) -> None:
        self._context = context
        self._root = folder.path / "services"
        self._config = context.config
        self.collection: Collection[ServiceRecord] = Collection(
            "service", ServiceRecord, context.store, lambda item, name: name in (item.name, item.container)
        )
        self.names = ServiceNames(self.collection, context.config.reserved_domains)
        self.sealer = VaultSealer(context.box)
        self._supervisors: dict[str, ServiceSupervisor] = {}
        self._delays: dict[str, float] = {}
        self._background = Background()
        self.activity = Activity(self.collection, self._background)
        self._gate = asyncio.Semaphore(2 * usable_cpus())

    async def load(self) -> None:
        """Load the services of an earlier process: start running ones again, and others when they are used."""
        for record in await self.collection.load():
            supervisor = self._supervisors[record.object_id] = await self._new_supervisor(record)
            if record.state == RUNNING:
                supervisor.start_later()
        self.names.refresh()
        await run_long(self._sweep)

    async def close(self) -> None:
        """End every program and sandbox; the records are kept."""
        grace_s = min(self._config.service_grace_s, self._config.stop_grace_s)
        await asyncio.gather(
            *(self._end(supervisor, grace_s) for supervisor in self._supervisors.values()),
            return_exceptions=True,
        )
        for supervisor in self._supervisors.values():
            supervisor.log.close()
        await self._background.finish()

    def known(self, object_id: str) -> ServiceRecord:
        """Return a service of any key.

        Raises:
            UnknownObject: No service has this id.
        """
        record = self.collection.find(object_id)
        if record is None:
            raise UnknownObject(f"no service {object_id[:80]!r}", code="service_not_found")
        return record

    def supervisor_of(self, record: ServiceRecord) -> ServiceSupervisor:
        """Return the supervisor of a service.

        Raises:
            UnknownObject: It was deleted.
        """
        supervisor = self._supervisors.get(record.object_id)
        if supervisor is None or self.collection.find(record.object_id) is not record:
            raise UnknownObject(f"service {record.object_id} was deleted", code="service_not_found")
        return supervisor

    def sandboxes(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every service that has one now."""
        for object_id, supervisor in self._supervisors.items():
            if supervisor.sandbox is not None and (record := self.collection.find(object_id)) is not None:
                yield record.owner, supervisor.sandbox

    @contextlib.asynccontextmanager
    async def locked(self, record: ServiceRecord) -> AsyncIterator[ServiceSupervisor]:
        """Hold a service: nothing else starts or stops it meanwhile.

        Raises:
            UnknownObject: It was deleted.
        """
        async with self.supervisor_of(record).lock:
            yield self.supervisor_of(record)

    async def save(self, record: ServiceRecord) -> None:
        """Store a changed service, unless it was deleted."""
        if self.collection.find(record.object_id) is record:
            await self.collection.update(record)
            self.names.refresh()

    async def change(self, record: ServiceRecord, **changes: Any) -> None:
        """Change fields of a service and store it; when that fails, they are as they were."""
        before = {name: getattr(record, name) for name in changes}
        for name, value in changes.items():
            setattr(record, name, value)
        try:
            await self.save(record)
        except Exception:
            for name, value in before.items():
                # Unless another task has changed it meanwhile.
                if getattr(record, name) is changes[name]:
                    setattr(record, name, value)
            raise

    async def add(
        self,
        record: ServiceRecord,
        bootstrap: Bootstrap | None,
        files: dict[str, bytes | Content],
        state: SavedState | None,
    ) -> None:
        """Start a new service and store it; nothing of it stays when that fails."""
        supervisor = await self._new_supervisor(record)
        try:
            for name, value in (await self.deploy(record, bootstrap, files)).items():
                setattr(record, name, value)
            async with supervisor.lock:
                await supervisor.start(state)
                if supervisor.sandbox is not None:
                    record.isolation = supervisor.sandbox.backend
            self._supervisors[record.object_id] = supervisor
            await self.collection.put(record)
        except BaseException:
            await self._end(supervisor, 0.0)
            await self._forget(record, supervisor)
            raise
        self.names.refresh()

    async def remove(self, record: ServiceRecord) -> None:
        """End a service and remove everything that belongs to it.

        Raises:
            Conflict: It is locked.
        """
        async with self.locked(record) as supervisor:
            if record.locked:
                raise Conflict("the service is locked; unlock it first", code="service_locked")
            await self.collection.drop(record)
            self.names.refresh()
            await supervisor.stop(0.0)
        await self._forget(record, supervisor)

    async def deploy(
        self, record: ServiceRecord, bootstrap: Bootstrap | None, files: dict[str, bytes | Content]
    ) -> dict[str, Any]:
        """Write the script and files of a service; return the fields of its record that change with them."""
        script = bootstrap.script if bootstrap else None
        return {
            "deployment": await run_long(write_deployment, self._folder(record), script, files),
            "has_bootstrap": bootstrap is not None,
            "bootstrap_url": bootstrap.url if bootstrap else None,
        }

    async def deployed(self, record: ServiceRecord) -> tuple[bytes | None, dict[str, bytes | Content]]:
        """Return the script and the files of a service."""
        return await run_long(read_deployment, self._folder(record), record.deployment)

    def read_script(self, record: ServiceRecord) -> bytes | None:
        """Return the script of a service, at most 4 MiB; None if it has none."""
        return read_script(self._folder(record), record.deployment) if record.has_bootstrap else None

    async def start_again(
        self,
        record: ServiceRecord,
        supervisor: ServiceSupervisor,
        state: SavedState | None = None,
        **changes: Any,
    ) -> None:
        """End the program of a service and start it; the caller holds the service.

        Args:
            record: The service.
            supervisor: Keeps its program running.
            state: The state that its sandbox starts from; by default its work folder.
            changes: Of the record, such as a new deployment. If they cannot be stored nothing is changed.
        """
        await supervisor.stop(self._config.service_grace_s)
        try:
            await self.change(record, state=RUNNING, restarts=0, last_end=None, reason=None, **changes)
        except BaseException:
            if record.state == RUNNING:
                supervisor.start_later()
            raise
        finally:
            await run_long(remove_deployments, self._folder(record), record.deployment)
        self._delays.pop(record.object_id, None)
        await self.start_or_retry(supervisor, state)

    async def start_or_retry(self, supervisor: ServiceSupervisor, state: SavedState | None) -> None:
        """Start a service; if that fails, raise the error and try again in the background."""
        try:
            await supervisor.start(state)
        except BaseException:
            supervisor.start_later()
            raise

    async def _new_supervisor(self, record: ServiceRecord) -> ServiceSupervisor:
        log = await run_long(ServiceLog, self._folder(record) / "log")

        async def prepare() -> Launch:
            return await self._prepare(record)

        async def on_end(end: End) -> float | None:
            return await self._on_end(record, end)

        return ServiceSupervisor(self._context, log, prepare, on_end, self._gate)

    async def _prepare(self, record: ServiceRecord) -> Launch:
        script, files = await self.deployed(record)
        shell = find_shell(record.shell, self._context.languages.system).program if record.shell else "sh"
        port = {"PORT": str(record.ports[0])} if record.ports else {}
        spec = PersistentSpec(
            limits=persistent_limits(self._context, record.owner, record.vcpu),
            network=NetworkMode(record.network_mode),
            env=port | self.sealer.open(record.vault),
            files=deployment_files(script, files),
            low_ports=any(number < _FIRST_HIGH_PORT for number in record.ports),
            work_disk=self._folder(record) / "disk",
        )
        argv = None if script is None else script_argv(script, shell)
        return Launch(record.isolation, spec, argv, record.ports)

    async def _on_end(self, record: ServiceRecord, end: End) -> float | None:
        """Return the seconds until an ended program is restarted; None for no restart."""
        if record.state == FROZEN:
            return 0.0
        name, delay = record.object_id, None
        record.last_end, record.reason = end.description, end.reason
        if record.restart == "always" or (record.restart == "on-failure" and end.exit_code != 0):
            last = 0.0 if end.ran_s > _STEADY_S else self._delays.get(name, 0.0)
            delay = min(_LONGEST_DELAY_S, 2 * last or self._config.restart_delay_s)
            self._delays[name] = delay
            record.restarts += 1
        else:
            record.state = STOPPED if end.exit_code == 0 else FAILED
        self._context.logbook.note("engine", record.owner, f"service {name}: {end.description}")
        try:
            # Also while the engine stops; otherwise the next process would restart a program that had ended.
            await run_uncancelled(self.save(record))
        except UnknownObject:
            return None
        except Exception:
            # Restart the program even if the disk is full.
            logger.exception("the end of the program of %s could not be stored", name)
        return delay

    async def _forget(self, record: ServiceRecord, supervisor: ServiceSupervisor) -> None:
        supervisor.log.close()
        for kept in (self._supervisors, self._delays):
            kept.pop(record.object_id, None)
        self.activity.forget(record.object_id)
        await run_long(remove_tree, self._folder(record))

    async def _end(self, supervisor: ServiceSupervisor, grace_s: float) -> None:
        async with supervisor.lock:
            await supervisor.stop(grace_s)

    def _folder(self, record: ServiceRecord) -> Path:
        return self._root / record.object_id

    def _sweep(self) -> None:
        """Remove files of services that were being created or deleted when an earlier process died."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._root.iterdir():
                record = self.collection.find(path.name)
                if record is None:
                    remove_tree(path)
                else:
                    remove_deployments(path, record.deployment)
