"""The vault of a service: environment variables that are kept encrypted and never listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unsandbox._async.base import Connected
from unsandbox._shared.bodies import encode_vault
from unsandbox.protocol.services import VaultExport, VaultInfo


class VaultMethods(Connected):
    """Methods of a client for vaults. `service_id` may also be the name of the service."""

    async def get_vault(self, service_id: str) -> VaultInfo:
        """Return how many variables the vault of a service holds; never their values.

        Args:
            service_id: Which service.
        """
        return await self._do("get_vault", VaultInfo, service_id)

    async def set_vault(self, service_id: str, env: Mapping[str, str] | str | bytes) -> VaultInfo:
        """Replace the vault of a service; its program gets the variables when it starts the next time.

        Args:
            service_id: Which service.
            env: Names and values, or lines `NAME=value` as an env file holds them; 64 KiB at most.

        Example:
            ```python
            await client.set_vault("web", {"TOKEN": "secret"})
            ```
        """
        return await self._do("set_vault", VaultInfo, service_id, body=encode_vault(env))

    async def delete_vault(self, service_id: str, keys: Iterable[str] | None = None) -> VaultInfo:
        """Delete variables from the vault of a service.

        Args:
            service_id: Which service.
            keys: Names of those to delete; without them, all.
        """
        members = {"keys": None if keys is None else list(keys)}
        return await self._do("delete_vault", VaultInfo, service_id, body=members)

    async def export_vault(self, service_id: str) -> VaultExport:
        """Return the whole vault of a service, as lines `NAME=value`.

        Args:
            service_id: Which service.
        """
        return await self._do("export_vault", VaultExport, service_id)
