"""Services: persistent sandboxes that run a program under a name."""

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
        """Return an object for an existing service, without a request. The object never deletes the service.

        Args:
            service_id: Id or name of the service.

        Example:
            ```python
            web = client.service("web")
            await web.redeploy()
            print((await web.logs(lines=10)).log)
            ```
        """
        return AsyncLiveService(self, service_id)

    async def list_services(self) -> ServiceList:
        """Return the key's services, newest first."""
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
        """Create and start a service. It runs until `delete_service`.

        Args:
            name: Name of the service, a DNS label. Its URL contains the name.
            ports: Ports the program listens on; the URL leads to the first one.
            bootstrap: A command that starts the program, or the http(s) URL of a script.
            bootstrap_content: The text of a script.
            bootstrap_url: The URL of a script.
            network_mode: `semitrusted` (outbound network, the default) or `zerotrust` (no network).
            custom_domains: Custom domains of the service.
            vcpu: Processors, 1 to 8, with 2 GiB of memory each.
            service_type: `minecraft`, `mumble`, `teamspeak`, `source`, `tcp` or `udp`.
            golden_image: Image to start from.
            input_files: Files for `/tmp/input/`: a mapping from name to content, or a list of paths.
            unfreeze_on_demand: Whether a request unfreezes the service.
            restart: When to restart the program: `always` (default), `on-failure` or `never`. Not on the
                hosted service.
            shell: Shell that runs the bootstrap.
            isolation: `bubblewrap`, `gvisor`, or `hardened` (gVisor or a refusal). Not on the hosted service.

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
        """Return the current state of a service.

        Args:
            service_id: Id or name of the service.

        Raises:
            NotFoundError: The key has no such service.
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
        """Change settings of a service. Arguments that are not passed stay as they are.

        Args:
            service_id: Id or name of the service.
            vcpu: Processors, 1 to 8.
            unfreeze_on_demand: Whether a request unfreezes the service.
            show_freeze_page: Whether a frozen service answers with a page instead of JSON.
            name: A new name.
            ports: Ports the program listens on.
            custom_domains: All custom domains of the service.
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
        """Change the processors and memory of a service.

        Args:
            service_id: Id or name of the service.
            vcpu: Processors, 1 to 8.
        """
        return await self._do("resize_service", Service, service_id, body={"vcpu": vcpu})

    async def delete_service(self, service_id: str, *, otp: OneTimeCode | None = None) -> Service:
        """Delete a service with its files and vault.

        Args:
            service_id: Id or name of the service.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return await self._do("delete_service", Service, service_id, otp=otp)

    async def freeze_service(self, service_id: str) -> Service:
        """Suspend all processes of a service. Their memory is kept.

        Args:
            service_id: Id or name of the service.
        """
        return await self._do("freeze_service", Service, service_id)

    async def unfreeze_service(self, service_id: str) -> Service:
        """Resume the processes of a frozen service.

        Args:
            service_id: Id or name of the service.
        """
        return await self._do("unfreeze_service", Service, service_id)

    async def lock_service(self, service_id: str) -> Service:
        """Protect a service from deletion.

        Args:
            service_id: Id or name of the service.
        """
        return await self._do("lock_service", Service, service_id)

    async def unlock_service(self, service_id: str, *, otp: OneTimeCode | None = None) -> Service:
        """Allow a service to be deleted again.

        Args:
            service_id: Id or name of the service.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return await self._do("unlock_service", Service, service_id, otp=otp)
