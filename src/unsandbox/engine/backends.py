"""The isolation backends of one engine, selected by the isolation that a request names."""

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
"""Requests any backend whose sandboxes have a separate kernel."""
_TRY_AGAIN_S = 60.0


def policies() -> tuple[str, ...]:
    """Return the values of a server's minimum isolation."""
    return ("auto", *BACKENDS, HARDENED)


def default_backend(config: EngineConfig, languages: LanguageTable) -> Backend:
    """Return the unopened default backend, for requests without an isolation.

    Args:
        config: The configuration, with the minimum isolation and the size of the pool.
        languages: The languages of the sandboxes.

    Raises:
        ValueError: The policy is unknown.
    """
    chosen = BACKENDS[_named(config.isolation) or next(iter(BACKENDS))]
    return chosen.from_options(options_of(config, languages))


def options_of(config: EngineConfig, languages: LanguageTable) -> BackendOptions:
    """Return a server's options for its backends.

    Args:
        config: The configuration of the server.
        languages: The languages of the sandboxes.
    """
    pool = None
    if config.pool:
        limits = Limits(memory_bytes=config.memory_per_vcpu_bytes)
        pool = replace(pool_for(languages, config.pool, config.pool_most, limits), quick_end=config.quick_end)
    return BackendOptions(languages.system, pool, config.native)


def is_weaker(isolation: str, than: str) -> bool:
    """Return whether an isolation is weaker than another: only the other one has a separate kernel.

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
    """Return the name of the backend of an isolation; None for `auto`.

    Raises:
        ValueError: The isolation is unknown.
    """
    if isolation not in policies():
        raise ValueError(f"isolation {isolation!r} is invalid; choose from {', '.join(policies())}")
    if isolation == HARDENED:
        return next(name for name, backend in BACKENDS.items() if backend.capabilities.own_kernel)
    return None if isolation == "auto" else isolation


class Backends:
    """Selects the backend of a job, session or service, which is never weaker than requested.

    Args:
        default: The backend of requests without an isolation; the engine opens and closes it.
        policy: Minimum isolation of this server; one of `policies`.
        options: Options of backends that are opened on demand. Their warm sandboxes are created after the
            first job.

    Raises:
        ValueError: The policy is unknown.
    """

    def __init__(
        self,
        default: Backend,
        policy: str = "auto",
        options: BackendOptions | None = None,
    ) -> None:
        options = options or BackendOptions()
        self._own_kernel = _has_own_kernel(policy)
        """Whether every sandbox of this server has a separate kernel."""
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
        """Close the backends that were opened on demand; the engine closes the default one."""
        for other in self._others.values():
            await other.close()


def check_network(backend: Backend, mode: NetworkMode) -> None:
    """Refuse a network mode that a backend does not have.

    Raises:
        InvalidRequest: The message has the reason and the remedy.
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
        """Return why the backend cannot be opened, if that is known without trying or from a recent try."""
        if self._report is not None:
            return None
        if self._refusal and time.monotonic() - self._refused_at < _TRY_AGAIN_S:
            return self._refusal
        why = self._backend.unavailable_reason()
        return None if why is None else self._refused(why)

    def _refused(self, why: object) -> str:
        return f"isolation {self.name!r} is not available on this server: {why}"

    async def open(self) -> ProbeReport:
        """See `Backend`; may be repeated."""
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
        """See `Backend`; refusals that need an open backend are raised by `start` and `open_persistent`."""
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
