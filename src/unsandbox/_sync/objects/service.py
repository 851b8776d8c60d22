# Generated from src/unsandbox/_async/objects/service.py by scripts/unasync.py; change that one.
"""A service as an object. It is never deleted by itself: services are there to stay."""

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
    """A service that exists; `Client.service` returns one.

    Attributes:
        id: Its id or name, as it was given.
        info: What the server said of it last; None before anything was asked.
    """

    __module__ = "unsandbox"

    def __init__(self, client: ServiceMethods, service_id: str) -> None:
        self._client = client
        self.id = service_id
        self.info: Service | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def refresh(self) -> Service:
        """Return the service as it is now."""
        return self._noted(self._client.get_service(self.id))

    def run(
        self, command: str, *, timeout: float | None = 30.0, input_files: InputFiles | None = None
    ) -> ServiceJob:
        """Run one command beside its program, and return the job when it has ended.

        Args:
            command: The command.
            timeout: Seconds that it may run; None for no limit.
            input_files: Files for it, found in `/tmp/input/`.
        """
        return self._client.service_command(self.id, command, timeout=timeout, input_files=input_files)

    def logs(self, *, all_logs: bool = False, lines: int | None = None) -> ServiceLog:
        """Return what its program wrote; the last 9000 lines when nothing is said.

        Args:
            all_logs: Everything that is kept.
            lines: The last so many lines.
        """
        return self._client.service_logs(self.id, all_logs=all_logs, lines=lines)

    def follow(self, *, lines: int | None = None) -> Generator[LogLine]:
        """Yield its last lines, then further ones as its program writes them, until the loop is left.

        Args:
            lines: The last so many lines first; 9000 when not given.
        """
        with closing(self._client.stream_service_logs(self.id, lines=lines)) as entries:
            for entry in entries:
                yield entry

    def freeze(self) -> Service:
        """Stop all its processes where they are; their memory stays."""
        return self._noted(self._client.freeze_service(self.id))

    def unfreeze(self) -> Service:
        """Let its processes go on."""
        return self._noted(self._client.unfreeze_service(self.id))

    def lock(self) -> Service:
        """Protect it from deletion."""
        return self._noted(self._client.lock_service(self.id))

    def unlock(self, *, otp: OneTimeCode | None = None) -> Service:
        """Take the protection off it.

        Args:
            otp: One-time code, where the server wants one.
        """
        return self._noted(self._client.unlock_service(self.id, otp=otp))

    def resize(self, vcpu: int) -> Service:
        """Give it another number of processors, and the memory that goes with them.

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
        """Run its bootstrap again, or a new one, in the same sandbox.

        Args:
            bootstrap: A command or the URL of a script; without any, the one that it has.
            bootstrap_content: The script itself instead.
            bootstrap_url: The URL of a script instead.
            input_files: Files for it.
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
        """Change the names under which it is reachable: give exactly one of the three lists.

        Args:
            domains: All of them.
            add: Names to add.
            remove: Names to remove.
        """
        return self._client.service_domains(self.id, domains, add=add, remove=remove)

    def snapshot(self, *, name: str | None = None, hot: bool | None = None) -> Snapshot:
        """Save its state.

        Args:
            name: A name for people.
            hot: With memory and running processes, where its isolation can do that.
        """
        return self._client.service_snapshot(self.id, name=name, hot=hot)

    def vault(self) -> VaultInfo:
        """Return how many variables its vault holds; never their values."""
        return self._client.get_vault(self.id)

    def set_vault(self, env: Mapping[str, str] | str | bytes) -> VaultInfo:
        """Replace its vault.

        Args:
            env: Names and values, or lines `NAME=value`.
        """
        return self._client.set_vault(self.id, env)

    def delete_vault(self, keys: Iterable[str] | None = None) -> VaultInfo:
        """Delete variables from its vault.

        Args:
            keys: Names of those to delete; without them, all.
        """
        return self._client.delete_vault(self.id, keys)

    def export_vault(self) -> VaultExport:
        """Return its whole vault, as lines `NAME=value`."""
        return self._client.export_vault(self.id)

    def delete(self, *, otp: OneTimeCode | None = None) -> Service:
        """End it for good, its files and vault with it.

        Args:
            otp: One-time code, where the server wants one.
        """
        return self._noted(self._client.delete_service(self.id, otp=otp))

    def _noted(self, info: Service) -> Service:
        self.info = info
        return info
