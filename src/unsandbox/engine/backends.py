"""The isolation backends of one engine, found by the name that a request asks for."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import InvalidRequest
from unsandbox.sandbox import BubblewrapBackend, GvisorBackend, LanguageTable, Limits, PoolConfig, pool_for
from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.gvisor import runsc
from unsandbox.sandbox.native.first_process import NO_PROGRAMS
from unsandbox.sandbox.persistent_spec import PersistentBackend, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import Backend, NetworkMode, OutputSink, ProbeReport, RunningJob, SandboxSpec
from unsandbox.sandbox.system import HOST, System

logger = logging.getLogger("unsandbox.engine")

HARDENED = "gvisor"
"""What `hardened` means: this backend or a refusal."""
POLICIES = ("auto", "bubblewrap", "gvisor", "hardened")
_HARDENED_POLICIES = frozenset({"gvisor", "hardened"})
_TRY_AGAIN_S = 60.0


def default_backend(config: EngineConfig, languages: LanguageTable) -> Backend:
    """Return the backend, not yet open, that takes what asks for nothing in particular.

    Args:
        config: Says what the server demands at least, and how many sandboxes wait for jobs.
        languages: What the sandboxes shall run.
    """
    pool = pool_of(config, languages)
    if config.isolation in _HARDENED_POLICIES:
        return GvisorBackend(system=languages.system, pool=pool)
    native = None if config.native else NO_PROGRAMS
    return BubblewrapBackend(system=languages.system, pool=pool, native=native)


def pool_of(config: EngineConfig, languages: LanguageTable) -> PoolConfig | None:
    """Return how many sandboxes of a backend wait for jobs, and for what; None for none."""
    if not config.pool:
        return None
    limits = Limits(memory_bytes=config.memory_per_vcpu_bytes)
    pool = pool_for(languages, config.pool, config.pool_most, limits)
    return replace(pool, quick_end=config.quick_end)


class Backends:
    """Chooses the backend of a job, session or service; never one that is weaker than what was asked for.

    Args:
        default: Takes what asks for nothing in particular; opened and closed by the engine.
        policy: What this server demands at least: `auto`, `bubblewrap`, `gvisor` or `hardened`.
        system: Where the `/usr` of sandboxes comes from that are made on demand.
        pool: How many of their sandboxes wait.
    """

    def __init__(
        self,
        default: Backend,
        policy: str = "auto",
        system: System = HOST,
        pool: PoolConfig | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"isolation {policy!r} is none of {', '.join(POLICIES)}")
        self._default = default
        self._policy = policy
        self._others: dict[str, _OnDemand] = {}
        if default.name != HARDENED:
            later = pool and replace(pool, size=0)
            self._others[HARDENED] = _OnDemand(GvisorBackend(system=system, pool=later))

    def for_job(self, isolation: str) -> Backend:
        """Return the backend for a job.

        Raises:
            SandboxUnavailable: There is none on this machine that is at least what was asked for.
        """
        wanted = self._wanted(isolation)
        if wanted == self._default.name:
            return self._default
        if (other := self._others.get(wanted)) is None:
            raise SandboxUnavailable(f"isolation {wanted!r} is not available on this server")
        other.refuse_if_hopeless()
        return other

    def live(self, isolation: str) -> PersistentBackend:
        """Return the backend for what stays: a session or service.

        Raises:
            SandboxUnavailable: There is none on this machine that is at least what was asked for.
        """
        backend = self.for_job(isolation)
        if not hasattr(backend, "open_persistent"):
            raise SandboxUnavailable(f"the backend {backend.name!r} cannot make sandboxes that stay")
        return backend  # type: ignore[return-value]

    async def close(self) -> None:
        """Close what was opened on demand; the default is its owner's."""
        for other in self._others.values():
            await other.close()

    def _wanted(self, isolation: str) -> str:
        asked = self._policy if isolation == "auto" else isolation
        if self._policy in _HARDENED_POLICIES and asked == "bubblewrap":
            raise SandboxUnavailable("this server runs nothing with less isolation than gVisor")
        return {"auto": self._default.name, "hardened": HARDENED}.get(asked, asked)


def check_network(backend: Backend | PersistentBackend, mode: NetworkMode) -> None:
    """Refuse a network that sandboxes of a backend cannot have.

    Raises:
        InvalidRequest: With the reason, and what to do.
    """
    if (why := backend.network_refusal(mode)) is not None:
        raise InvalidRequest(f"{why} (or use 'zerotrust': no network)", code="network_mode_unavailable")


class _OnDemand:
    """A backend that is opened when it is first used. A failure is remembered for a while, not for ever."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self._backend = backend
        self._opening = asyncio.Lock()
        self._report: ProbeReport | None = None
        self._refusal = ""
        self._refused_at = 0.0

    @property
    def hot(self) -> bool:
        """See `PersistentBackend`."""
        return bool(getattr(self._backend, "hot", False))

    def refuse_if_hopeless(self) -> None:
        """Raise `SandboxUnavailable` when it is known, without trying, that the backend cannot be had."""
        if self._report is not None:
            return
        if self._refusal and time.monotonic() - self._refused_at < _TRY_AGAIN_S:
            raise SandboxUnavailable(self._refusal)
        if isinstance(self._backend, GvisorBackend) and not runsc.candidates():
            raise SandboxUnavailable(
                f"isolation {self.name!r} is not available on this server: gVisor's runsc is not installed; "
                f"its operator can install it: {runsc.HOW_TO_GET}"
            )

    async def open(self) -> ProbeReport:
        """See `Backend`; repeated calls do no harm."""
        async with self._opening:
            if self._report is None:
                try:
                    self._report = await self._backend.open()
                except SandboxUnavailable as error:
                    self._refusal = f"isolation {self.name!r} is not available on this server: {error}"
                    self._refused_at = time.monotonic()
                    raise SandboxUnavailable(self._refusal) from error
                logger.info("backend %s is open", self.name)
            return self._report

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> RunningJob:
        """See `Backend`."""
        await self.open()
        return await self._backend.start(spec, sink)

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """See `PersistentBackend`."""
        await self.open()
        live: PersistentBackend = self._backend  # type: ignore[assignment]
        return await live.open_persistent(spec)

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """See `Backend`."""
        return self._backend.network_refusal(mode)

    def scratch(self) -> Path:
        """See `Backend`."""
        return self._backend.scratch()

    async def close(self) -> None:
        """See `Backend`."""
        async with self._opening:
            if self._report is not None:
                self._report = None
                await self._backend.close()
