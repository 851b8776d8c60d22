"""Encryption of secrets at rest, with a key file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unsandbox.errors import EngineError


class SecretBox:
    """Encrypts and decrypts short texts (Fernet: AES-128-CBC with HMAC-SHA256, authenticated).

    Args:
        key: A Fernet key, 44 URL-safe base64 characters.
    """

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._key = key

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes for another purpose that tell nothing of this box's own key (HKDF, RFC 5869)."""
        return HKDF(hashes.SHA256(), 32, None, purpose.encode()).derive(self._key)

    @classmethod
    def of_this_process(cls) -> SecretBox:
        """Return a box with a random key."""
        return cls(Fernet.generate_key())

    @classmethod
    def from_file(cls, path: Path) -> SecretBox:
        """Read the key file, or create it (mode 0600); safe if two processes do this at once.

        Raises:
            EngineError: The file cannot be read or holds no key, or others can read it.
        """
        if not path.exists():
            write_private(path, Fernet.generate_key())
        try:
            if path.stat().st_mode & 0o077:
                raise EngineError(f"{path} can be read by other users; run: chmod 600 {path}")
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise EngineError(f"the key file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise EngineError(f"{path} is not a server key; restore it from your backup") from error

    def seal(self, text: str) -> bytes:
        """Return the encrypted form of a text."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Return the text.

        Raises:
            EngineError: It was sealed with another key or was changed.
        """
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise EngineError(
                "a stored secret cannot be decrypted; server.key may belong to another data folder"
            ) from error


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all; an existing file stays as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # link() fails if the name exists: the first of two processes wins, and no process sees half a file.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()
