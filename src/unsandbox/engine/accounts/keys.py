"""API keys: pairs, settings, and the lookup of a secret for every request."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # No l, o, 0, 1: keys get read aloud and typed.
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
        environments: Names of the environments that it may use, separated by commas; None for all.
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
    environments: str | None = None

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


def _groups(count: int, length: int) -> str:
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(length)) for _ in range(count))
