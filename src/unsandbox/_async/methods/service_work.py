"""The program of a service: its bootstrap, output, commands beside it, names and state."""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

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
        """Run the bootstrap of a service again, or a new one, in the same sandbox.

        Args:
            service_id: Which service.
            bootstrap: As for `create_service`; without any, the one that it has.
            bootstrap_content: As for `create_service`.
            bootstrap_url: As for `create_service`.
            input_files: As for `create_service`.
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
        """Return what the program of a service wrote; the last 9000 lines when nothing is said.

        Args:
            service_id: Which service.
            all_logs: Everything that is kept.
            lines: The last so many lines.
        """
        return await self._do(
            "service_logs", ServiceLog, service_id, query={"all": all_logs or None, "lines": lines}
        )

    async def stream_service_logs(
        self, service_id: str, *, lines: int | None = None
    ) -> AsyncGenerator[LogLine]:
        """Yield the last lines of a service's program, then further ones as they come, until the loop is left.

        A connection that breaks is made again and goes on where it broke. On servers of this project.

        Args:
            service_id: Which service.
            lines: The last so many lines first; 9000 when not given.

        Raises:
            NotFoundError: There is no such service, or no longer.

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
        """Run one command beside the program of a service, and return the job when it has ended.

        Args:
            service_id: Which service.
            command: The command.
            timeout: Seconds that it may run; None for no limit.
            input_files: Files for it, found in `/tmp/input/`.

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
        # The hosted service may answer before the end.
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
        """Change the names under which a service is reachable: give exactly one of the three lists.

        Args:
            service_id: Which service.
            domains: All of them.
            add: Names to add.
            remove: Names to remove.

        Returns:
            All names, in `custom_domains`.
        """
        members = {"custom_domains": some(domains), "add": some(add), "remove": some(remove)}
        return await self._do("service_domains", Domains, service_id, body=members)

    async def service_snapshot(
        self, service_id: str, *, name: str | None = None, hot: bool | None = None
    ) -> Snapshot:
        """Save the state of a service.

        Args:
            service_id: Which service.
            name: A name for people.
            hot: With memory and running processes, where the service's isolation can do that.
        """
        return await self._do(
            "service_snapshot", Snapshot, service_id, body={"name": name, "hot": hot}, timeout=LONG_S
        )
