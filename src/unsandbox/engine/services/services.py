"""Services: live sandboxes that keep a program running under a name, until they are deleted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager

from unsandbox.engine.config import EngineConfig
from unsandbox.engine.context import Context, Folder
from unsandbox.engine.errors import Conflict, InvalidRequest, UnknownObject
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.persistent.activity import steady_time
from unsandbox.engine.persistent.limits import (
    check_room,
    persistent_limits,
    reserved_by_all,
    reserved_by_one,
    sandbox_files,
    set_vcpu,
)
from unsandbox.engine.saved.sources import SavedState, SourceInfo
from unsandbox.engine.services.bootstrap import Bootstrap, is_elsewhere, read_bootstrap
from unsandbox.engine.services.document import (
    FAILED,
    FROZEN,
    RUNNING,
    STOPPED,
    ServiceRecord,
    as_request,
    describe,
)
from unsandbox.engine.services.host import ServiceRegistry
from unsandbox.engine.services.log import ServiceLog
from unsandbox.engine.services.router import ServiceRouter
from unsandbox.engine.services.supervisor import ServiceSupervisor
from unsandbox.engine.services.vault import Vaults
from unsandbox.engine.store.objects import container_name, new_id
from unsandbox.protocol.contents import Content
from unsandbox.protocol.services import DomainsRequest, Redeploy, Service, ServiceRequest, ServiceUpdate
from unsandbox.protocol.services import ServiceLog as ServiceText
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.languages.shells import find_shell
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentSandbox
from unsandbox.sandbox.spec import NetworkMode
from unsandbox.sandbox.system import System

_IMAGE_PREFIX = "unsb-image-"
_COMMAND = 'command -v bash >/dev/null && exec bash -c "$1"; exec sh -c "$1"'

ImageOpener = Callable[[str, str], AbstractAsyncContextManager[SavedState]]
"""Opens an image, named by its owner and id or name, for the time of a call."""


class Services:
    """All services of an engine.

    Args:
        context: What the parts of the engine share.
        folder: Where the disks of services lie.
        is_public: Says from which addresses a bootstrap may be fetched.

    Attributes:
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
        self._host = ServiceRegistry(context, folder)
        self.vaults = Vaults(self._host, self.restart)
        self.router = ServiceRouter(context.config, self._host, self.wake)
        self.open_image: ImageOpener = _no_images
        shelf = self._host.shelf
        context.quotas.holders.append(lambda owner: reserved_by_all(context, owner, shelf.of(owner)))

    @property
    def _config(self) -> EngineConfig:
        return self._context.config

    async def start(self) -> None:
        """Take up what an earlier process left: what ran is started again, what was frozen stays so."""
        await self._host.load()

    async def stop(self) -> None:
        """End every program and sandbox. In a lasting data folder the services themselves stay."""
        await self._host.close()

    def __len__(self) -> int:
        """How many there are, of all keys."""
        return len(self._host.shelf)

    def sandboxes(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every service that has one now."""
        return self._host.sandboxes()

    async def create(self, owner: str, request: ServiceRequest, limit: int | None = None) -> Service:
        """Make a service; its sandbox runs and its program was started when this returns.

        Args:
            owner: The key it belongs to.
            request: What the caller wants.
            limit: Services that the key may have; by default the engine's bound.

        Raises:
            InvalidRequest: Something in it is not usable, or isolation or network cannot be had here.
            Conflict: The name or a domain is taken.
            LimitReached: The key has no service, memory or CPU time left.
            InsufficientStorage: It stores as much as it may.
        """
        self._context.quotas.check_cpu(owner)
        if request.golden_image is None:
            return await self._make(owner, request, None, limit=limit)
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
        state: SavedState | None,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Service:
        domains = self._host.names.clean_domains(request.custom_domains or [])
        check_room(
            "service",
            len(self._host.shelf.of(owner)) + self._context.quotas.in_flight("service", owner),
            self._config.services_per_key if limit is None else limit,
        )
        if object_id is not None and self._host.shelf.find(object_id) is not None:
            raise Conflict(f"there is a service {object_id!r} already")
        _check_shell(request, self._context.languages.system)
        isolation = self._context.quotas.isolation(owner, request.isolation)
        document = _new_document(owner, request, domains, object_id, isolation)
        wanted = reserved_by_one(self._context, owner, request.vcpu)
        if state is not None and state.origin.startswith(_IMAGE_PREFIX):
            document.source_image = state.origin
        files = input_files(request.input_files or [], self._config)
        with (
            self._host.names.claim(document.name, domains),
            self._context.quotas.making("service", owner, wanted),
        ):
            bootstrap = await read_bootstrap(request, self._is_public)
            try:
                await self._host.add(document, bootstrap, files, state)
            except InvalidRequest as error:
                if request.network_mode is not None:
                    raise
                hint = "a service is 'semitrusted' unless network_mode says 'zerotrust' (no network)"
                raise InvalidRequest(f"{error.message}; {hint}", code=error.code) from error
        self._note(document, "was made")
        return self.describe(document)

    def get(self, owner: str, name: str) -> Service:
        """Return a service by id, name or container name.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self.describe(self._find(owner, name))

    def list_of(self, owner: str) -> list[Service]:
        """Return the services of a key, newest first."""
        return [self.describe(document) for document in self._host.shelf.of(owner)]

    async def update(self, owner: str, name: str, change: ServiceUpdate) -> Service:
        """Change what can be changed while it runs; ports are told to the program when it starts next.

        Raises:
            InvalidRequest: This machine cannot enforce the number of CPUs, or a domain is none.
            Conflict: The new name or a domain is taken.
        """
        document = self._find(owner, name)
        async with self._host.locked(document) as run:
            await self._update(document, run, change)
        return self.describe(document)

    async def _update(self, document: ServiceRecord, run: ServiceSupervisor, change: ServiceUpdate) -> None:
        domains = document.domains
        if change.custom_domains is not None:
            domains = self._host.names.clean_domains(change.custom_domains)
        wanted = {
            "domains": domains,
            "vcpu": change.vcpu,
            "name": change.name,
            "ports": None if change.ports is None else list(dict.fromkeys(change.ports)),
            "unfreeze_on_demand": change.unfreeze_on_demand,
            "show_freeze_page": change.show_freeze_page,
        }
        with self._host.names.claim(change.name, domains, document):
            if change.vcpu is not None and run.sandbox is not None:
                await set_vcpu(self._context, document, run.sandbox, change.vcpu)
            try:
                await self._host.change(
                    document, **{name: value for name, value in wanted.items() if value is not None}
                )
            except Exception:
                if change.vcpu is not None and run.sandbox is not None:
                    with contextlib.suppress(InvalidRequest):
                        await set_vcpu(self._context, document, run.sandbox, document.vcpu)
                raise

    async def change_domains(self, owner: str, name: str, change: DomainsRequest) -> list[str]:
        """Replace, add or remove domains: exactly one of these; return what the service has then.

        Raises:
            InvalidRequest: More or less than one is asked for, or one is no domain.
            Forbidden: A domain is the server's own.
            Conflict: A domain belongs to another service.
        """
        document = self._find(owner, name)
        if sum(part is not None for part in (change.custom_domains, change.add, change.remove)) != 1:
            raise InvalidRequest("give exactly one of custom_domains, add and remove")
        async with self._host.locked(document) as run:
            wanted = change.custom_domains or []
            if change.add is not None:
                wanted = [*document.domains, *change.add]
            elif change.remove is not None:
                gone = set(self._host.names.clean_domains(change.remove))
                wanted = [domain for domain in document.domains if domain not in gone]
            await self._update(document, run, ServiceUpdate(custom_domains=wanted))
            return document.domains

    async def set_lock(self, owner: str, name: str, *, locked: bool) -> Service:
        """Protect a service from deletion, or no longer."""
        document = self._find(owner, name)
        async with self._host.locked(document):
            await self._host.change(document, locked=locked)
        return self.describe(document)

    async def delete(self, owner: str, name: str) -> Service:
        """End a service and remove all that is of it.

        Raises:
            Conflict: It is locked.
        """
        document = self._find(owner, name)
        description = self.describe(document)
        await self._host.remove(document)
        self._note(document, "was deleted")
        return description

    async def freeze(self, owner: str, name: str) -> Service:
        """Stop all processes of a service where they are.

        Raises:
            Conflict: Its program has ended.
        """
        document = self._find(owner, name)
        async with self._host.locked(document) as run:
            if document.state in (STOPPED, FAILED):
                raise _ended(document)
            try:
                await run.freeze()
            except SandboxError as error:
                raise _restarting() from error
            try:
                await self._host.change(document, state=FROZEN)
            except BaseException:
                await run.thaw()
                raise
        return self.describe(document)

    async def unfreeze(self, owner: str, name: str) -> Service:
        """Let the processes of a service go on; if they were lost, with the server say, start the program.

        Raises:
            Conflict: Its program has ended.
        """
        document = self._find(owner, name)
        if document.state in (STOPPED, FAILED):
            raise _ended(document)
        await self.wake(document)
        return self.describe(document)

    async def wake(self, document: ServiceRecord) -> None:
        """Let a service go on if it is frozen."""
        async with self._host.locked(document) as run:
            if document.state == FROZEN:
                await run.thaw()
                if not run.kept:
                    await run.start()
                self._host.activity.touch(document)
                try:
                    await self._host.change(document, state=RUNNING)
                except BaseException:
                    await run.freeze()
                    raise

    async def redeploy(self, owner: str, name: str, request: Redeploy) -> Service:
        """Run the bootstrap again, or a new one, in a fresh sandbox with the same work folder.

        Raises:
            InvalidRequest: There is no bootstrap, or the new one is not usable.
        """
        document = self._find(owner, name)
        bootstrap = await read_bootstrap(request, self._is_public)
        if bootstrap is None and document.bootstrap_url is not None:
            bootstrap = await read_bootstrap(Redeploy(bootstrap_url=document.bootstrap_url), self._is_public)
        if bootstrap is None and not document.has_bootstrap:
            raise InvalidRequest("this service has no bootstrap; give one", code="no_bootstrap")
        files = input_files(request.input_files or [], self._config)
        async with self._host.locked(document) as run:
            changes = {}
            if bootstrap is not None or files:
                script, old_files = await self._host.deployed(document)
                kept = Bootstrap(script, document.bootstrap_url) if script is not None else None
                changes = await self._host.deploy(document, bootstrap or kept, old_files | files)
            self._host.activity.touch(document)
            await self._host.start_again(document, run, **changes)
        self._note(document, "was deployed again")
        return self.describe(document)

    async def restart(self, document: ServiceRecord) -> None:
        """Start the program of a service again unless it ended well; that of a frozen one when it is thawed."""
        async with self._host.locked(document) as run:
            if document.state in (RUNNING, FAILED):
                await self._host.start_again(document, run)
            elif document.state == FROZEN:
                # What its processes know is no longer true.
                await run.stop(0.0)

    def check_runs(self, owner: str, name: str) -> ServiceRecord:
        """Return a service that can take a command now.

        Raises:
            Conflict: It is frozen or its program has ended.
        """
        document = self._find(owner, name)
        if document.state == FROZEN:
            raise Conflict("the service is frozen; unfreeze it first", code="service_frozen")
        if document.state != RUNNING:
            raise _ended(document)
        return document

    async def command(
        self,
        document: ServiceRecord,
        command: str,
        timeout_s: float | None,
        files: dict[str, bytes | Content],
    ) -> CommandOutcome:
        """Run one command in a service, beside its program, with the variables of its vault.

        Raises:
            Conflict: The service does not run any more.
            InvalidRequest: The command cannot be passed on.
        """
        if "\0" in command:
            raise InvalidRequest("a command must not hold a NUL byte")
        self._host.activity.touch(document)
        async with self._host.locked(document) as run:
            if document.state != RUNNING or run.sandbox is None:
                raise _restarting()
            sandbox = run.sandbox
        if files:
            await sandbox.put_files(sandbox_files(files))
        # Historical clients send a trailing newline.
        argv = ["/bin/sh", "-c", _COMMAND, "sh", command.rstrip("\n")]
        return await sandbox.run(argv, timeout_s=timeout_s, output_bytes=self._config.output_bytes)

    def log(self, owner: str, name: str) -> ServiceLog:
        """Return what the program of a service wrote.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self._host.run_of(self._find(owner, name)).log

    async def log_text(self, owner: str, name: str, lines: int | None) -> ServiceText:
        """Return the last so many lines that the program of a service wrote; None means all that are kept."""
        data, _ = await asyncio.to_thread(self.log(owner, name).tail, lines)
        return ServiceText(
            log=data.decode("utf-8", "replace"), lines=data.count(b"\n") + (data[-1:] not in b"\n")
        )

    def source(self, owner: str, name: str) -> SourceInfo:
        """Return what makes a service like this one again; see `Source.source`."""
        document = self._find(owner, name)
        script = self._host.read_deployed(document)[0] if document.has_bootstrap else None
        return SourceInfo(
            object_id=document.object_id,
            container=document.container,
            isolation=document.isolation,
            request=as_request(document, script),
            env_names=tuple(document.vault_names),
        )

    @contextlib.asynccontextmanager
    async def lend(self, object_id: str) -> AsyncIterator[PersistentSandbox]:
        """Give the sandbox of a service; see `Source.lend`."""
        document = self._host.known(object_id)
        self._host.activity.touch(document)
        async with self._host.locked(document) as run:
            sandbox = await run.any_sandbox(frozen=document.state == FROZEN)
        yield sandbox
        self._host.activity.touch(document)

    async def put_back(self, object_id: str, state: SavedState) -> None:
        """Replace the state of a service by a saved one; see `Source.put_back`."""
        document = self._host.known(object_id)
        async with self._host.locked(document) as run:
            self._host.activity.touch(document)
            await self._host.start_again(document, run, state)

    def describe(self, document: ServiceRecord) -> Service:
        """Return what a client may see."""
        used = None
        with contextlib.suppress(SandboxError, OSError, UnknownObject):
            sandbox = self._host.run_of(document).sandbox
            used = None if sandbox is None else sandbox.disk_used()
        memory_mb = persistent_limits(self._context, document.owner, document.vcpu).memory_bytes >> 20
        return describe(document, memory_mb, used)

    def _find(self, owner: str, name: str) -> ServiceRecord:
        return self._host.shelf.get(owner, name)

    def _note(self, document: ServiceRecord, words: str) -> None:
        self._context.logbook.note("engine", document.owner, f"service {document.object_id} {words}")


def _check_shell(request: ServiceRequest, system: System) -> None:
    if request.shell is not None:
        try:
            find_shell(request.shell, system)
        except LookupError as error:
            raise InvalidRequest(str(error), code="unknown_shell") from error


def _new_document(
    owner: str, request: ServiceRequest, domains: list[str], object_id: str | None, isolation: str
) -> ServiceRecord:
    now = time.time()
    return ServiceRecord(
        object_id=object_id or new_id("service"),
        owner=owner,
        created_at=now,
        last_activity=steady_time(),
        container=container_name(),
        name=request.name,
        ports=list(dict.fromkeys(request.ports or [])),
        domains=domains,
        network_mode=request.network_mode or NetworkMode.SEMITRUSTED.value,
        vcpu=request.vcpu,
        isolation=isolation,
        restart=request.restart,
        shell=request.shell,
        service_type=request.service_type,
        unfreeze_on_demand=request.unfreeze_on_demand,
    )


def _restarting() -> Conflict:
    return Conflict("the service is just not running; try again", code="service_restarting")


def _ended(document: ServiceRecord) -> Conflict:
    return Conflict(
        f"the service does not run: {document.last_end or 'its program has ended'}; redeploy it first",
        code=f"service_{document.state}",
    )


def _no_images(owner: str, name: str) -> AbstractAsyncContextManager[SavedState]:  # noqa: ARG001
    raise UnknownObject(f"no image {name[:80]!r}", code="image_not_found")
