"""Environment vaults at rest: encrypted, opened only by a call that needs the variables."""

from __future__ import annotations

import json

from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.errors import InvalidRequest, TooLarge
from unsandbox.protocol.services import VAULT_BYTES, vault_from_body, vault_to_text


class VaultSealer:
    """Encrypts the variables of a vault, and decrypts them.

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
    """Return the variables that the body of a request holds.

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
