"""The environment vaults of services."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from unsandbox.engine.errors import InvalidRequest
from unsandbox.engine.services.record import ServiceRecord
from unsandbox.engine.services.registry import ServiceRegistry
from unsandbox.protocol.services import VaultInfo


class Vaults:
    """The vaults of all services.

    Args:
        registry: Where the services are.
        restart: Starts the program of a service again.
    """

    def __init__(self, registry: ServiceRegistry, restart: Callable[[ServiceRecord], Awaitable[None]]) -> None:
        self._registry = registry
        self._restart = restart

    def info(self, owner: str, name: str) -> VaultInfo:
        """Tell about the vault of a service, never its values.

        Raises:
            UnknownObject: No such service of this key.
        """
        record = self._registry.collection.get(owner, name)
        updated = record.vault_updated_at
        count = len(record.vault_names)
        return VaultInfo(has_vault=count > 0, count=count, updated_at=None if updated is None else int(updated))

    def open(self, owner: str, name: str) -> dict[str, str]:
        """Return the variables of a service's vault.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self._registry.sealer.open(self._registry.collection.get(owner, name).vault)

    async def set(self, owner: str, name: str, pairs: dict[str, str]) -> VaultInfo:
        """Replace the vault of a service, and start its program again if something changed.

        Raises:
            UnknownObject: No such service of this key.
            TooLarge: It is larger than 64 KiB.
        """
        record = self._registry.collection.get(owner, name)
        changed = pairs != self._registry.sealer.open(record.vault)
        await self._registry.change(
            record,
            vault=self._registry.sealer.seal(pairs) if pairs else None,
            vault_names=list(pairs),
            vault_updated_at=time.time(),
        )
        if changed:
            await self._restart(record)
        return self.info(owner, record.object_id)

    async def delete(self, owner: str, name: str, keys: list[str] | None) -> VaultInfo:
        """Delete some variables, or all when no names are given.

        Raises:
            UnknownObject: No such service of this key.
            InvalidRequest: The vault has no variable of such a name.
        """
        if keys is None:
            return await self.set(owner, name, {})
        pairs = self.open(owner, name)
        missing = [number for number, key in enumerate(keys, 1) if key not in pairs]
        if missing:
            raise InvalidRequest(f"the vault has no variable with the name at position {missing[0]}")
        return await self.set(owner, name, {key: value for key, value in pairs.items() if key not in keys})
