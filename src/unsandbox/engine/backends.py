"""The isolation backends of one engine, found by the name that a request asks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import InvalidRequest
from unsandbox.sandbox import LanguageTable, Limits, pool_for
from unsandbox.sandbox.backend import Backend, BackendOptions, Capabilities
from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec
from unsandbox.sandbox.registry import BACKENDS
from unsandbox.sandbox.spec import Check, NetworkMode, OutputSink, ProbeReport, RunningJob, SandboxSpec

logger = logging.getLogger("unsandbox.engine")

HARDENED = "hardened"
"""Asks for any backend whose sandboxes have a kernel of their own."""
_TRY_AGAIN_S = 60.0


def policies() -> tuple[str, ...]:
    """Return what a server may demand at least."""
    return ("auto", *BACKENDS, HARDENED)


def default_backend(config: EngineConfig, languages: LanguageTable) -> Backend:
    """Return the backend, not yet open, that takes what asks for nothing in particular.

    Args:
        config: Says what the server demands at least, and how many sandboxes wait for jobs.
        languages: What the sandboxes shall run.

    Raises:
        ValueError: There is no such policy.
    """
    chosen = BACKENDS[_named(config.isolation) or next(iter(BACKENDS))]
    return chosen.from_options(options_of(config, languages))


def options_of(config: EngineConfig, languages: LanguageTable) -> BackendOptions:
    """Return how a server wants its backends.

    Args:
        config: The server's.
        languages: What the sandboxes shall run.
    """
    pool = None
    if config.pool:
        limits = Limits(memory_bytes=config.memory_per_vcpu_bytes)
        pool = replace(pool_for(languages, config.pool, config.pool_most, limits), quick_end=config.quick_end)
    return BackendOptions(languages.system, pool, config.native)


def is_weaker(isolation: str, than: str) -> bool:
    """Tell whether an isolation promises less than another: only one of them is a kernel of its own.

    Args:
        isolation: One of `policies`.
        than: Another one.

    Raises:
        ValueError: One of them is unknown.
    """
    return _has_own_kernel(than) and not _has_own_kernel(isolation)


def _has_own_kernel(isolation: str) -> bool:
    name = _named(isolation)
    return name is not None and BACKENDS[name].capabilities.own_kernel


def _named(isolation: str) -> str | None:
    """Return the backend that an isolation means; None for `auto`.

    Raises:
        ValueError: There is no such isolation.
    """
    if isolation not in policies():
        raise ValueError(f"isolation {isolation!r} is invalid; choose from {', '.join(policies())}")
    if isolation == HARDENED:
        return next(name for name, backend in BACKENDS.items() if backend.capabilities.own_kernel)
    return None if isolation == "auto" else isolation


class Backends:
    """Chooses the backend of a job, session or service; never one that is weaker than what was asked for.

    Args:
        default: Takes what asks for nothing in particular; opened and closed by the engine.
        policy: What this server demands at least; one of `policies`.
        options: For backends that are opened on demand. Their warm sandboxes are made after the first job.

    Raises:
        ValueError: There is no such policy.
    """

    def __init__(
        self,
        default: Backend,
        policy: str = "auto",
        options: BackendOptions | None = None,
    ) -> None:
        options = options or BackendOptions()
        self._own_kernel = _has_own_kernel(policy)
        """Whether every sandbox of this server has a kernel of its own."""
        self._default = default
        self._hardened = default.name if default.capabilities.own_kernel else _named(HARDENED)
        later = replace(options, pool=options.pool and replace(options.pool, size=0))
        self._others = {
            name: OnDemand(backend.from_options(later))
            for name, backend in BACKENDS.items()
            if name != default.name
        }

    def for_job(self, isolation: str) -> Backend:
        """Return the backend for a job.

        Raises:
            SandboxUnavailable: There is none on this machine that is at least what was asked for.
        """
        wanted = {"auto": self._default.name, HARDENED: self._hardened}.get(isolation, isolation)
        backend = self._default if wanted == self._default.name else self._others.get(wanted or "")
        if backend is None:
            raise SandboxUnavailable(f"isolation {isolation!r} is not available on this server")
        if self._own_kernel and not backend.capabilities.own_kernel:
            raise SandboxUnavailable(f"this server requires isolation {self._hardened!r}; use that or 'auto'")
        if backend is not self._default and (why := backend.unavailable_reason()) is not None:
            raise SandboxUnavailable(why)
        return backend

    def for_persistent(self, isolation: str) -> Backend:
        """Return the backend for a session or service.

        Raises:
            SandboxUnavailable: There is none on this machine that is at least what was asked for.
        """
        backend = self.for_job(isolation)
        if not backend.capabilities.persistent:
            raise SandboxUnavailable(f"the backend {backend.name!r} has no persistent sandboxes")
        return backend

    async def close(self) -> None:
        """Close what was opened on demand; the default is its owner's."""
        for other in self._others.values():
            await other.close()


def check_network(backend: Backend, mode: NetworkMode) -> None:
    """Refuse a network that sandboxes of a backend cannot have.

    Raises:
        InvalidRequest: With the reason, and what to do.
    """
    if (why := backend.network_refusal(mode)) is not None:
        raise InvalidRequest(f"{why} (or use network_mode 'zerotrust')", code="network_mode_unavailable")


class OnDemand:
    """A backend that is opened when it is first used; implements `Backend`.

    A failure is remembered for a while, not for ever.

    Args:
        backend: The backend, not open.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._opening = asyncio.Lock()
        self._report: ProbeReport | None = None
        self._refusal = ""
        self._refused_at = 0.0

    @property
    def name(self) -> str:
        """See `Backend`."""
        return self._backend.name

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend`."""
        return self._backend.capabilities

    def unavailable_reason(self) -> str | None:
        """Return why it cannot be opened, known without trying or from the last try a short while ago."""
        if self._report is not None:
            return None
        if self._refusal and time.monotonic() - self._refused_at < _TRY_AGAIN_S:
            return self._refusal
        why = self._backend.unavailable_reason()
        return None if why is None else self._refused(why)

    def _refused(self, why: object) -> str:
        return f"isolation {self.name!r} is not available on this server: {why}"

    async def open(self) -> ProbeReport:
        """See `Backend`; repeated calls do no harm."""
        async with self._opening:
            if self._report is None:
                try:
                    self._report = await self._backend.open()
                except SandboxUnavailable as error:
                    self._refusal = self._refused(error)
                    self._refused_at = time.monotonic()
                    raise SandboxUnavailable(self._refusal) from error
                logger.info("backend %s is open", self.name)
            return self._report

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> RunningJob:
        """See `Backend`."""
        await self.open()
        return await self._backend.start(spec, sink)

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """See `Backend`."""
        await self.open()
        return await self._backend.open_persistent(spec)

    async def prove_persistent(self) -> Sequence[Check]:
        """See `Backend`."""
        await self.open()
        return await self._backend.prove_persistent()

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """See `Backend`; what only shows when the backend is opened, `start` and `open_persistent` tell."""
        if self._report is None and self.capabilities.outbound_network:
            return None
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
