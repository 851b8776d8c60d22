"""API keys in a database: made once, stored with their secret encrypted.

SQLAlchemy takes a quarter of a server's imports. The embedded engine stores nothing and does not import it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from unsandbox.engine.accounts.keys import KeyPair, KeyRow, KeySettings, KnownKey
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.store.database import open_database, reading
from unsandbox.engine.store.schema import keys_table

_CACHE_S = 1.0


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
        self.box = SecretBox.from_file(folder / "server.key")
        self._cache: dict[str, tuple[float, KnownKey]] = {}

    def create(
        self, note: str = "", otp_secret: str | None = None, settings: KeySettings | None = None
    ) -> KeyPair:
        """Create and store a new pair; only this call returns its secret.

        Args:
            note: Purpose of the key.
            otp_secret: Secret (base32) of the one-time codes that protected calls of this key require.
            settings: Settings of the key.
        """
        pair = KeyPair.generate()
        row = {
            "public_key": pair.public_key,
            "sealed_secret": self.box.seal(pair.secret_key),
            "note": note[:200],
            "created_at": time.time(),
            "sealed_otp": self.box.seal(otp_secret) if otp_secret else None,
            "settings": msgspec.json.encode(settings or KeySettings()),
        }
        with self._database.begin() as connection:
            connection.execute(sa.insert(keys_table), row)
        return pair

    def list(self) -> list[KeyRow]:
        """Return all keys, oldest first."""
        table = keys_table.c
        query = sa.select(
            table.public_key, table.note, table.created_at, table.revoked_at, table.settings
        ).order_by(table.created_at)
        with self._reading.connect() as connection:
            rows = list(connection.execute(query).mappings())
        return [KeyRow(**(dict(row) | {"settings": _settings(row["settings"])})) for row in rows]

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

    def change(self, public_key: str, **changes: Any) -> KeySettings | None:
        """Change settings of a key and return the new settings; None if there is no such valid key.

        Args:
            public_key: The key.
            changes: Fields of `KeySettings`; None removes a limit.
        """
        table = keys_table.c
        valid = (table.public_key == public_key, table.revoked_at.is_(None))
        with self._database.begin() as connection:
            row = connection.execute(sa.select(table.settings).where(*valid)).first()
            if row is None:
                return None
            settings = msgspec.structs.replace(_settings(row[0]), **changes)
            connection.execute(
                sa.update(keys_table).where(*valid).values(settings=msgspec.json.encode(settings))
            )
            self._cache.pop(public_key, None)
        return settings

    def find(self, public_key: str) -> KnownKey | None:
        """Return a valid key; answers are kept for a second."""
        now = time.monotonic()
        cached = self._cache.get(public_key)
        if cached is not None and cached[0] > now:
            return cached[1]
        table = keys_table.c
        query = sa.select(table.sealed_secret, table.settings).where(
            table.public_key == public_key, table.revoked_at.is_(None)
        )
        with self._reading.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            self._cache.pop(public_key, None)
            return None
        known = KnownKey(self.box.open(row[0]), _settings(row[1]))
        self._cache[public_key] = (now + _CACHE_S, known)
        return known

    def otp_secret_of(self, public_key: str) -> str | None:
        """Return the secret of a key's one-time codes, None when it has none."""
        query = sa.select(keys_table.c.sealed_otp).where(keys_table.c.public_key == public_key)
        with self._reading.connect() as connection:
            sealed = connection.execute(query).scalar()
        return None if sealed is None else self.box.open(sealed)

    def close(self) -> None:
        """Close the database."""
        self._database.dispose()


def _settings(stored: bytes | None) -> KeySettings:
    return KeySettings() if stored is None else msgspec.json.decode(stored, type=KeySettings)
