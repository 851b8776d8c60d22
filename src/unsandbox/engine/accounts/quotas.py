"""The totals that each key may use: CPU time, memory, disk, output, isolation. Rates are elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unsandbox.engine.accounts.cpu_ledger import DAY_S, HOUR_S, CpuLedger
from unsandbox.engine.accounts.keys import KeyRing, KeySettings
from unsandbox.engine.backends import is_weaker
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import InsufficientStorage, LimitReached
from unsandbox.engine.store.objects import ObjectStore
from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.spec import MIB

_NOTHING_SET = KeySettings()


@dataclass(frozen=True, slots=True)
class Reservation:
    """Bytes that a stored object takes as long as it exists, whether or not it is used."""

    memory: int = 0
    disk: int = 0

    def __add__(self, other: Reservation) -> Reservation:
        """Return both together."""
        return Reservation(self.memory + other.memory, self.disk + other.disk)


class Quotas:
    """Checks requests against the limits of their keys.

    Args:
        config: The limits of keys without settings.
        store: Storage for the use of CPU time.

    Attributes:
        rings: The key rings with the settings; an unknown key has the engine's limits.
        holders: Each returns what a key has reserved with one kind of object.
        jobs_memory: Returns the bytes of memory that the running jobs of a key may use.
        ledger: The CPU time used.
        activity: Set when something starts that uses CPU time.
    """

    def __init__(self, config: EngineConfig, store: ObjectStore) -> None:
        self._config = config
        self.rings: list[KeyRing] = []
        self.holders: list[Callable[[str], Reservation]] = []
        self.jobs_memory: Callable[[str], int] = lambda _owner: 0
        self.ledger = CpuLedger(store)
        self.activity = asyncio.Event()
        self._in_flight: dict[str, list[tuple[str, Reservation]]] = {}

    def settings(self, owner: str) -> KeySettings:
        """Return the settings of a key."""
        for ring in self.rings:
            if (known := ring.find(owner)) is not None:
                return known.settings
        return _NOTHING_SET

    # Of one sandbox

    def isolation(self, owner: str, asked: str) -> str:
        """Return the isolation for a request of a key, which is never weaker than the key's setting.

        Raises:
            SandboxUnavailable: The request names a weaker isolation.
        """
        least = self.settings(owner).isolation
        if least is None or asked == least:
            return asked
        if asked == "auto":
            return least
        if is_weaker(asked, least):
            raise SandboxUnavailable(f"this key requires isolation {least!r}; use that or 'auto'")
        return asked

    def may_use_environment(self, owner: str, name: str) -> bool:
        """Return whether a key may use an environment."""
        names = self.settings(owner).environments
        return names is None or name in names.split(",")

    def memory_bytes(self, owner: str, vcpu: int) -> int:
        """Return the memory limit of a sandbox with this number of CPUs."""
        settings = self.settings(owner)
        most = [limit * MIB for limit in (settings.sandbox_memory_mb, settings.memory_mb) if limit is not None]
        return min((self._config.memory_per_vcpu_bytes * vcpu, *most))

    def output_bytes(self, owner: str) -> int:
        """Return the number of bytes that are stored of each output stream."""
        limit = self.settings(owner).output_mb
        return self._config.output_bytes if limit is None else min(self._config.output_bytes, limit * MIB)

    # Of all together

    def reserved(self, owner: str) -> Reservation:
        """Return what the stored objects of a key reserve, including those that are being made."""
        in_flight = (wanted for _, wanted in self._in_flight.get(owner, ()))
        return sum(in_flight, sum((holder(owner) for holder in self.holders), Reservation()))

    def in_flight(self, kind: str, owner: str) -> int:
        """Return how many objects of a kind are being made for a key."""
        return sum(entry[0] == kind for entry in self._in_flight.get(owner, ()))

    @contextlib.contextmanager
    def making(self, kind: str, owner: str, wanted: Reservation) -> Iterator[None]:
        """Count an object while it is being created, so that two at once cannot exceed a limit.

        Raises:
            LimitReached: It needs more memory than the key has left.
            InsufficientStorage: It needs more disk than the key has left.
        """
        self.check_room(owner, wanted)
        mine = self._in_flight.setdefault(owner, [])
        mine.append((kind, wanted))
        try:
            yield
        finally:
            mine.remove((kind, wanted))
            if not mine:
                self._in_flight.pop(owner, None)

    def check_room(self, owner: str, wanted: Reservation) -> None:
        """Refuse an object for which a key has too little memory or disk left.

        Raises:
            LimitReached: There is too little memory.
            InsufficientStorage: There is too little disk.
        """
        settings = self.settings(owner)
        held = self.reserved(owner)
        most = self._config.disk_bytes_per_key if settings.disk_mb is None else settings.disk_mb * MIB
        if wanted.disk > 0 and held.disk + wanted.disk > most:
            raise InsufficientStorage(
                f"this key may store {most // MIB} MiB; disks of sessions and services, snapshots and "
                f"images take {_mib(held.disk)} MiB, and {_mib(wanted.disk)} MiB more are needed; delete one",
                code="disk_limit_reached",
            )
        if wanted.memory and not self.has_memory(owner, wanted.memory):
            raise _no_memory(settings, held.memory + self.jobs_memory(owner), wanted.memory)

    def check_job(self, owner: str, memory: int) -> None:
        """Refuse a job that cannot run until a session or service is deleted, or CPU time is available again.

        Raises:
            LimitReached: The job cannot run now.
        """
        settings = self.settings(owner)
        if settings.memory_mb is not None:
            held = self.reserved(owner).memory
            if held + memory > settings.memory_mb * MIB:
                raise _no_memory(settings, held, memory)
        self.check_cpu(owner)

    def has_memory(self, owner: str, memory: int) -> bool:
        """Return whether a key may use `memory` more bytes now."""
        limit = self.settings(owner).memory_mb
        return limit is None or self.reserved(owner).memory + self.jobs_memory(owner) + memory <= limit * MIB

    # CPU time

    def counts_cpu(self, owner: str) -> bool:
        """Return whether a key has a limit on CPU time."""
        settings = self.settings(owner)
        return settings.cpu_s_per_hour is not None or settings.cpu_s_per_day is not None

    def charge_cpu(self, owner: str, seconds: float) -> None:
        """Record used CPU time."""
        if self.counts_cpu(owner):
            self.ledger.charge(owner, seconds)

    def cpu_left(self, owner: str) -> float:
        """Return the seconds of CPU time that a key may still use now; infinite without a limit."""
        return min(
            (limit - self.ledger.used(owner, window_s) for _, window_s, limit in self._windows(owner)),
            default=float("inf"),
        )

    def check_cpu(self, owner: str) -> None:
        """Refuse when a key has used up its CPU time.

        Raises:
            LimitReached: The CPU time is used up; the error says when there is some again.
        """
        for name, window_s, limit in self._windows(owner):
            used = self.ledger.used(owner, window_s)
            if used >= limit:
                wait_s = round(self.ledger.free_in(owner, window_s, limit) + 0.5)
                raise LimitReached(
                    f"this key may use {limit} s of CPU time in any {name} and has used {used:.0f} s; retry in "
                    f"{wait_s} s",
                    code="cpu_limit_reached",
                    retry_after=wait_s,
                )

    def _windows(self, owner: str) -> list[tuple[str, int, int]]:
        settings = self.settings(owner)
        limits = (("hour", HOUR_S, settings.cpu_s_per_hour), ("day", DAY_S, settings.cpu_s_per_day))
        return [(name, window_s, limit) for name, window_s, limit in limits if limit is not None]

    def used(self, owner: str) -> dict[str, float]:
        """Return the current use of a key's limits, by name."""
        held = self.reserved(owner)
        used: dict[str, float] = {
            "memory_mb": _mib(held.memory + self.jobs_memory(owner)),
            "disk_mb": _mib(held.disk),
        }
        for name, window_s, _ in self._windows(owner):
            used[f"cpu_s_per_{name}"] = round(self.ledger.used(owner, window_s), 3)
        return used


def _mib(size: int) -> int:
    return -(-size // MIB)


def _no_memory(settings: KeySettings, taken: int, wanted: int) -> LimitReached:
    return LimitReached(
        f"the sandboxes of this key may have {settings.memory_mb} MiB of memory at once; {_mib(taken)} MiB are "
        f"taken and {_mib(wanted)} MiB more are needed; end or delete something, or ask for fewer vcpu",
        code="memory_limit_reached",
    )
