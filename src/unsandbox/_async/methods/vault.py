"""The vault of a service: environment variables that are kept encrypted and never listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unsandbox._async.base import Connected
from unsandbox._shared.bodies import encode_vault
from unsandbox.protocol.services import VaultExport, VaultInfo


class VaultMethods(Connected):
    """Methods of a client for vaults. `service_id` may also be the name of the service."""

    async def get_vault(self, service_id: str) -> VaultInfo:
        """Return the number of variables in a service's vault, without their values.

        Args:
            service_id: Id or name of the service.
        """
        return await self._do("get_vault", VaultInfo, service_id)

    async def set_vault(self, service_id: str, env: Mapping[str, str] | str | bytes) -> VaultInfo:
        """Replace a service's vault. A running program is restarted with the new variables.

        Args:
            service_id: Id or name of the service.
            env: A mapping, or text with one `NAME=value` per line; at most 64 KiB.

        Example:
            ```python
            await client.set_vault("web", {"TOKEN": "secret"})
            ```
        """
        return await self._do("set_vault", VaultInfo, service_id, body=encode_vault(env))

    async def delete_vault(self, service_id: str, keys: Iterable[str] | None = None) -> VaultInfo:
        """Delete variables from a service's vault.

        Args:
            service_id: Id or name of the service.
            keys: Names of the variables. Default: all.
        """
        members = {"keys": None if keys is None else list(keys)}
        return await self._do("delete_vault", VaultInfo, service_id, body=members)

    async def export_vault(self, service_id: str) -> VaultExport:
        """Return a service's vault as text with one `NAME=value` per line.

        Args:
            service_id: Id or name of the service.
        """
        return await self._do("export_vault", VaultExport, service_id)
