"""API keys: made once, stored with their secret encrypted, looked up for every request."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import sqlalchemy as sa

from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.store.database import open_database, reading
from unsandbox.engine.store.schema import keys_table

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # No l, o, 0, 1: keys get read aloud and typed.
_CACHE_S = 1.0
_NO_LIMITS = frozenset({"tier", "expires_at"})


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


class KeySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a key. A limit of None means the engine's default. Fields may be added, never renamed.

    Attributes:
        tier: Number that clients show; the engine does not use it.
        expires_at: Unix time from which the key is refused.
        concurrency: Jobs that may be queued or running.
        rate_per_minute: Requests in the long run; None means no limit.
        burst: Requests at once before the rate counts; the rate when not given.
        sessions: Sessions at a time.
        services: Services at a time.
        cpu_s_per_hour: Seconds of CPU time in any hour; running jobs are ended at the limit.
        cpu_s_per_day: The same in any day.
        memory_mb: Memory limits of all its sandboxes together, in MiB; jobs wait until there is room.
        sandbox_memory_mb: Memory limit of each of its sandboxes, in MiB, however many CPUs it has.
        disk_mb: Disk in MiB: quotas of sessions and services, snapshots and images.
        output_mb: Kept of each output stream of a job, in MiB.
        results_mb: Stored results of its ended jobs, in MiB; the oldest leave first.
        isolation: Minimum isolation: `gvisor` or `hardened`.
    """

    tier: int = 1
    expires_at: float | None = None
    concurrency: int | None = None
    rate_per_minute: int | None = None
    burst: int | None = None
    sessions: int | None = None
    services: int | None = None
    cpu_s_per_hour: int | None = None
    cpu_s_per_day: int | None = None
    memory_mb: int | None = None
    sandbox_memory_mb: int | None = None
    disk_mb: int | None = None
    output_mb: int | None = None
    results_mb: int | None = None
    isolation: Literal["gvisor", "hardened"] | None = None

    def limits(self) -> dict[str, int | str]:
        """Return every limit that is set, by name."""
        fields = msgspec.structs.asdict(self).items()
        return {name: value for name, value in fields if value is not None and name not in _NO_LIMITS}


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A valid key: its secret, which `repr` does not show, and its settings."""

    secret_key: str
    settings: KeySettings

    def __repr__(self) -> str:
        return f"KnownKey({self.settings!r})"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key in a list, without its secret."""

    public_key: str
    note: str
    created_at: float
    revoked_at: float | None
    settings: KeySettings


class KeyRing(Protocol):
    """The lookup of secrets by public key."""

    def find(self, public_key: str) -> KnownKey | None:
        """Return a valid key, None for an unknown or revoked one. Must be quick. An expired key is found."""

    def otp_secret_of(self, public_key: str) -> str | None:
        """Return the secret of a key's one-time codes, None when it has none."""


class FixedKeys:
    """A key ring of pairs that are known beforehand: for the embedded engine.

    Args:
        pairs: The valid pairs.
        otp: Secrets of one-time codes by public key, for keys that need them.
        settings: Settings by public key.
    """

    def __init__(
        self,
        *pairs: KeyPair,
        otp: Mapping[str, str] | None = None,
        settings: Mapping[str, KeySettings] | None = None,
    ) -> None:
        given = settings or {}
        self._keys = {
            pair.public_key: KnownKey(pair.secret_key, given.get(pair.public_key, KeySettings()))
            for pair in pairs
        }
        self._otp = dict(otp or {})

    def find(self, public_key: str) -> KnownKey | None:
        """Return a key."""
        return self._keys.get(public_key)

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


def _groups(count: int, length: int) -> str:
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(length)) for _ in range(count))
