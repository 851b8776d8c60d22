"""The default backend: bubblewrap, seccomp and control groups."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from unsandbox.sandbox import rootfs
from unsandbox.sandbox.backend import BackendOptions, Capabilities
from unsandbox.sandbox.bubblewrap.arguments import sandbox_arguments
from unsandbox.sandbox.bubblewrap.outbound import Outbound, find_outbound, network_request
from unsandbox.sandbox.bubblewrap.persistent import BubblewrapSandbox
from unsandbox.sandbox.bubblewrap.pool import BubblewrapSource
from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources, FirstProcess
from unsandbox.sandbox.bubblewrap.template import Template, python_version, root_can_fork
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.backend import HostBackend, JobStart, Opening
from unsandbox.sandbox.host.descriptors import DescriptorStack, input_file, memory_file, readable_file
from unsandbox.sandbox.host.job_script import RUN_SCRIPT, job_script
from unsandbox.sandbox.host.job_streams import open_streams
from unsandbox.sandbox.host.persistent_probe import QUOTA, examine_persistent, persistent_checks
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.host.warm.pool import PoolState, WarmPool
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.disk_mount import CANNOT_MOUNT
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, FIRST_FILE_FD, SCRIPT_FD, SECCOMP_FD
from unsandbox.sandbox.launcher.messages import Start
from unsandbox.sandbox.native.first_process import (
    NO_PROGRAMS,
    NativePrograms,
    native_programs,
    persistent_first_process,
)
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.seccomp import compiler as seccomp
from unsandbox.sandbox.spec import Check, NetworkMode, OutputSink, ProbeReport, SandboxSpec
from unsandbox.sandbox.storage.work_disk import DiskImages, images_usable
from unsandbox.sandbox.system import HOST, System

logger = logging.getLogger("unsandbox.sandbox")


POOL = "pool: warm sandboxes"
"""Name of the check whether warm sandboxes serve jobs."""
_POOL_TIMEOUT_S = 60.0
_NICE = 5
"""Warm sandboxes are created with low priority."""


class BubblewrapBackend(HostBackend):
    r"""Sandboxes by bubblewrap, with a seccomp filter and control groups; implements `Backend`.

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
    capabilities = Capabilities(persistent=True, outbound_network=True)

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
        """Store the options; `open` does the rest.

        Args:
            runtime_dir: See `HostBackend`.
            first_uid: See `HostBackend`.
            system: See `HostBackend`.
            disk_dir: Folder on a disk for the work folders of persistent sandboxes without a path; by default
                `/var/tmp`.
            pool: See `HostBackend`.
            native: Machine code for first processes and the pool; by default the programs for this machine.
        """
        super().__init__(runtime_dir, first_uid=first_uid, system=system, pool=pool)
        self._disk_dir = disk_dir or Path("/var/tmp")  # noqa: S108 - files without a name
        self.native = native_programs() if native is None else native
        self._program: Path | None = None
        self._init: FirstProcess | None = None
        self._filter = b""
        self._outbound: Outbound | None = None
        self._no_network = "the backend is not open"
        self._images: DiskImages | None = None
        self._no_images = ""
        """The reason why work folders cannot be images on this machine."""

    @classmethod
    def from_options(cls, options: BackendOptions) -> Self:
        """Return a backend that is not open yet; see `HostBackend.from_options`."""
        native = None if options.native_code else NO_PROGRAMS
        return cls(system=options.system, pool=options.pool, native=native)

    def unavailable_reason(self) -> str | None:
        """Return an error if bubblewrap is missing; see `Backend.unavailable_reason`."""
        return None if rootfs.find_program() else rootfs.NO_PROGRAM

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """Return why sandboxes cannot have a network mode; see `Backend.network_refusal`."""
        if mode is NetworkMode.ZEROTRUST or self._outbound is not None:
            return None
        return f"network mode {mode} is not available on this machine: {self._no_network}"

    def _install(self, runtime: Path, root: Path) -> None:  # noqa: ARG002 - nothing has to be in the root
        self._filter = seccomp.build()
        self._program = rootfs.install_program(runtime)
        code, command = persistent_first_process(self.native)
        self._init = FirstProcess(rootfs.install_init(runtime, code), command)
        self._outbound = None
        try:
            self._outbound = find_outbound(runtime)
        except SandboxUnavailable as error:
            self._no_network = str(error)

    async def _prove(self) -> ProbeReport:
        host = self.host
        report = await probe.examine(self, host.cgroup, separate_users=host.slots.users is not None)
        network = await probe.examine_network(self)
        if not network.ok and self._outbound is not None:
            self._outbound, self._no_network = None, network.detail
        return dataclasses.replace(report, checks=[*report.checks, network])

    async def _open_pool(self, config: PoolConfig) -> WarmPool | None:
        python = python_version(self._system)
        if not config.size or python is None:
            return None
        resources = self._resources(NetworkMode.ZEROTRUST)
        host = resources.host
        as_root, users = root_can_fork(), host.slots.users
        template = Template(
            host.root,
            host.system,
            host.system_paths(config.system_paths),
            config.python_env,
            as_root=as_root,
            own_users=as_root and users is not None,
            # Root that may not become other users there: its warm sandboxes share one that owns nothing.
            uid=None if as_root or users is None else host.slots.take().uid,
            # Elsewhere, the first processes could not return to the normal priority.
            nice=_NICE if as_root else 0,
            view=host.view.folder,
            native=self.native,
            quick_end=config.quick_end,
        )
        pool = WarmPool(BubblewrapSource(resources, template, python, config), host)
        await pool.open()
        return pool

    async def prove_pool(self) -> Check:
        """Return whether warm sandboxes serve jobs, as soon as that is known."""
        if not isinstance(self._pool, WarmPool):
            return Check(POOL, self.pool_config is None, "off", "sandboxes see no python3")
        try:
            async with asyncio.timeout(_POOL_TIMEOUT_S):
                state = await self._pool.settled()
        except TimeoutError:
            return Check(POOL, False, "off", "no warm sandbox was ready in time")
        if state is PoolState.SERVING:
            return Check(POOL, True, "forks of a zygote")
        return Check(POOL, False, "off", self._pool.problem)

    async def close(self) -> None:
        """Kill and remove everything; see `Backend.close`."""
        await super().close()
        if self._images is not None:
            self._images.close()
            self._images = None

    def _resources(self, network: NetworkMode) -> BubblewrapResources:
        if self._program is None or self._init is None:
            raise SandboxError("the backend is not open")
        return BubblewrapResources(
            host=self.host,
            program=self._program,
            init=self._init,
            filter=self._filter,
            network=self._outbound if network is NetworkMode.SEMITRUSTED else None,
            forker=self.native.forker,
        )

    # Jobs

    def _open_job(
        self, spec: SandboxSpec, sink: OutputSink | None, slot: Slot, sent: DescriptorStack
    ) -> JobStart:
        resources = self._resources(spec.network)
        host, limits = resources.host, spec.limits
        with DescriptorStack() as kept:
            streams, descriptors = open_streams(slot.uid, sent, kept, socket.SOCK_SEQPACKET)
            files = [sent.add(readable_file(file.data)) for file in spec.files]
            view = host.view.show(slot.number, limits.vcpu, limits.memory_bytes)
            arguments = sandbox_arguments(spec, resources.mounts(spec.system_paths, spec.environment), view)
            script = job_script(spec, data_bytes=host.data_bytes(limits.memory_bytes))
            descriptors |= {
                0: sent.add(input_file(spec.stdin)),
                ARGS_FD: sent.add(memory_file(arguments)),
                SECCOMP_FD: sent.add(memory_file(resources.filter)),
                SCRIPT_FD: sent.add(memory_file(script)),
                **dict(enumerate(files, FIRST_FILE_FD)),
            }
            processors = host.view.assign(limits.vcpu)
            job = SandboxJob(
                spec,
                streams,
                discard_fd=host.discard_fd,
                sink=sink,
                on_over=lambda job: self._job_over(slot, job, processors),
            )
            # The job closes its ends.
            kept.pop_all()
        request = Start(
            program=str(resources.program),
            argv=("bwrap", "--args", str(ARGS_FD), "--", "/bin/sh", "-c", RUN_SCRIPT, "sh"),
            fds=tuple(descriptors),
            bounds=Bounds(limits.memory_bytes, limits.processes, limits.vcpu),
            uid=slot.uid,
            network=network_request(resources.network),
            cpus=processors.cpus,
        )
        return JobStart(job, request, descriptors, processors)

    # Persistent sandboxes

    def _new_persistent(
        self, spec: PersistentSpec, slot: Slot, on_over: Callable[[Opening], None]
    ) -> BubblewrapSandbox:
        images = self._disk_images()
        return BubblewrapSandbox(spec, self._resources(spec.network), images, slot, on_over=on_over)

    async def _examine_persistent(self) -> Sequence[Check]:
        self._no_images = images_usable()
        problem = await examine_persistent(self._open_persistent, probe.LOOK_AROUND, probe.judge)
        if CANNOT_MOUNT in problem:
            # A container may have device files that it cannot use.
            logger.warning("work folders have no disk quota: %s", problem)
            self._no_images = problem
            problem = await examine_persistent(self._open_persistent, probe.LOOK_AROUND, probe.judge)
        if self._no_images:
            quota = Check(QUOTA, False, "size looked at from time to time", self._no_images)
        else:
            quota = Check(QUOTA, True, "file system in an image")
        return persistent_checks(problem, self.host, "namespaces entered for each program", quota)

    def _disk_images(self) -> DiskImages | None:
        if self._no_images:
            return None
        if self._images is None:
            self._images = DiskImages(self._disk_dir)
        return self._images
