"""Services: sandboxes that run a bootstrap, keep running, and are reachable under their name."""

from __future__ import annotations

from collections.abc import Iterable

from unsandbox._async.methods.service_work import ServiceWorkMethods
from unsandbox._async.objects.service import AsyncLiveService
from unsandbox._compat.aio import OneTimeCode
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import some
from unsandbox.protocol.models import IsolationName, NetworkModeName
from unsandbox.protocol.services import Service, ServiceList


class ServiceMethods(ServiceWorkMethods):
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
            body={
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
            body={
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
        return await self._do("resize_service", Service, service_id, body={"vcpu": vcpu})

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
