"""The base class of the isolation backends; see the abstract methods of `HostBackend` for the parts to add."""

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
from unsandbox.sandbox.host.machine_view import MachineView, Processors
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
    """A persistent sandbox that is being created."""

    async def open(self) -> None:
        """Create the sandbox; when this returns, programs can be started in it."""


class Pool(Protocol):
    """The warm sandboxes of a backend."""

    @property
    def jobs(self) -> set[SandboxJob]:
        """The jobs that run in warm sandboxes."""

    async def start(self, spec: SandboxSpec, sink: OutputSink | None) -> SandboxJob | None:
        """Start a job in a warm sandbox; return None if none is ready or the job does not fit."""

    async def close(self) -> None:
        """Close every warm sandbox."""


@dataclass(frozen=True, slots=True)
class JobStart:
    """A job whose sandbox is about to be requested.

    Attributes:
        job: The job.
        request: The request to the launcher.
        descriptors: The sandbox's descriptors, by their numbers in the sandbox.
        processors: The processors that it runs on; `_job_over` gives them back.
    """

    job: SandboxJob
    request: Start
    descriptors: Mapping[int, int]
    processors: Processors


class HostBackend(abc.ABC):
    """Runtime folder, launcher, slots, jobs and persistent sandboxes of one backend; implements `Backend`.

    As root, every sandbox runs as a separate user that owns no file on the machine. Without root, all sandboxes
    run as the server's user, each in its own user namespace.
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
        """Store the options; `open` does the rest.

        Args:
            runtime_dir: Parent of the backend's runtime folder; by default the first of the usual places for
                temporary files where programs may be executed.
            first_uid: As root, the first of the sandboxes' user ids; by default each server has its range.
            system: The source of the sandboxes' `/usr`.
            pool: The number of warm sandboxes; None for no pool.
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

    # For subclasses

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
        """Run the probe in a sandbox, and check its findings.

        Raises:
            SandboxUnavailable: The isolation is incomplete.
        """

    @abc.abstractmethod
    async def _open_pool(self, config: PoolConfig) -> Pool | None:
        """Open the pool of warm sandboxes; return None if the machine cannot have one."""

    @abc.abstractmethod
    def _open_job(
        self, spec: SandboxSpec, sink: OutputSink | None, slot: Slot, sent: DescriptorStack
    ) -> JobStart:
        """Open the files and streams of a job.

        Args:
            spec: A validated specification.
            sink: Receives output as it is written.
            slot: The job's slot; `_job_over` releases it.
            sent: Receives the sandbox's descriptors, which are closed when the launcher has copies.

        Raises:
            OSError: The disk is full, or too many files are open.
        """

    @abc.abstractmethod
    def _new_persistent(self, spec: PersistentSpec, slot: Slot, on_over: Callable[[Opening], None]) -> Opening:
        """Return a persistent sandbox that is not created yet; it calls `on_over` when it is completely gone.

        Raises:
            SandboxUnavailable: The machine cannot create it.
        """

    @abc.abstractmethod
    async def _examine_persistent(self) -> Sequence[Check]:
        """Run the probe in a persistent sandbox; return one check for each property of such sandboxes."""

    # Opening and closing

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def host(self) -> HostResources:
        """The resources of the open backend.

        Raises:
            SandboxError: It is not open.
        """
        if self._host is None:
            raise SandboxError("the backend is not open")
        return self._host

    @property
    def pool(self) -> Pool | None:
        """The pool of warm sandboxes; None if there is none."""
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
            SandboxUnavailable: A part is missing or the isolation is incomplete; the message has the details.
        """
        if self._host is not None:
            raise SandboxError("the backend is already open")
        try:
            runtime, token, root = await self._runtime.open()
            cgroup = await self._control.open(runtime, token)
            view, discard_fd = MachineView(runtime / "view"), self._runtime.discard_fd
            self._host = HostResources(
                self._control, cgroup, runtime, root, self._system, discard_fd, self._slots, view
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
        """Kill all sandboxes; remove every process, folder and cgroup of this backend. May be repeated."""
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
        """Refuse an unavailable network mode; start a new launcher if the old one has died."""
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

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> SandboxJob:
        """Start one job; see `JobStarter.start`.

        Raises:
            InvalidSpecError: The specification is invalid (also a `ValueError`).
            SandboxUnavailable: This backend does not have the requested isolation.
            SandboxError: The backend is closed or its launcher is gone.
        """
        validate(spec)
        await self._must_serve(spec.network)
        if self._pool is not None and (warm := await self._pool.start(spec, sink)) is not None:
            return warm
        host = self.host
        # The descriptors that were sent are closed afterwards: the launcher has copies.
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
                job.group = start.processors.group = host.cgroup.group_of(number)
            except BaseException:
                job.abandon()
                raise
            return job

    def _job_over(self, slot: Slot, job: SandboxJob, processors: Processors) -> None:
        self._jobs.discard(job)
        processors.release()
        slot.release()

    # Persistent sandboxes

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """Make or restore a persistent sandbox; see `Backend.open_persistent`.

        Raises:
            InvalidSpecError: The specification is invalid (also a `ValueError`).
            SandboxUnavailable: The machine does not have the requested isolation or checkpoint.
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
        """Return the checks of persistent sandboxes; the first call creates one to find out.

        Raises:
            SandboxError: The backend is closed.
        """
        await self._must_serve(NetworkMode.ZEROTRUST)
        async with self._proving:
            if not self._persistent_checks:
                checks = await self._examine_persistent()
                if not all(check.ok for check in checks if check.name == PERSISTENT):
                    # The cause may be temporary: check again next time.
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
