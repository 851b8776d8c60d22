# Generated from src/unsandbox/_async/objects/service.py by scripts/unasync.py; change that one.
"""A service as an object."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING

from unsandbox._compat.blocking import OneTimeCode, closing
from unsandbox._shared.files import InputFiles
from unsandbox.protocol.logs import LogLine
from unsandbox.protocol.services import Domains, Service, ServiceJob, ServiceLog, VaultExport, VaultInfo
from unsandbox.protocol.snapshots import Snapshot

if TYPE_CHECKING:
    from unsandbox._sync.methods.services import ServiceMethods


class LiveService:
    """An existing service, returned by `Client.service`. The object never deletes the service by itself.

    Attributes:
        id: Id or name of the service, as passed.
        info: The last known state; None before the first request.
    """

    __module__ = "unsandbox"

    def __init__(self, client: ServiceMethods, service_id: str) -> None:
        self._client = client
        self.id = service_id
        self.info: Service | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def refresh(self) -> Service:
        """Return the current state of the service."""
        return self._noted(self._client.get_service(self.id))

    def run(
        self, command: str, *, timeout: float | None = 30.0, input_files: InputFiles | None = None
    ) -> ServiceJob:
        """Run one command in the service's sandbox and return the finished job.

        Args:
            command: The command.
            timeout: Seconds the command may run; None means no limit.
            input_files: Files for `/tmp/input/`.
        """
        return self._client.service_command(self.id, command, timeout=timeout, input_files=input_files)

    def logs(self, *, all_logs: bool = False, lines: int | None = None) -> ServiceLog:
        """Return the service's log, by default the last 9000 lines.

        Args:
            all_logs: Whether to return the whole stored log.
            lines: Number of last lines.
        """
        return self._client.service_logs(self.id, all_logs=all_logs, lines=lines)

    def follow(self, *, lines: int | None = None) -> Generator[LogLine]:
        """Yield the last lines of the log, then new ones until you leave the loop.

        Args:
            lines: Number of last lines to begin with. Default 9000.
        """
        with closing(self._client.stream_service_logs(self.id, lines=lines)) as entries:
            for entry in entries:
                yield entry

    def freeze(self) -> Service:
        """Suspend all processes. Their memory is kept."""
        return self._noted(self._client.freeze_service(self.id))

    def unfreeze(self) -> Service:
        """Resume the processes."""
        return self._noted(self._client.unfreeze_service(self.id))

    def lock(self) -> Service:
        """Protect the service from deletion."""
        return self._noted(self._client.lock_service(self.id))

    def unlock(self, *, otp: OneTimeCode | None = None) -> Service:
        """Allow the service to be deleted again.

        Args:
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return self._noted(self._client.unlock_service(self.id, otp=otp))

    def resize(self, vcpu: int) -> Service:
        """Change the service's processors and memory.

        Args:
            vcpu: Processors, 1 to 8.
        """
        return self._noted(self._client.resize_service(self.id, vcpu))

    def redeploy(
        self,
        *,
        bootstrap: str | None = None,
        bootstrap_content: str | None = None,
        bootstrap_url: str | None = None,
        input_files: InputFiles | None = None,
    ) -> Service:
        """Restart the service with its bootstrap or a new one. Files in `/work` are kept.

        Args:
            bootstrap: A command or the URL of a script. Default: the current one.
            bootstrap_content: The text of a script.
            bootstrap_url: The URL of a script.
            input_files: Files for `/tmp/input/`.
        """
        return self._noted(
            self._client.redeploy_service(
                self.id,
                bootstrap=bootstrap,
                bootstrap_content=bootstrap_content,
                bootstrap_url=bootstrap_url,
                input_files=input_files,
            )
        )

    def domains(
        self,
        domains: Iterable[str] | None = None,
        *,
        add: Iterable[str] | None = None,
        remove: Iterable[str] | None = None,
    ) -> Domains:
        """Change the custom domains. Pass exactly one of the three lists.

        Args:
            domains: The complete list.
            add: Domains to add.
            remove: Domains to remove.
        """
        return self._client.service_domains(self.id, domains, add=add, remove=remove)

    def snapshot(self, *, name: str | None = None, hot: bool | None = None) -> Snapshot:
        """Take a snapshot.

        Args:
            name: Display name.
            hot: Whether to include memory and running processes. Requires gVisor.
        """
        return self._client.service_snapshot(self.id, name=name, hot=hot)

    def vault(self) -> VaultInfo:
        """Return the number of variables in the vault, without their values."""
        return self._client.get_vault(self.id)

    def set_vault(self, env: Mapping[str, str] | str | bytes) -> VaultInfo:
        """Replace the vault.

        Args:
            env: A mapping, or text with one `NAME=value` per line.
        """
        return self._client.set_vault(self.id, env)

    def delete_vault(self, keys: Iterable[str] | None = None) -> VaultInfo:
        """Delete variables from the vault.

        Args:
            keys: Names of the variables. Default: all.
        """
        return self._client.delete_vault(self.id, keys)

    def export_vault(self) -> VaultExport:
        """Return the vault as text with one `NAME=value` per line."""
        return self._client.export_vault(self.id)

    def delete(self, *, otp: OneTimeCode | None = None) -> Service:
        """Delete the service with its files and vault.

        Args:
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return self._noted(self._client.delete_service(self.id, otp=otp))

    def _noted(self, info: Service) -> Service:
        self.info = info
        return info
