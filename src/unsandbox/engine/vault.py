"""Environment vaults: encrypted where they lie, open only in a call that needs them."""

from __future__ import annotations

import json

from unsandbox.engine.context import Context
from unsandbox.engine.refusals import InvalidJob, TooLarge
from unsandbox.engine.secretbox import SecretBox
from unsandbox.protocol.services import VAULT_BYTES, vault_from_body, vault_to_text


class VaultSealer:
    """Turns the variables of a vault into what may be stored, and back.

    Args:
        box: Holds the key.
    """

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    @classmethod
    def of(cls, context: Context) -> VaultSealer:
        """Return one with the key of the data folder; without a lasting one the key goes with the process."""
        return cls(SecretBox.from_file(context.folder / "server.key") if context.lasting else SecretBox.random())

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
        InvalidJob: The body is in no form that a vault has; the message names the place, never a value.
        TooLarge: It is far larger than any vault may be.
    """
    if len(body) > 8 * VAULT_BYTES:
        raise TooLarge(f"the vault is larger than {VAULT_BYTES >> 10} KiB; pass large data as input files")
    try:
        return vault_from_body(body)
    except ValueError as error:
        raise InvalidJob(str(error), code="invalid_vault") from None
