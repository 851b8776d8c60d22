"""Files that are encrypted while they are written, for memory images, which contain programs' secrets.

AES-256-GCM in chunks, each with its number and whether it is the last as the nonce, so that none can be
changed, moved, left out or cut off (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015).
A key must be used for one file only.
"""

from __future__ import annotations

import secrets
from typing import IO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from unsandbox.sandbox.spec import MIB

_TAG_BYTES = 16
_CHUNK = MIB


class Sink(Protocol):
    """A destination for bytes."""

    def write(self, data: bytes, /) -> int:
        """Take all of some bytes."""


def new_key() -> bytes:
    """Return a random key for one file."""
    return secrets.token_bytes(32)


class SealedWriter:
    """Encrypts written bytes; the file is complete only after `close`.

    Args:
        file: Where to. It stays open.
        key: From `new_key`.
    """

    def __init__(self, file: Sink, key: bytes) -> None:
        self._file = file
        self._cipher = AESGCM(key)
        self._waiting = bytearray()
        self._number = 0

    def write(self, data: bytes) -> int:
        """Take bytes; returns how many, which is all."""
        self._waiting += data
        # The last chunk is written by `close` alone.
        while len(self._waiting) > _CHUNK:
            self._seal(bytes(self._waiting[:_CHUNK]), last=False)
            del self._waiting[:_CHUNK]
        return len(data)

    def flush(self) -> None:
        """Do nothing: a chunk is written when it is full."""

    def close(self) -> None:
        """Write the last chunk."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _seal(self, data: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last), data, None))
        self._number += 1


class SealedReader:
    """Decrypts a file of `SealedWriter`.

    Args:
        file: Where from.
        key: The same.
    """

    def __init__(self, file: IO[bytes], key: bytes) -> None:
        self._file = file
        self._cipher = AESGCM(key)
        self._ready = b""
        self._next = file.read(_CHUNK + _TAG_BYTES)
        self._number = 0
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return at most a number of bytes; empty at the end.

        Raises:
            ValueError: The file was changed or cut off, or the key is another one.
        """
        if not self._ready and not self._ended:
            self._open()
        data = self._ready if size < 0 else self._ready[:size]
        self._ready = self._ready[len(data) :]
        return data

    def _open(self) -> None:
        sealed, self._next = self._next, self._file.read(_CHUNK + _TAG_BYTES)
        self._ended = not self._next
        try:
            self._ready = self._cipher.decrypt(_nonce(self._number, self._ended), sealed, None)
        except InvalidTag as error:
            raise ValueError("the sealed file was changed or the key is wrong") from error
        self._number += 1


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
