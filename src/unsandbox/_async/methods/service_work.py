"""The program of a service: bootstrap, log, commands, domains and snapshots."""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from unsandbox._async import execution
from unsandbox._async.base import typed
from unsandbox._async.methods.logs import follow_logs
from unsandbox._async.methods.vault import VaultMethods
from unsandbox._compat.aio import closing
from unsandbox._shared.deadline import LONG_S, NEVER
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import command_members, command_patience, some
from unsandbox._shared.streaming import SERVICE_LOGS
from unsandbox.protocol.logs import LogLine
from unsandbox.protocol.services import Domains, Service, ServiceJob, ServiceLog
from unsandbox.protocol.snapshots import Snapshot


class ServiceWorkMethods(VaultMethods):
    """Methods of a client for the programs of services. `service_id` may also be the name of the service."""

    async def redeploy_service(
        self,
        service_id: str,
        *,
        bootstrap: str | None = None,
        bootstrap_content: str | None = None,
        bootstrap_url: str | None = None,
        input_files: InputFiles | None = None,
    ) -> Service:
        """Restart a service with its bootstrap or a new one. Files in `/work` are kept.

        Args:
            service_id: Id or name of the service.
            bootstrap: See `create_service`. Default: the current one.
            bootstrap_content: See `create_service`.
            bootstrap_url: See `create_service`.
            input_files: See `create_service`.
        """
        return await self._do(
            "redeploy_service",
            Service,
            service_id,
            body={
                "bootstrap": bootstrap,
                "bootstrap_content": bootstrap_content,
                "bootstrap_url": bootstrap_url,
                "input_files": input_files,
            },
        )

    async def service_logs(
        self,
        service_id: str,
        *,
        all_logs: bool = False,
        lines: int | None = None,
    ) -> ServiceLog:
        """Return the log of a service, by default the last 9000 lines.

        Args:
            service_id: Id or name of the service.
            all_logs: Whether to return the whole stored log.
            lines: Number of last lines.
        """
        return await self._do(
            "service_logs", ServiceLog, service_id, query={"all": all_logs or None, "lines": lines}
        )

    async def stream_service_logs(
        self, service_id: str, *, lines: int | None = None
    ) -> AsyncGenerator[LogLine]:
        """Yield the last lines of a service's log, then new ones until you leave the loop.

        A broken connection is reopened where it broke. Not on the hosted service.

        Args:
            service_id: Id or name of the service.
            lines: Number of last lines to begin with. Default 9000.

        Raises:
            NotFoundError: The service does not exist, or was deleted.

        Example:
            ```python
            async for entry in client.stream_service_logs("web", lines=10):
                print(entry.line)
            ```
        """
        query = {"lines": None if lines is None else str(lines)}
        lines_of = follow_logs(self._connection, query, SERVICE_LOGS, {"id": service_id})
        async with closing(lines_of) as entries:
            async for entry in entries:
                yield entry

    async def service_command(
        self,
        service_id: str,
        command: str,
        *,
        timeout: float | None = 30.0,
        input_files: InputFiles | None = None,
    ) -> ServiceJob:
        """Run one command in a service's sandbox and return the finished job.

        Args:
            service_id: Id or name of the service.
            command: The command.
            timeout: Seconds the command may run; None means no limit.
            input_files: Files for `/tmp/input/`.

        Raises:
            ConflictError: The service is not running.
        """
        job = await self._do(
            "service_command",
            ServiceJob,
            service_id,
            body=command_members(command, timeout, input_files),
            timeout=command_patience(timeout, self._connection.server.timeout),
        )
        if job.done or not job.job_id:
            return job
        # The hosted service may answer before the command has ended.
        ended = await execution.wait(self._connection, job.job_id, deadline=NEVER, keep=True)
        return typed(ended, ServiceJob)

    async def service_domains(
        self,
        service_id: str,
        domains: Iterable[str] | None = None,
        *,
        add: Iterable[str] | None = None,
        remove: Iterable[str] | None = None,
    ) -> Domains:
        """Change the custom domains of a service. Pass exactly one of the three lists.

        Args:
            service_id: Id or name of the service.
            domains: The complete list.
            add: Domains to add.
            remove: Domains to remove.

        Returns:
            All domains, in `custom_domains`.
        """
        members = {"custom_domains": some(domains), "add": some(add), "remove": some(remove)}
        return await self._do("service_domains", Domains, service_id, body=members)

    async def service_snapshot(
        self, service_id: str, *, name: str | None = None, hot: bool | None = None
    ) -> Snapshot:
        """Take a snapshot of a service.

        Args:
            service_id: Id or name of the service.
            name: Display name.
            hot: Whether to include memory and running processes. Requires gVisor.
        """
        return await self._do(
            "service_snapshot", Snapshot, service_id, body={"name": name, "hot": hot}, timeout=LONG_S
        )
