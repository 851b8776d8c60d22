"""What isolation backends on this machine have in common.

A backend is a subclass that says how its sandboxes are made; see the abstract methods of `HostBackend`.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol, Self

from unsandbox.sandbox.backend import BackendOptions, Capabilities
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host.descriptors import DescriptorStack
from unsandbox.sandbox.host.launcher_client import LauncherControl
from unsandbox.sandbox.host.persistent_probe import PERSISTENT
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.runtime import Runtime
from unsandbox.sandbox.host.slots import Slot, SlotTable
from unsandbox.sandbox.launcher.messages import Start
from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Check, NetworkMode, OutputSink, ProbeReport, SandboxSpec
from unsandbox.sandbox.system import HOST, System
from unsandbox.sandbox.uid_ranges import USERS_PER_SERVER, available_users
from unsandbox.sandbox.validation import validate, validate_persistent

logger = logging.getLogger("unsandbox.sandbox")

_CLOSE_TIMEOUT_S = 5.0


class Opening(PersistentSandbox, Protocol):
    """A persistent sandbox that a backend makes."""

    async def open(self) -> None:
        """Have it made; programs can be started in it when this returns."""


class Pool(Protocol):
    """The warm sandboxes of a backend."""

    @property
    def jobs(self) -> set[SandboxJob]:
        """The jobs that run in them."""

    async def start(self, spec: SandboxSpec, sink: OutputSink | None) -> SandboxJob | None:
        """Start a job in one; None when none is ready or the job does not fit."""

    async def close(self) -> None:
        """Let go of every warm sandbox."""


@dataclass(frozen=True, slots=True)
class JobStart:
    """A job whose sandbox is about to be asked for.

    Attributes:
        job: The job.
        request: What the launcher must know.
        descriptors: Descriptors of the sandbox, by their numbers in it.
    """

    job: SandboxJob
    request: Start
    descriptors: Mapping[int, int]


class HostBackend(abc.ABC):
    """Runtime folder, launcher, slots, jobs and persistent sandboxes of one backend; implements `Backend`.

    As root every sandbox runs as a user of its own, one that no file on the machine belongs to. As an ordinary
    user all run as that user, each in its own user namespace.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __init__(
        self,
        runtime_dir: Path | None = None,
        *,
        first_uid: int | None = None,
        system: System = HOST,
        pool: PoolConfig | None = None,
    ) -> None:
        """Prepare nothing yet; `open` does.

        Args:
            runtime_dir: Folder in which the backend makes its own; by default the first of the usual places for
                temporary files where programs may be executed.
            first_uid: With root, sandboxes run as users from this number on; by default a range per server.
            system: Where the sandboxes' `/usr` comes from.
            pool: How many warm sandboxes to keep; none by default.
        """
        users = available_users()
        if users is not None and first_uid is not None:
            users = range(first_uid, first_uid + USERS_PER_SERVER)
        self._system = system
        self._runtime = Runtime(runtime_dir, system, self._install)
        self.pool_config = pool
        self._slots = SlotTable(users)
        self._control = LauncherControl()
        self._reviving = asyncio.Lock()
        self._host: HostResources | None = None
        self._pool: Pool | None = None
        self._jobs: set[SandboxJob] = set()
        self._persistent: set[Opening] = set()
        self._proving = asyncio.Lock()
        self._persistent_checks: Sequence[Check] = ()

    @classmethod
    def from_options(cls, options: BackendOptions) -> Self:
        """Return a backend that is not open yet."""
        return cls(system=options.system, pool=options.pool)

    # What a backend adds

    @abc.abstractmethod
    def unavailable_reason(self) -> str | None:
        """See `Backend.unavailable_reason`."""

    @abc.abstractmethod
    def network_refusal(self, mode: NetworkMode) -> str | None:
        """See `Backend.network_refusal`."""

    @abc.abstractmethod
    def _install(self, runtime: Path, root: Path) -> None:
        """Put the backend's programs and files into the runtime folder and the root folder; may block.

        Raises:
            SandboxUnavailable: One is missing.
        """

    @abc.abstractmethod
    async def _prove(self) -> ProbeReport:
        """Run a sandbox that looks around, and judge what it saw.

        Raises:
            SandboxUnavailable: A promise of isolation is not kept.
        """

    @abc.abstractmethod
    async def _open_pool(self, config: PoolConfig) -> Pool | None:
        """Begin to make warm sandboxes; return None when there are none here."""

    @abc.abstractmethod
    def _open_job(
        self, spec: SandboxSpec, sink: OutputSink | None, slot: Slot, sent: DescriptorStack
    ) -> JobStart:
        """Open everything that a job needs.

        Args:
            spec: A validated specification.
            sink: Sees output as it comes.
            slot: The job's; `_job_over` gives it back.
            sent: Gets the sandbox's descriptors, which are closed when the launcher has its copies.

        Raises:
            OSError: There is no room for it.
        """

    @abc.abstractmethod
    def _new_persistent(self, spec: PersistentSpec, slot: Slot, on_over: Callable[[Opening], None]) -> Opening:
        """Return a persistent sandbox that is still to be made; it calls `on_over` when nothing of it is left.

        Raises:
            SandboxUnavailable: It cannot be had here.
        """

    @abc.abstractmethod
    async def _examine_persistent(self) -> Sequence[Check]:
        """Make a persistent sandbox that looks around; return what such sandboxes have here."""

    # Opening and closing

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def host(self) -> HostResources:
        """What the backend has on this machine while it is open.

        Raises:
            SandboxError: It is not open.
        """
        if self._host is None:
            raise SandboxError("the backend is not open")
        return self._host

    @property
    def pool(self) -> Pool | None:
        """The warm sandboxes; None while the backend keeps none."""
        return self._pool

    @property
    def persistent(self) -> Collection[PersistentSandbox]:
        """The persistent sandboxes that exist."""
        return self._persistent

    @property
    def running(self) -> int:
        """Number of jobs whose sandboxes exist."""
        return len(self._jobs) + (0 if self._pool is None else len(self._pool.jobs))

    async def open(self) -> ProbeReport:
        """Set up the runtime folder and the launcher, and prove the isolation by running a sandbox.

        Raises:
            SandboxUnavailable: A part is missing or a promise is not kept; the message says which.
        """
        if self._host is not None:
            raise SandboxError("the backend is already open")
        try:
            runtime, token, root = await self._runtime.open()
            cgroup = await self._control.open(runtime, token)
            self._host = HostResources(
                self._control, cgroup, runtime, root, self._system, self._runtime.discard_fd, self._slots
            )
            report = await self._prove()
            if self.pool_config is not None:
                self._pool = await self._open_pool(self.pool_config)
        except BaseException:
            await self.close()
            raise
        return report

    def scratch(self) -> Path:
        """Return a private folder that the launcher removes when the server is gone; see `Backend.scratch`."""
        folder = self.host.runtime / "scratch"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    async def close(self) -> None:
        """Kill what runs; remove every process, folder and cgroup of this backend. Repeating does no harm."""
        self._host = None
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._persistent)), return_exceptions=True)
        jobs = list(self._jobs)
        if self._pool is not None:
            pool, self._pool = self._pool, None
            jobs += pool.jobs
            await pool.close()
        for job in jobs:
            job.cancel()
        if jobs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
        await self._control.close()
        self._runtime.close()

    async def _must_serve(self, network: NetworkMode) -> None:
        """Refuse a network mode that is not there; see to it that there is a launcher."""
        if self._control.lost or (self._reviving.locked() and self._host is None):
            await self._revive()
        if self._host is None:
            raise SandboxError("the backend is not open")
        if (why := self.network_refusal(network)) is not None:
            raise SandboxUnavailable(why)

    async def _revive(self) -> None:
        """Start a new launcher in place of one that was killed; its sandboxes died with it."""
        async with self._reviving:
            if not self._control.lost:
                return
            logger.warning("the launcher process died; starting a new one")
            await self.close()
            self._control = self._control.successor()
            try:
                await self.open()
            except BaseException:
                self._control.lost = True  # The next job tries again.
                raise

    # Jobs

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> SandboxJob:
        """Start one job; see `JobStarter.start`.

        Raises:
            InvalidSpecError: The specification cannot be carried out as written (also a `ValueError`).
            SandboxUnavailable: It asks for isolation that this backend does not have.
            SandboxError: The backend is closed or its launcher is gone.
        """
        validate(spec)
        await self._must_serve(spec.network)
        if self._pool is not None and (warm := await self._pool.start(spec, sink)) is not None:
            return warm
        host = self.host
        # What is sent is closed then: the launcher has its own copies.
        with DescriptorStack() as sent, host.slots.take() as slot:
            try:
                start = self._open_job(spec, sink, slot, sent)
            except OSError as error:
                raise SandboxError(f"cannot prepare a sandbox: {error}") from error
            slot.keep()
            job = start.job
            self._jobs.add(job)
            try:
                number = await host.control.start(job, start.request, list(start.descriptors.values()))
                job.group = host.cgroup.group_of(number)
            except BaseException:
                job.abandon()
                raise
            return job

    def _job_over(self, slot: Slot, job: SandboxJob) -> None:
        self._jobs.discard(job)
        slot.release()

    # Persistent sandboxes

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """Make or restore a persistent sandbox; see `Backend.open_persistent`.

        Raises:
            InvalidSpecError: The specification cannot be carried out as written (also a `ValueError`).
            SandboxUnavailable: It asks for isolation, or for an image, that cannot be had here.
            SandboxError: The backend is closed, or the sandbox could not be set up.
        """
        validate_persistent(spec)
        if spec.hot_image is not None and not self.capabilities.memory_snapshots:
            raise SandboxUnavailable(
                f"sandboxes of the backend {self.name} cannot start with memory and processes from a checkpoint"
            )
        await self._must_serve(spec.network)
        for check in await self.prove_persistent():
            if check.name == PERSISTENT and not check.ok:
                raise SandboxUnavailable(
                    f"persistent sandboxes are not available on this machine: {check.detail}"
                )
        return await self._open_persistent(spec)

    async def prove_persistent(self) -> Sequence[Check]:
        """Return what persistent sandboxes have here, found out the first time by making one.

        Raises:
            SandboxError: The backend is closed.
        """
        await self._must_serve(NetworkMode.ZEROTRUST)
        async with self._proving:
            if not self._persistent_checks:
                checks = await self._examine_persistent()
                if not all(check.ok for check in checks if check.name == PERSISTENT):
                    # It may pass.
                    return checks
                self._persistent_checks = checks
            return self._persistent_checks

    async def _open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        with self.host.slots.take() as slot:
            sandbox = self._new_persistent(spec, slot, partial(self._persistent_over, slot))
            self._persistent.add(sandbox)
            slot.keep()
        try:
            await sandbox.open()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    def _persistent_over(self, slot: Slot, sandbox: Opening) -> None:
        self._persistent.discard(sandbox)
        slot.release()
