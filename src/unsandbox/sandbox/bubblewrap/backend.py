"""The default backend: one bubblewrap sandbox per job, made and thrown away for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from unsandbox.sandbox import rootfs
from unsandbox.sandbox.bubblewrap.arguments import Mounts, sandbox_arguments
from unsandbox.sandbox.bubblewrap.outbound import Outbound, find_outbound, network_request
from unsandbox.sandbox.bubblewrap.persistent import BubblewrapSandbox
from unsandbox.sandbox.bubblewrap.persistent_probe import LASTING, examine_persistent, persistent_checks
from unsandbox.sandbox.bubblewrap.persistent_setup import BackendResources, refuse_memory_snapshot
from unsandbox.sandbox.bubblewrap.pool import BubblewrapPoolContext, WarmPool
from unsandbox.sandbox.bubblewrap.template import Template, python_version
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.descriptors import input_file, memory_file, pipe, readable_file
from unsandbox.sandbox.host.job_script import RUN_SCRIPT, job_script
from unsandbox.sandbox.host.launcher_client import CgroupReport, LauncherControl
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.cleanup import remove_runtime
from unsandbox.sandbox.launcher.disk_mount import CANNOT_MOUNT
from unsandbox.sandbox.launcher.fd_numbers import (
    ARGS_FD,
    CONTROL_FD,
    FIRST_FILE_FD,
    INFO_FD,
    SCRIPT_FD,
    SECCOMP_FD,
)
from unsandbox.sandbox.launcher.messages import Start
from unsandbox.sandbox.native.first_process import (
    NativePrograms,
    native_programs,
    persistent_first_process,
)
from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.seccomp import compiler as seccomp
from unsandbox.sandbox.spec import Check, NetworkMode, OutputSink, ProbeReport, SandboxSpec
from unsandbox.sandbox.storage.work_disk import DiskImages, images_usable
from unsandbox.sandbox.system import HOST, System
from unsandbox.sandbox.uid_ranges import USERS_PER_SERVER, available_users
from unsandbox.sandbox.validation import validate, validate_persistent

logger = logging.getLogger("unsandbox.sandbox")

_CLOSE_TIMEOUT_S = 5.0


class _Stays(Protocol):
    async def close(self) -> None: ...


class BubblewrapBackend:
    r"""Implements `Backend` with bubblewrap, seccomp and control groups.

    As root every live sandbox runs as a user of its own, one that no file on the machine belongs to. As an
    ordinary user all run as that user, each in its own user namespace.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     async with BubblewrapBackend() as backend:
        ...         job = await backend.start(SandboxSpec(run=["echo", "hello"]))
        ...         return (await job.wait()).stdout.data
        >>> asyncio.run(main())
        b'hello\n'
    """

    name = "bubblewrap"
    hot = False

    def __init__(
        self,
        runtime_dir: Path | None = None,
        *,
        first_uid: int | None = None,
        system: System = HOST,
        disk_dir: Path | None = None,
        pool: PoolConfig | None = None,
        native: NativePrograms | None = None,
    ) -> None:
        """Prepare nothing yet; `open` does.

        Args:
            runtime_dir: Folder in which the backend makes its own; by default the first of the usual places for
                temporary files where programs may be executed.
            first_uid: With root, sandboxes run as users from this number on; by default a range per server.
            system: Where the sandboxes' `/usr` comes from.
            disk_dir: Folder on a disk for the work folders of live sandboxes that name none; by default
                `/var/tmp`.
            pool: How many sandboxes wait for jobs; none by default.
            native: Machine code for first processes and the pool; by default what there is for this machine.
        """
        self._parent = runtime_dir
        self._system = system
        self._users = available_users()
        if self._users is not None and first_uid is not None:
            self._users = range(first_uid, first_uid + USERS_PER_SERVER)
        self._runtime: Path | None = None
        self._root: Path | None = None
        self._program: Path | None = None
        self._native = native_programs() if native is None else native
        self._init: Path | None = None
        self._init_command: tuple[str, ...] = ()
        self._outbound: Outbound | None = None
        self._no_network = "the backend is not open"
        self._filter = b""
        self._discard = -1
        self._control = LauncherControl()
        self._reviving = asyncio.Lock()
        self._cgroup = CgroupReport(0, [])
        self._jobs: dict[SandboxJob, int] = {}
        self._live: dict[_Stays, int] = {}
        self._disk_dir = disk_dir
        self._images: DiskImages | None = None
        self._no_images = ""
        """Why work folders cannot be images here."""
        self._proving = asyncio.Lock()
        self._persistent_checks: Sequence[Check] = ()
        self._pool_config = pool
        self._pool: WarmPool | None = None
        self._warm_jobs: set[SandboxJob] = set()
        self._free_slots: list[int] = []
        self._next_slot = 0
        self._open = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def running(self) -> int:
        """How many sandboxes live now."""
        return len(self._jobs) + len(self._warm_jobs)

    async def open(self) -> ProbeReport:
        """Set up the runtime folder and the launcher, and prove the isolation by running a sandbox.

        Raises:
            SandboxUnavailable: A part is missing or a promise is not kept; the message says which.
        """
        if self._open:
            raise SandboxError("the backend is open already")
        self._filter = seccomp.build()
        try:
            runtime, token = await asyncio.to_thread(self._prepare_files)
            self._discard = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            self._cgroup = await self._control.open(runtime, token)
            self._open = True
            report = await self._prove()
            await self._open_pool()
        except BaseException:
            await self.close()
            raise
        return report

    async def _open_pool(self) -> None:
        config, python = self._pool_config, python_version(self._system)
        if config is None or not config.size or python is None or self._program is None:
            return
        paths = self._mountable([*self._system.always_mounted, *config.system_paths])
        premises = BubblewrapPoolContext(
            control=self._control,
            cgroup=self._cgroup,
            discard_fd=self._discard,
            users=self._users,
            program=self._program,
            bpf=self._filter,
            template=Template(
                self._existing_root(),
                self._system,
                paths,
                config.python_env,
                os.geteuid() == 0,
                self._users is not None,
                self._native,
                config.quick_end,
            ),
            python=python,
            take_slot=self._take_slot,
            free_slot=self._free_slot,
        )
        self._pool = WarmPool(premises, config)
        await self._pool.open()

    async def _prove(self) -> ProbeReport:
        report = await probe.examine(self, self._cgroup, separate_users=self._users is not None)
        network = await probe.examine_network(self)
        if not network.ok and self._outbound is not None:
            self._outbound, self._no_network = None, network.detail
        return dataclasses.replace(report, checks=[*report.checks, network])

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """Say why sandboxes cannot have this network here; see `Backend.network_refusal`."""
        if mode is NetworkMode.ZEROTRUST or self._outbound is not None:
            return None
        return f"network mode {mode} is not available on this machine: {self._no_network}"

    def _network(self, mode: NetworkMode) -> Outbound | None:
        return self._outbound if mode is NetworkMode.SEMITRUSTED else None

    def _prepare_files(self) -> tuple[Path, str]:
        runtime, token = rootfs.make_runtime(self._parent)
        self._runtime = runtime
        self._program = rootfs.install_program(runtime)
        code, self._init_command = persistent_first_process(self._native)
        self._init = rootfs.install_init(runtime, code)
        self._root = rootfs.build_root(runtime, self._system)
        self._outbound = None
        try:
            self._outbound = find_outbound(runtime)
        except SandboxUnavailable as error:
            self._no_network = str(error)
        return runtime, token

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> SandboxJob:
        """Start one job; see `Backend.start`.

        Raises:
            InvalidSpecError: The specification cannot be carried out as written (also a `ValueError`).
            SandboxUnavailable: It asks for isolation that this backend does not have.
            SandboxError: The backend is closed or its launcher is gone.
        """
        validate(spec)
        await self._must_serve(spec.network)
        if (warm := await self._start_warm(spec, sink)) is not None:
            return warm
        slot = self._take_slot()
        uid = None if self._users is None else self._users[slot]
        # Closed when the request is sent: the launcher has its own copies then.
        with contextlib.ExitStack() as sent:
            try:
                descriptors, job = self._open_job(spec, sink, uid, sent)
            except OSError as error:
                heapq.heappush(self._free_slots, slot)
                raise SandboxError(f"cannot prepare a sandbox: {error}") from error
            except BaseException:
                heapq.heappush(self._free_slots, slot)
                raise
            self._jobs[job] = slot
            try:
                number = await self._control.start(
                    job, self._request(job, spec, uid, descriptors), list(descriptors.values())
                )
                job.group = self._cgroup.group_of(number)
            except BaseException:
                job.abandon()
                raise
            return job

    async def _start_warm(self, spec: SandboxSpec, sink: OutputSink | None) -> SandboxJob | None:
        """Start a job in a sandbox that waits; None when it needs one of its own."""
        return None if self._pool is None else await self._pool.start(spec, sink, self._warm_jobs)

    async def _close_pool(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def _must_serve(self, network: NetworkMode) -> None:
        """Refuse a network mode that is not there; see to it that there is a launcher."""
        if self._control.lost or (self._reviving.locked() and not self._open):
            await self._revive()
        if not self._open:
            raise SandboxError("the backend is not open")
        if (why := self.network_refusal(network)) is not None:
            raise SandboxUnavailable(why)

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """Make a sandbox that stays until it is closed; see `PersistentBackend.open_persistent`.

        Raises:
            InvalidSpecError: The specification cannot be carried out as written (also a `ValueError`).
            SandboxUnavailable: It asks for isolation that this backend does not have.
            SandboxError: The backend is closed, or the sandbox could not be set up.
        """
        validate_persistent(spec)
        refuse_memory_snapshot(spec)
        await self._must_serve(spec.network)
        refused = [
            check.detail for check in await self.prove_persistent() if check.name == LASTING and not check.ok
        ]
        if refused:
            raise SandboxUnavailable(f"sandboxes that stay cannot be had on this machine: {refused[0]}")
        return await self._open_persistent(spec)

    async def prove_persistent(self) -> Sequence[Check]:
        """Return what sandboxes that stay have here, found out the first time by making one.

        Raises:
            SandboxError: The backend is closed.
        """
        await self._must_serve(NetworkMode.ZEROTRUST)
        async with self._proving:
            if not self._persistent_checks:
                self._no_images = images_usable()
                problem = await examine_persistent(self._open_persistent)
                if CANNOT_MOUNT in problem:
                    # A container may show devices that it cannot use.
                    logger.warning("work folders have no quota of their own: %s", problem)
                    self._no_images = problem
                    problem = await examine_persistent(self._open_persistent)
                checks = persistent_checks(problem, self._cgroup.freezer, self._no_images, self._system)
                if problem:
                    # It may pass.
                    return checks
                self._persistent_checks = checks
            return self._persistent_checks

    async def _open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        slot = self._take_slot()
        sandbox = BubblewrapSandbox(spec, self._parts(slot, spec.network), on_over=self._live_over)
        self._live[sandbox] = slot
        try:
            await sandbox.open()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    def _parts(self, slot: int, network: NetworkMode) -> BackendResources:
        if self._program is None or self._init is None or self._runtime is None:
            raise SandboxError("the backend is not open")
        return BackendResources(
            control=self._control,
            cgroup=self._cgroup,
            program=self._program,
            init=self._init,
            init_command=self._init_command,
            root=self._existing_root(),
            system=self._system,
            mountable=self._mountable,
            filter=self._filter,
            runtime=self._runtime,
            images=self._disk_images(),
            discard_fd=self._discard,
            uid=None if self._users is None else self._users[slot],
            network=self._network(network),
        )

    def _disk_images(self) -> DiskImages | None:
        if self._no_images:
            return None
        if self._images is None:
            self._images = DiskImages(self._disk_dir or Path("/var/tmp"))  # noqa: S108 - files without a name
        return self._images

    async def _revive(self) -> None:
        """Start a new launcher in place of one that was killed; its sandboxes died with it."""
        async with self._reviving:
            if not self._control.lost:
                return
            logger.warning("the launcher process has died; starting a new one")
            await self.close()
            self._control = LauncherControl()
            try:
                await self.open()
            except BaseException:
                self._control.lost = True  # The next job tries again.
                raise

    def _open_job(
        self, spec: SandboxSpec, sink: OutputSink | None, uid: int | None, sent: contextlib.ExitStack
    ) -> tuple[dict[int, int], SandboxJob]:
        """Open every descriptor of a job; return those of the sandbox by their number there, and the job."""

        def send(fd: int) -> int:
            sent.callback(os.close, fd)
            return fd

        with contextlib.ExitStack() as kept:
            here, there = socket.socketpair()
            kept.enter_context(here)
            sent.enter_context(there)
            ends = []
            for _ in range(2):
                read, write = pipe(uid)
                kept.callback(os.close, read)
                ends.append((read, send(write)))
            (out_read, out_write), (err_read, err_write) = ends
            files = [send(readable_file(file.data)) for file in spec.files]
            descriptors = {
                0: send(input_file(spec.stdin)),
                1: out_write,
                2: err_write,
                CONTROL_FD: there.fileno(),
                ARGS_FD: send(memory_file(self._arguments(spec))),
                SECCOMP_FD: send(memory_file(self._filter)),
                SCRIPT_FD: send(memory_file(self._script(spec))),
                **dict(enumerate(files, FIRST_FILE_FD)),
            }
            job = SandboxJob(
                spec,
                control=here,
                stdout_fd=out_read,
                stderr_fd=err_read,
                discard_fd=self._discard,
                sink=sink,
                on_over=self._over,
            )
            # The job closes its ends itself.
            kept.pop_all()
            return descriptors, job

    def _arguments(self, spec: SandboxSpec) -> bytes:
        paths = self._mountable([*self._system.always_mounted, *spec.system_paths])
        return sandbox_arguments(
            spec,
            Mounts(self._existing_root(), self._system, paths, self._network(spec.network)),
            seccomp_fd=SECCOMP_FD,
            info_fd=INFO_FD,
            file_fds=range(FIRST_FILE_FD, FIRST_FILE_FD + len(spec.files)),
        )

    def _script(self, spec: SandboxSpec) -> bytes:
        counted = "memory" in self._cgroup.controllers
        return job_script(spec, data_bytes=None if counted else spec.limits.memory_bytes)

    def _request(
        self,
        job: SandboxJob,  # noqa: ARG002 - other backends keep things for each
        spec: SandboxSpec,
        uid: int | None,
        descriptors: Mapping[int, int],
    ) -> Start:
        return Start(
            program=str(self._program),
            argv=("bwrap", "--args", str(ARGS_FD), "--", "/bin/sh", "-c", RUN_SCRIPT, "sh"),
            fds=tuple(descriptors),
            bounds=Bounds(spec.limits.memory_bytes, spec.limits.processes, spec.limits.vcpu),
            uid=uid,
            network=network_request(self._network(spec.network)),
        )

    def _existing_runtime(self) -> Path:
        if self._runtime is None:
            raise SandboxError("the backend is not open")
        return self._runtime

    def scratch(self) -> Path:
        """Return a private folder that the launcher removes when the server is gone; see `Backend.scratch`."""
        folder = self._existing_runtime() / "scratch"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    async def close(self) -> None:
        """Kill what runs; remove every process, folder and cgroup of this backend. Harmless when repeated."""
        self._open = False
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._live)), return_exceptions=True)
        await self._close_pool()
        jobs = [*self._jobs, *self._warm_jobs]
        for job in jobs:
            job.cancel()
        if jobs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
        await self._control.close()
        if self._discard >= 0:
            os.close(self._discard)
            self._discard = -1
        if self._images is not None:
            self._images.close()
            self._images = None
        if self._runtime is not None:
            # The launcher has done it, unless it was killed.
            remove_runtime(self._runtime)
            self._runtime = None

    # Slots: each live sandbox has a number, and with it a user.

    def _take_slot(self) -> int:
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        if self._next_slot >= USERS_PER_SERVER:
            raise SandboxError(f"{USERS_PER_SERVER} sandboxes are running already")
        self._next_slot += 1
        return self._next_slot - 1

    def _free_slot(self, slot: int) -> None:
        heapq.heappush(self._free_slots, slot)

    def _over(self, job: SandboxJob) -> None:
        if (slot := self._jobs.pop(job, None)) is not None:
            heapq.heappush(self._free_slots, slot)

    def _live_over(self, sandbox: _Stays) -> None:
        if (slot := self._live.pop(sandbox, None)) is not None:
            heapq.heappush(self._free_slots, slot)

    # The root folder

    def _existing_root(self) -> Path:
        if self._root is None:
            raise SandboxError("the backend is not open")
        return self._root

    def _mountable(self, patterns: Sequence[str]) -> list[str]:
        found = self._system.existing(patterns)
        for path in found:
            rootfs.add_mount_point(self._existing_root(), path, self._system)
        return found
