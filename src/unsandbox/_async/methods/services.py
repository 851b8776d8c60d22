"""Services: sandboxes that run a bootstrap, keep running, and are reachable under their name."""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from unsandbox._async import execution
from unsandbox._async.base import LONG_S, typed
from unsandbox._async.methods.logs import follow_logs
from unsandbox._async.methods.vault import VaultMethods
from unsandbox._async.objects.service import AsyncLiveService
from unsandbox._compat.aio import OneTimeCode, closing
from unsandbox._shared.deadline import NEVER
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import command_members, command_patience, some
from unsandbox.protocol.logs import LogLine
from unsandbox.protocol.models import IsolationName, NetworkModeName
from unsandbox.protocol.services import Domains, Service, ServiceJob, ServiceList, ServiceLog
from unsandbox.protocol.snapshots import Snapshot


class ServiceMethods(VaultMethods):
    """Methods of a client for services. `service_id` may also be the name of the service."""

    def service(self, service_id: str) -> AsyncLiveService:
        """Return an object for a service that exists. Nothing is asked yet, and nothing is ever deleted by it.

        Args:
            service_id: Which service, by id or name.

        Example:
            ```python
            web = client.service("web")
            await web.redeploy()
            print((await web.logs(lines=10)).log)
            ```
        """
        return AsyncLiveService(self, service_id)

    async def list_services(self) -> ServiceList:
        """Return the services of this key, newest first."""
        return await self._do("list_services", ServiceList)

    async def create_service(
        self,
        name: str,
        *,
        ports: Iterable[int] | None = None,
        bootstrap: str | None = None,
        bootstrap_content: str | None = None,
        bootstrap_url: str | None = None,
        network_mode: NetworkModeName | None = None,
        custom_domains: Iterable[str] | None = None,
        vcpu: int | None = None,
        service_type: str | None = None,
        golden_image: str | None = None,
        input_files: InputFiles | None = None,
        unfreeze_on_demand: bool | None = None,
        restart: str | None = None,
        shell: str | None = None,
        isolation: IsolationName | None = None,
    ) -> Service:
        """Start a service and return it. It stays until `delete_service`.

        Args:
            name: Its name, a DNS label: where it is reachable depends on it.
            ports: Ports on which its program listens; its URL leads to the first one.
            bootstrap: A command that starts the program, or the http(s) URL of a script.
            bootstrap_content: The script itself instead.
            bootstrap_url: The URL of a script instead.
            network_mode: `semitrusted` (the default) for outbound connections, or `zerotrust` for none.
            custom_domains: Further names under which it is reachable.
            vcpu: Processors, 1 to 8; memory goes with them.
            service_type: `minecraft`, `mumble`, `teamspeak`, `source`, `tcp` or `udp`.
            golden_image: Image to start from.
            input_files: Files, found in `/tmp/input/` by name: a mapping from name to content, or paths.
            unfreeze_on_demand: Whether a request wakes it when it is frozen.
            restart: On servers of this project: `always` (the default), `on-failure` or `never`.
            shell: Shell that runs the bootstrap.
            isolation: On servers of this project: `bubblewrap`, `gvisor`, or `hardened` for gVisor or nothing.

        Raises:
            ConflictError: The name is taken.
        """
        return await self._do(
            "create_service",
            Service,
            members={
                "name": name,
                "ports": some(ports),
                "bootstrap": bootstrap,
                "bootstrap_content": bootstrap_content,
                "bootstrap_url": bootstrap_url,
                "network_mode": network_mode,
                "custom_domains": some(custom_domains),
                "vcpu": vcpu,
                "service_type": service_type,
                "golden_image": golden_image,
                "input_files": input_files,
                "unfreeze_on_demand": unfreeze_on_demand,
                "restart": restart,
                "shell": shell,
                "isolation": isolation,
            },
        )

    async def get_service(self, service_id: str) -> Service:
        """Return a service as it is now.

        Args:
            service_id: Which service.

        Raises:
            NotFoundError: There is no such service, or it belongs to another key.
        """
        return await self._do("get_service", Service, service_id)

    async def update_service(
        self,
        service_id: str,
        *,
        vcpu: int | None = None,
        unfreeze_on_demand: bool | None = None,
        show_freeze_page: bool | None = None,
        name: str | None = None,
        ports: Iterable[int] | None = None,
        custom_domains: Iterable[str] | None = None,
    ) -> Service:
        """Change a service; what is not given stays.

        Args:
            service_id: Which service.
            vcpu: Processors, 1 to 8.
            unfreeze_on_demand: Whether a request wakes it when it is frozen.
            show_freeze_page: Whether it answers with a page while it is frozen, rather than with JSON.
            name: A new name.
            ports: Ports on which its program listens.
            custom_domains: All further names under which it is reachable.
        """
        return await self._do(
            "update_service",
            Service,
            service_id,
            members={
                "vcpu": vcpu,
                "unfreeze_on_demand": unfreeze_on_demand,
                "show_freeze_page": show_freeze_page,
                "name": name,
                "ports": some(ports),
                "custom_domains": some(custom_domains),
            },
        )

    async def resize_service(self, service_id: str, vcpu: int) -> Service:
        """Give a service another number of processors, and the memory that goes with them.

        Args:
            service_id: Which service.
            vcpu: Processors, 1 to 8.
        """
        return await self._do("resize_service", Service, service_id, members={"vcpu": vcpu})

    async def delete_service(self, service_id: str, *, otp: OneTimeCode | None = None) -> Service:
        """End a service for good, its files and vault with it.

        Args:
            service_id: Which service.
            otp: One-time code, where the server wants one.
        """
        return await self._do("delete_service", Service, service_id, otp=otp)

    async def freeze_service(self, service_id: str) -> Service:
        """Stop all processes of a service where they are; their memory stays.

        Args:
            service_id: Which service.
        """
        return await self._do("freeze_service", Service, service_id)

    async def unfreeze_service(self, service_id: str) -> Service:
        """Let the processes of a service go on.

        Args:
            service_id: Which service.
        """
        return await self._do("unfreeze_service", Service, service_id)

    async def lock_service(self, service_id: str) -> Service:
        """Protect a service from deletion.

        Args:
            service_id: Which service.
        """
        return await self._do("lock_service", Service, service_id)

    async def unlock_service(self, service_id: str, *, otp: OneTimeCode | None = None) -> Service:
        """Take the protection off a service.

        Args:
            service_id: Which service.
            otp: One-time code, where the server wants one.
        """
        return await self._do("unlock_service", Service, service_id, otp=otp)

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
            members={
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
        path, params = "/services/{id}/logs/stream", {"id": service_id}
        lines_of = follow_logs(self._link, self._signer(), query, path, params, "stream_service_logs")
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
            members=command_members(command, timeout, input_files),
            timeout=command_patience(timeout, self._link.timeout),
        )
        if job.done or not job.job_id:
            return job
        # The hosted service may answer before the end.
        ended = await execution.wait(self._link, self._signer(), job.job_id, deadline=NEVER, keep=True)
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
        return await self._do("service_domains", Domains, service_id, members=members)

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
            "service_snapshot", Snapshot, service_id, members={"name": name, "hot": hot}, timeout=LONG_S
        )
