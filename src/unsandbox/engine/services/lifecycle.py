"""The operations on a service's program: freeze, unfreeze, redeploy, restart, run commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unsandbox.engine.context import Context
from unsandbox.engine.errors import Conflict, InvalidRequest
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.persistent.limits import sandbox_files
from unsandbox.engine.services.bootstrap import Bootstrap, read_bootstrap
from unsandbox.engine.services.record import (
    FAILED,
    FROZEN,
    RUNNING,
    STOPPED,
    ServiceRecord,
    not_running,
    restarting,
)
from unsandbox.engine.services.registry import ServiceRegistry
from unsandbox.protocol.contents import Content
from unsandbox.protocol.services import Redeploy
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.persistent_spec import CommandOutcome

_COMMAND = 'command -v bash >/dev/null && exec bash -c "$1"; exec sh -c "$1"'


class ServiceLifecycle:
    """Controls the programs of services.

    Args:
        context: What the parts of the engine share.
        registry: The services.
        is_public: Tells from which addresses a bootstrap may be fetched.
    """

    def __init__(self, context: Context, registry: ServiceRegistry, is_public: Callable[[str], bool]) -> None:
        self._context = context
        self._registry = registry
        self._is_public = is_public

    async def freeze(self, record: ServiceRecord) -> None:
        """Suspend all processes of a service.

        Raises:
            Conflict: Its program has ended.
        """
        async with self._registry.locked(record) as supervisor:
            if record.state in (STOPPED, FAILED):
                raise not_running(record)
            try:
                await supervisor.freeze()
            except SandboxError as error:
                raise restarting() from error
            try:
                await self._registry.change(record, state=FROZEN)
            except BaseException:
                await supervisor.unfreeze()
                raise

    async def unfreeze(self, record: ServiceRecord) -> None:
        """Resume the processes of a service; start the program if its processes were lost with the server.

        Raises:
            Conflict: Its program has ended.
        """
        if record.state in (STOPPED, FAILED):
            raise not_running(record)
        await self.wake(record)

    async def wake(self, record: ServiceRecord) -> None:
        """Unfreeze a service if it is frozen."""
        async with self._registry.locked(record) as supervisor:
            if record.state == FROZEN:
                await supervisor.unfreeze()
                if not supervisor.active:
                    await supervisor.start()
                self._registry.activity.touch(record)
                try:
                    await self._registry.change(record, state=RUNNING)
                except BaseException:
                    await supervisor.freeze()
                    raise

    async def redeploy(self, record: ServiceRecord, request: Redeploy) -> None:
        """Run the bootstrap again, or a new one, in a fresh sandbox with the same work folder.

        Raises:
            InvalidRequest: The service has no bootstrap, or the new one is not usable.
        """
        files = input_files(request.input_files or [], self._context.config)
        bootstrap = await read_bootstrap(record.owner, request, self._is_public)
        if bootstrap is None and record.bootstrap_url is not None:
            again = Redeploy(bootstrap_url=record.bootstrap_url)
            bootstrap = await read_bootstrap(record.owner, again, self._is_public)
        if bootstrap is None and not record.has_bootstrap:
            raise InvalidRequest("this service has no bootstrap; pass one", code="no_bootstrap")
        async with self._registry.locked(record) as supervisor:
            changes = {}
            if bootstrap is not None or files:
                script, old_files = await self._registry.deployed(record)
                kept = Bootstrap(script, record.bootstrap_url) if script is not None else None
                changes = await self._registry.deploy(record, bootstrap or kept, old_files | files)
            self._registry.activity.touch(record)
            await self._registry.start_again(record, supervisor, **changes)

    async def restart(self, record: ServiceRecord) -> None:
        """Restart the program of a service unless it ended with 0; a frozen one when it is unfrozen."""
        async with self._registry.locked(record) as supervisor:
            if record.state in (RUNNING, FAILED):
                await self._registry.start_again(record, supervisor)
            elif record.state == FROZEN:
                # The environment of its processes is outdated.
                await supervisor.stop(0.0)

    def check_running(self, record: ServiceRecord) -> None:
        """Check that a service can run a command now.

        Raises:
            Conflict: It is frozen or its program has ended.
        """
        if record.state == FROZEN:
            raise Conflict("the service is frozen; unfreeze it first", code="service_frozen")
        if record.state != RUNNING:
            raise not_running(record)

    async def command(
        self,
        record: ServiceRecord,
        command: str,
        timeout_s: float | None,
        files: Mapping[str, bytes | Content],
    ) -> CommandOutcome:
        """Run one command in a service, beside its program, with the variables of its vault.

        Raises:
            Conflict: The service does not run any more.
            InvalidRequest: The command cannot be passed on.
        """
        if "\0" in command:
            raise InvalidRequest("a command must not contain a NUL byte")
        self._registry.activity.touch(record)
        async with self._registry.locked(record) as supervisor:
            if record.state != RUNNING or supervisor.sandbox is None:
                raise restarting()
            sandbox = supervisor.sandbox
        if files:
            await sandbox.put_files(sandbox_files(files))
        # Historical clients send a trailing newline.
        argv = ["/bin/sh", "-c", _COMMAND, "sh", command.rstrip("\n")]
        return await sandbox.run(
            argv, timeout_s=timeout_s, output_bytes=self._context.quotas.output_bytes(record.owner)
        )
