"""API keys: made once, stored with their secret encrypted, looked up for every request."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from unsandbox.engine.secretbox import SecretBox
from unsandbox.engine.store import keys_table, open_database, reading

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # No l, o, 0, 1: keys get read aloud and typed.
_CACHE_S = 1.0


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret. The secret is not shown by `repr`."""

    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public_key!r})"

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new pair: 80 random bits in the public key, 100 in the secret."""
        return cls("unsb-pk-" + _groups(4, 4), "unsb-sk-" + _groups(4, 5))


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is listed; never its secret."""

    public_key: str
    note: str
    created_at: float
    revoked_at: float | None


class KeyRing(Protocol):
    """Where the server looks for the secret of a public key."""

    def secret_of(self, public_key: str) -> str | None:
        """Return the secret of a valid key, None for an unknown or revoked one. Must be quick."""

    def otp_secret_of(self, public_key: str) -> str | None:
        """Return the secret of a key's one-time codes, None when it has none."""


class FixedKeys:
    """A key ring of pairs that are known beforehand: for the embedded engine.

    Args:
        pairs: The valid pairs.
        otp: Secrets of one-time codes by public key, for keys that need them.
    """

    def __init__(self, *pairs: KeyPair, otp: Mapping[str, str] | None = None) -> None:
        self._secrets = {pair.public_key: pair.secret_key for pair in pairs}
        self._otp = dict(otp or {})

    def secret_of(self, public_key: str) -> str | None:
        """Return the secret of a key."""
        return self._secrets.get(public_key)

    def otp_secret_of(self, public_key: str) -> str | None:
        """Return the secret of a key's one-time codes."""
        return self._otp.get(public_key)


class StoredKeys:
    """The keys of a data folder. Several processes may use it at once (`un keys`, `un serve`).

    A change made by another process is seen within a second.

    Args:
        folder: The data folder; it is made when it does not exist.

    Raises:
        EngineError: The folder, its database or its key file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._database = open_database(folder)
        self._reading = reading(self._database)
        self._box = SecretBox.from_file(folder / "server.key")
        self._cache: dict[str, tuple[float, str]] = {}

    def create(self, note: str = "", otp_secret: str | None = None) -> KeyPair:
        """Make and store a new pair; this is the only time its secret is shown.

        Args:
            note: What it is for.
            otp_secret: Secret of one-time codes (base32) that protected calls of this key shall need.
        """
        pair = KeyPair.generate()
        row = {
            "public_key": pair.public_key,
            "sealed_secret": self._box.seal(pair.secret_key),
            "note": note[:200],
            "created_at": time.time(),
            "sealed_otp": self._box.seal(otp_secret) if otp_secret else None,
        }
        with self._database.begin() as connection:
            connection.execute(sa.insert(keys_table), row)
        return pair

    def list(self) -> list[KeyRow]:
        """Return all keys, oldest first."""
        table = keys_table.c
        query = sa.select(table.public_key, table.note, table.created_at, table.revoked_at).order_by(
            table.created_at
        )
        with self._reading.connect() as connection:
            return [KeyRow(**row) for row in connection.execute(query).mappings()]

    def revoke(self, public_key: str) -> bool:
        """Make a key invalid for good; return False when there is no such valid key."""
        table = keys_table.c
        query = (
            sa.update(keys_table)
            .where(table.public_key == public_key, table.revoked_at.is_(None))
            .values(revoked_at=time.time())
        )
        with self._database.begin() as connection:
            self._cache.pop(public_key, None)
            return bool(connection.execute(query).rowcount)

    def secret_of(self, public_key: str) -> str | None:
        """Return the secret of a valid key; answers are kept for a second."""
        now = time.monotonic()
        cached = self._cache.get(public_key)
        if cached is not None and cached[0] > now:
            return cached[1]
        table = keys_table.c
        query = sa.select(table.sealed_secret).where(table.public_key == public_key, table.revoked_at.is_(None))
        with self._reading.connect() as connection:
            sealed = connection.execute(query).scalar()
        if sealed is None:
            self._cache.pop(public_key, None)
            return None
        secret = self._box.open(sealed)
        self._cache[public_key] = (now + _CACHE_S, secret)
        return secret

    def otp_secret_of(self, public_key: str) -> str | None:
        """Return the secret of a key's one-time codes, None when it has none."""
        query = sa.select(keys_table.c.sealed_otp).where(keys_table.c.public_key == public_key)
        with self._reading.connect() as connection:
            sealed = connection.execute(query).scalar()
        return None if sealed is None else self._box.open(sealed)

    def close(self) -> None:
        """Close the database."""
        self._database.dispose()


def _groups(count: int, length: int) -> str:
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(length)) for _ in range(count))
