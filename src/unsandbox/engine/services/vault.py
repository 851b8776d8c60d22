"""Environment vaults: encrypted where they lie, open only in a call that needs them."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.errors import InvalidRequest, TooLarge
from unsandbox.protocol.services import VAULT_BYTES, VaultInfo, vault_from_body, vault_to_text

if TYPE_CHECKING:
    from unsandbox.engine.services.document import ServiceRecord
    from unsandbox.engine.services.host import ServiceRegistry


class VaultSealer:
    """Turns the variables of a vault into what may be stored, and back.

    Args:
        box: Holds the key.
    """

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def seal(self, pairs: dict[str, str]) -> bytes:
        """Return the encrypted form.

        Raises:
            TooLarge: The vault is larger than 64 KiB as text.
        """
        if len(vault_to_text(pairs).encode()) > VAULT_BYTES:
            raise TooLarge(f"the vault is larger than {VAULT_BYTES >> 10} KiB; pass large data as input files")
        return self._box.seal(json.dumps(pairs))

    def open(self, sealed: bytes | None) -> dict[str, str]:
        """Return the variables.

        Raises:
            EngineError: It was sealed with another key or was changed.
        """
        pairs: dict[str, str] = json.loads(self._box.open(sealed)) if sealed else {}
        return pairs


def read_vault(body: bytes) -> dict[str, str]:
    """Return the variables that a request wants to have in the vault.

    Raises:
        InvalidRequest: The body is in no form that a vault has; the message names the place, never a value.
        TooLarge: It is far larger than any vault may be.
    """
    if len(body) > 8 * VAULT_BYTES:
        raise TooLarge(f"the vault is larger than {VAULT_BYTES >> 10} KiB; pass large data as input files")
    try:
        return vault_from_body(body)
    except ValueError as error:
        raise InvalidRequest(str(error), code="invalid_vault") from None


class Vaults:
    """The vaults of all services.

    Args:
        host: Where the services are.
        restart: Starts the program of a service again.
    """

    def __init__(self, host: ServiceRegistry, restart: Callable[[ServiceRecord], Awaitable[None]]) -> None:
        self._host = host
        self._restart = restart

    def info(self, owner: str, name: str) -> VaultInfo:
        """Tell about the vault of a service, never its values.

        Raises:
            UnknownObject: No such service of this key.
        """
        document = self._host.shelf.get(owner, name)
        updated = document.vault_updated_at
        count = len(document.vault_names)
        return VaultInfo(has_vault=count > 0, count=count, updated_at=None if updated is None else int(updated))

    def open(self, owner: str, name: str) -> dict[str, str]:
        """Return the variables of a service's vault.

        Raises:
            UnknownObject: No such service of this key.
        """
        return self._host.sealer.open(self._host.shelf.get(owner, name).vault)

    async def set(self, owner: str, name: str, pairs: dict[str, str]) -> VaultInfo:
        """Replace the vault of a service, and start its program again if something changed.

        Raises:
            UnknownObject: No such service of this key.
            TooLarge: It is larger than 64 KiB.
        """
        document = self._host.shelf.get(owner, name)
        changed = pairs != self._host.sealer.open(document.vault)
        await self._host.change(
            document,
            vault=self._host.sealer.seal(pairs) if pairs else None,
            vault_names=list(pairs),
            vault_updated_at=time.time(),
        )
        if changed:
            await self._restart(document)
        return self.info(owner, document.object_id)

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
            raise InvalidRequest(f"the vault has no variable of the name that stands at place {missing[0]}")
        return await self.set(owner, name, {key: value for key, value in pairs.items() if key not in keys})
