"""Services: persistent sandboxes that keep a program running under a name, until they are deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager

from unsandbox.engine.context import Context, Folder
from unsandbox.engine.errors import Conflict, InvalidRequest, UnknownObject
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.persistent.limits import (
    check_room,
    persistent_limits,
    reserved_by_all,
    reserved_by_one,
    set_vcpu,
)
from unsandbox.engine.saved.sources import SavedState, SourceInfo
from unsandbox.engine.services.bootstrap import is_elsewhere, read_bootstrap
from unsandbox.engine.services.lifecycle import ServiceLifecycle
from unsandbox.engine.services.log import ServiceLog
from unsandbox.engine.services.record import FROZEN, ServiceRecord, as_request, describe, new_record
from unsandbox.engine.services.registry import ServiceRegistry
from unsandbox.engine.services.router import ServiceRouter
from unsandbox.engine.services.supervisor import ServiceSupervisor
from unsandbox.engine.services.vaults import Vaults
from unsandbox.protocol.services import DomainsRequest, Redeploy, Service, ServiceRequest, ServiceUpdate
from unsandbox.protocol.services import ServiceLog as ServiceText
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.persistent_spec import PersistentSandbox

_IMAGE_PREFIX = "unsb-image-"

ImageOpener = Callable[[str, str], AbstractAsyncContextManager[SavedState]]
"""Opens an image, named by its owner and id or name, for the time of a call."""


class Services:
    """All services of an engine.

    Args:
        context: What the parts of the engine share.
        folder: The folder with the disks of services.
        is_public: Tells from which addresses a bootstrap may be fetched.

    Attributes:
        registry: The stored records and their supervisors.
        lifecycle: Freezes, restarts, and runs commands.
        vaults: Their environment vaults.
        router: Leads requests from outside to them.
        open_image: Opens an image for a new service; set by the engine.
    """

    kind = "service"

    def __init__(
        self, context: Context, folder: Folder, is_public: Callable[[str], bool] = is_elsewhere
    ) -> None:
        self._context = context
        self._is_public = is_public
        self.registry = registry = ServiceRegistry(context, folder)
        self.lifecycle = ServiceLifecycle(context, registry, is_public)
        self.vaults = Vaults(registry, self.lifecycle.restart)
        self.router = ServiceRouter(context.config, registry, self.lifecycle.wake)
        self.open_image: ImageOpener = _no_images
        context.quotas.holders.append(
            lambda owner: reserved_by_all(context, owner, registry.collection.of(owner))
        )

    async def start(self) -> None:
        """Load the services of an earlier process: start running ones again; frozen ones stay frozen."""
        await self.registry.load()

    async def stop(self) -> None:
        """End every program and sandbox. In a durable data folder the services themselves stay."""
        await self.registry.close()

    def __len__(self) -> int:
        """How many there are, of all keys."""
        return len(self.registry.collection)

    def sandboxes(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every service that has one now."""
        return self.registry.sandboxes()

    async def create(self, owner: str, request: ServiceRequest, limit: int | None = None) -> Service:
        """Make a service; its sandbox runs and its program was started when this returns.

        Args:
            owner: The key it belongs to.
            request: Its settings, its script and input files.
            limit: Services that the key may have; by default the engine's bound.

        Raises:
            InvalidRequest: Something in it is not usable, or isolation or network are not available here.
            Conflict: The name or a domain is taken.
            LimitReached: The key has no service, memory or CPU time left.
            InsufficientStorage: It stores as much as it may.
        """
        self._context.quotas.check_cpu(owner)
        if request.golden_image is None:
            return await self._make(owner, request, limit=limit)
        async with self.open_image(owner, request.golden_image) as state:
            return await self._make(owner, request, state, limit=limit)

    async def make_from(
        self,
        owner: str,
        request: ServiceRequest,
        state: SavedState,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Service:
        """Make a service out of a saved state; see `Source.make_from`."""
        return await self._make(owner, request, state, object_id, limit)

    async def _make(
        self,
        owner: str,
        request: ServiceRequest,
        state: SavedState | None = None,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Service:
        registry, context = self.registry, self._context
        domains = registry.names.clean_domains(request.custom_domains or [])
        record = new_record(context, owner, request, domains, object_id)
        files = input_files(request.input_files or [], context.config)
        if object_id is not None and registry.collection.find(object_id) is not None:
            raise Conflict(f"the service {object_id!r} already exists")
        if state is not None and state.origin.startswith(_IMAGE_PREFIX):
            record.source_image = state.origin
        check_room(
            self.kind,
            len(registry.collection.of(owner)) + context.quotas.in_flight(self.kind, owner),
            context.config.services_per_key if limit is None else limit,
        )
        with (
            registry.names.claim(record.name, domains),
            context.quotas.making(self.kind, owner, reserved_by_one(context, owner, request.vcpu)),
        ):
            bootstrap = await read_bootstrap(owner, request, self._is_public)
            try:
                await registry.add(record, bootstrap, files, state)
            except InvalidRequest as error:
                if request.network_mode is not None:
                    raise
                hint = "a service is 'semitrusted' unless network_mode says 'zerotrust' (no network)"
                raise InvalidRequest(f"{error.message}; {hint}", code=error.code) from error
        self._note(record, "was made")
        return self._describe(record)

    def get(self, owner: str, name: str) -> Service:
        """Return a service by id, name or container name.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self._describe(self.find(owner, name))

    def find(self, owner: str, name: str) -> ServiceRecord:
        """Return the stored record of a service.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self.registry.collection.get(owner, name)

    def list_of(self, owner: str) -> list[Service]:
        """Return the services of a key, newest first."""
        return [self._describe(record) for record in self.registry.collection.of(owner)]

    async def update(self, owner: str, name: str, change: ServiceUpdate) -> Service:
        """Change settings while it runs; the program learns of changed ports at its next start.

        Raises:
            InvalidRequest: This machine cannot enforce the number of CPUs, or a domain is not usable.
            Conflict: The new name or a domain is taken.
        """
        record = self.find(owner, name)
        async with self.registry.locked(record) as supervisor:
            await self._update(record, supervisor, change)
        return self._describe(record)

    async def _update(
        self, record: ServiceRecord, supervisor: ServiceSupervisor, change: ServiceUpdate
    ) -> None:
        domains = record.domains
        if change.custom_domains is not None:
            domains = self.registry.names.clean_domains(change.custom_domains)
        wanted = {
            "domains": domains,
            "vcpu": change.vcpu,
            "name": change.name,
            "ports": None if change.ports is None else list(dict.fromkeys(change.ports)),
            "unfreeze_on_demand": change.unfreeze_on_demand,
            "show_freeze_page": change.show_freeze_page,
        }
        with self.registry.names.claim(change.name, domains, record):
            sandbox = supervisor.sandbox if change.vcpu is not None else None
            if change.vcpu is not None and sandbox is not None:
                await set_vcpu(self._context, record, sandbox, change.vcpu)
            try:
                await self.registry.change(
                    record, **{name: value for name, value in wanted.items() if value is not None}
                )
            except Exception:
                if sandbox is not None:
                    with contextlib.suppress(InvalidRequest):
                        await set_vcpu(self._context, record, sandbox, record.vcpu)
                raise

    async def change_domains(self, owner: str, name: str, change: DomainsRequest) -> list[str]:
        """Replace, add or remove domains: exactly one of these; return the domains that the service has then.

        Raises:
            InvalidRequest: More or less than one is asked for, or a domain is not usable.
            Forbidden: A domain is the server's own.
            Conflict: A domain belongs to another service.
        """
        record = self.find(owner, name)
        if sum(part is not None for part in (change.custom_domains, change.add, change.remove)) != 1:
            raise InvalidRequest("pass exactly one of custom_domains, add and remove")
        async with self.registry.locked(record) as supervisor:
            wanted = change.custom_domains or []
            if change.add is not None:
                wanted = [*record.domains, *change.add]
            elif change.remove is not None:
                gone = set(self.registry.names.clean_domains(change.remove))
                wanted = [domain for domain in record.domains if domain not in gone]
            await self._update(record, supervisor, ServiceUpdate(custom_domains=wanted))
            return record.domains

    async def set_lock(self, owner: str, name: str, *, locked: bool) -> Service:
        """Protect a service from deletion, or no longer."""
        record = self.find(owner, name)
        async with self.registry.locked(record):
            await self.registry.change(record, locked=locked)
        return self._describe(record)

    async def delete(self, owner: str, name: str) -> Service:
        """End a service and remove everything that belongs to it.

        Raises:
            Conflict: It is locked.
        """
        record = self.find(owner, name)
        description = self._describe(record)
        await self.registry.remove(record)
        self._note(record, "was deleted")
        return description

    async def freeze(self, owner: str, name: str) -> Service:
        """Stop all processes of a service where they are; see `ServiceLifecycle.freeze`."""
        record = self.find(owner, name)
        await self.lifecycle.freeze(record)
        return self._describe(record)

    async def unfreeze(self, owner: str, name: str) -> Service:
        """Let the processes of a service go on; see `ServiceLifecycle.unfreeze`."""
        record = self.find(owner, name)
        await self.lifecycle.unfreeze(record)
        return self._describe(record)

    async def redeploy(self, owner: str, name: str, request: Redeploy) -> Service:
        """Run the bootstrap again, or a new one; see `ServiceLifecycle.redeploy`."""
        record = self.find(owner, name)
        await self.lifecycle.redeploy(record, request)
        self._note(record, "was deployed again")
        return self._describe(record)

    def log(self, owner: str, name: str) -> ServiceLog:
        """Return the log of a service.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self.registry.supervisor_of(self.find(owner, name)).log

    async def log_text(self, owner: str, name: str, lines: int | None) -> ServiceText:
        """Return the last `lines` lines that the program of a service wrote; None means all that are kept."""
        data, _ = await asyncio.to_thread(self.log(owner, name).tail, lines)
        return ServiceText(
            log=data.decode("utf-8", "replace"), lines=data.count(b"\n") + (data[-1:] not in b"\n")
        )

    def source(self, owner: str, name: str) -> SourceInfo:
        """Return the description from which a service like this one can be created; see `Source.source`."""
        record = self.find(owner, name)
        return SourceInfo(
            object_id=record.object_id,
            container=record.container,
            isolation=record.isolation,
            request=as_request(record, self.registry.read_script(record)),
            env_names=tuple(record.vault_names),
        )

    @contextlib.asynccontextmanager
    async def lend(self, object_id: str) -> AsyncIterator[PersistentSandbox]:
        """Give the sandbox of a service; see `Source.lend`."""
        record = self.registry.known(object_id)
        self.registry.activity.touch(record)
        async with self.registry.locked(record) as supervisor:
            sandbox = await supervisor.any_sandbox(frozen=record.state == FROZEN)
        yield sandbox
        self.registry.activity.touch(record)

    async def put_back(self, object_id: str, state: SavedState) -> None:
        """Replace the state of a service by a saved one; see `Source.put_back`."""
        record = self.registry.known(object_id)
        async with self.registry.locked(record) as supervisor:
            self.registry.activity.touch(record)
            await self.registry.start_again(record, supervisor, state)

    def _describe(self, record: ServiceRecord) -> Service:
        used = None
        with contextlib.suppress(SandboxError, OSError, UnknownObject):
            sandbox = self.registry.supervisor_of(record).sandbox
            used = None if sandbox is None else sandbox.disk_used()
        memory_mb = persistent_limits(self._context, record.owner, record.vcpu).memory_bytes >> 20
        return describe(record, memory_mb, used)

    def _note(self, record: ServiceRecord, event: str) -> None:
        self._context.logbook.note("engine", record.owner, f"service {record.object_id} {event}")


def _no_images(owner: str, name: str) -> AbstractAsyncContextManager[SavedState]:  # noqa: ARG001
    raise UnknownObject(f"no image {name[:80]!r}", code="image_not_found")
