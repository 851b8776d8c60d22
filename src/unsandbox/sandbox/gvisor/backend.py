"""The hardened backend: each job in a sandbox with a kernel of its own, gVisor's, an ordinary process outside.

A program that attacks the kernel attacks gVisor's, written in a memory-safe language, which itself may make
only the few system calls that its seccomp filter allows, as a user to whom nothing belongs, in namespaces and a
control group of its own. The price is dearer system calls, and its start, a fifth of a second and more, which
sandboxes that wait have paid beforehand (`gvisor_warm.py`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unsandbox.sandbox import rootfs
from unsandbox.sandbox.bubblewrap.backend import BubblewrapBackend
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.gvisor import agent, commands, probe, runsc
from unsandbox.sandbox.gvisor.bundle import (
    FirstProcess,
    bounds,
    configuration,
    make_bundle,
    runsc_words,
    write_configuration,
)
from unsandbox.sandbox.gvisor.files import archive_of, fetch, hand_over_lines, place_lines
from unsandbox.sandbox.gvisor.persistent import AGENT, PYTHON, BackendResources, GvisorSandbox
from unsandbox.sandbox.gvisor.pool import GvisorPool, GvisorPoolContext
from unsandbox.sandbox.host.descriptors import input_file, memory_file, pipe
from unsandbox.sandbox.host.job_script import RUN_SCRIPT, job_script
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.warm_sandbox import WarmJob
from unsandbox.sandbox.launcher.fd_numbers import ARCHIVE_FD, CONTROL_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.launcher.messages import Start
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Limits, NetworkMode, OutputSink, ProbeReport, SandboxSpec
from unsandbox.sandbox.system import HOST, System
from unsandbox.sandbox.validation import validate_persistent

NO_NETWORK = (
    "network mode semitrusted is not available in gVisor sandboxes: they have no network but their own "
    "loopback; use zerotrust, or isolation bubblewrap"
)


@dataclass(frozen=True, slots=True)
class _Job:
    """What a job has on the host besides its streams."""

    bundle: Path
    channel: socket.socket

    def close(self) -> None:
        self.channel.close()
        shutil.rmtree(self.bundle, ignore_errors=True)


class GvisorBackend(BubblewrapBackend):
    r"""Implements `Backend` with gVisor's `runsc` on the platform systrap, as root or as an ordinary user.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     async with GvisorBackend() as backend:
        ...         job = await backend.start(SandboxSpec(run=["echo", "hello"]))
        ...         return (await job.wait()).stdout.data
        >>> asyncio.run(main())  # doctest: +SKIP
        b'hello\n'
    """

    name = "gvisor"
    hot = True

    def __init__(
        self,
        runtime_dir: Path | None = None,
        *,
        first_uid: int | None = None,
        system: System = HOST,
        pool: PoolConfig | None = None,
    ) -> None:
        """Prepare nothing yet; `open` does. See `BubblewrapBackend`.

        Args:
            runtime_dir: As there.
            first_uid: As there.
            system: As there.
            pool: How many sandboxes wait for jobs; where its size is 0, none until the first has come.
        """
        super().__init__(runtime_dir, first_uid=first_uid, system=system, pool=pool)
        self._waiting: GvisorPool | None = None
        self._belongings: dict[SandboxJob, _Job] = {}
        self.version = ""
        """Release of the `runsc` in use, once open."""

    def _prepare_files(self) -> tuple[Path, str]:
        found = runsc.find()
        self.version = found.version
        runtime, token = rootfs.make_runtime(self._parent)
        self._runtime = runtime
        self._program = _reachable_copy(found.path, runtime)
        self._root = rootfs.build_root(runtime, self._system)
        _put_agent(self._root)
        return runtime, token

    async def _prove(self) -> ProbeReport:
        return await probe.examine(
            self, self._cgroup, version=self.version, separate_users=self._users is not None
        )

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """Say why sandboxes cannot have this network here; see `Backend.network_refusal`."""
        return None if mode is NetworkMode.ZEROTRUST else NO_NETWORK

    # One job

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
            channel, far = socket.socketpair()
            kept.enter_context(channel)
            sent.enter_context(far)
            ends = []
            for _ in range(2):
                read, write = pipe(uid)
                kept.callback(os.close, read)
                ends.append((read, send(write)))
            (out_read, out_write), (err_read, err_write) = ends
            descriptors = {
                0: send(input_file(spec.stdin)),
                1: out_write,
                2: err_write,
                CONTROL_FD: there.fileno(),
                EXTRA_FD: far.fileno(),
                SCRIPT_FD: send(memory_file(self._script(spec))),
                ARCHIVE_FD: send(memory_file(archive_of(spec))),
            }
            bundle = self._make_bundle(spec, uid)
            kept.callback(shutil.rmtree, bundle, ignore_errors=True)
            spec = replace(spec, files=())
            job = SandboxJob(
                spec,
                control=here,
                stdout_fd=out_read,
                stderr_fd=err_read,
                discard_fd=self._discard,
                sink=sink,
                on_over=self._over,
                reader=lambda _: fetch(channel, spec),
            )
            # The job closes its ends itself, and `_over` what else there is.
            kept.pop_all()
            self._belongings[job] = _Job(bundle, channel)
            return descriptors, job

    async def open_persistent(self, spec: PersistentSpec) -> GvisorSandbox:
        """Open or restore a persistent sandbox; see `PersistentBackend.open_persistent`.

        Raises:
            InvalidSpecError: The specification cannot be carried out as written (also a `ValueError`).
            SandboxUnavailable: It asks for a network, or for an image that cannot be restored here.
            SandboxError: The backend is closed, or the sandbox could not be set up.
        """
        if spec.network is not NetworkMode.ZEROTRUST:
            raise SandboxUnavailable(NO_NETWORK)
        validate_persistent(spec)
        if not self._system.has_program(PYTHON.rpartition("/")[2]):
            raise SandboxUnavailable(
                f"gVisor sandboxes that stay need {PYTHON} among what sandboxes see; install python3, or "
                "un languages install python"
            )
        await self._must_serve(spec.network)
        slot = self._take_slot()
        sandbox = GvisorSandbox(spec, self._gvisor_parts(slot), on_over=self._live_over)
        self._live[sandbox] = slot
        try:
            await sandbox.open()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    def _gvisor_parts(self, slot: int) -> BackendResources:
        return BackendResources(
            control=self._control,
            cgroup=self._cgroup,
            program=self._existing_program(),
            version=self.version,
            runtime=self._existing_runtime(),
            root=self._existing_root(),
            mounts=self._mounts,
            discard_fd=self._discard,
            uid=None if self._users is None else self._users[slot],
        )

    def _make_bundle(self, spec: SandboxSpec, uid: int | None, command: str = RUN_SCRIPT) -> Path:
        """Make the folder that describes one sandbox to `runsc`, with room for what that keeps of it."""
        bundle = make_bundle(self._existing_runtime(), uid)
        first = FirstProcess(
            command=["/bin/sh", "-c", command, "sh"],
            open_files=max(spec.limits.open_files, SCRIPT_FD + 8),
        )
        content = configuration(
            first,
            root=self._existing_root(),
            mounts=self._mounts(spec.system_paths),
            tmpfs_bytes=spec.limits.tmpfs_bytes,
            work_bytes=spec.limits.tmpfs_bytes,
        )
        write_configuration(bundle, content)
        return bundle

    def _mounts(self, system_paths: Sequence[str]) -> list[tuple[Path, str]]:
        names = self._mountable([*self._system.always_mounted, *system_paths])
        return [(self._system.usr, "/usr"), *((self._system.path(name), name) for name in names)]

    def _script(self, spec: SandboxSpec, before: Sequence[str] = ()) -> bytes:
        counted = "memory" in self._cgroup.controllers
        return job_script(
            spec,
            data_bytes=None if counted else spec.limits.memory_bytes,
            prepare=[*before, *place_lines(spec)],
            artifacts=hand_over_lines(spec),
            all_variables=True,
        )

    def _request(
        self, job: SandboxJob, spec: SandboxSpec, uid: int | None, descriptors: Mapping[int, int]
    ) -> Start:
        return self._run_request(self._belongings[job].bundle, spec.limits, uid, descriptors)

    def _run_request(
        self, bundle: Path, limits: Limits, uid: int | None, descriptors: Mapping[int, int]
    ) -> Start:
        passed = [word for fd in descriptors if fd > 2 for word in ("--pass-fd", f"{fd}:{fd}")]
        argv = [*runsc_words(bundle), "run", "--bundle", str(bundle), *passed, bundle.name]
        limit = bounds(limits.memory_bytes, limits.processes, limits.vcpu)
        return commands.request(self._existing_program(), uid, argv, descriptors, limit)

    def _existing_program(self) -> Path:
        if self._program is None:
            raise SandboxError("the backend is not open")
        return self._program

    # Sandboxes that wait

    async def _open_pool(self) -> None:
        config = self._pool_config
        if config is None:
            return
        premises = GvisorPoolContext(
            control=self._control,
            cgroup=self._cgroup,
            discard_fd=self._discard,
            users=self._users,
            version=self.version,
            make_bundle=self._make_bundle,
            request=self._run_request,
            # What they have is an empty file, and no input is /dev/null.
            script=lambda spec: self._script(spec, () if spec.stdin else ["exec </dev/null"]),
            archive=archive_of,
            take_slot=self._take_slot,
            free_slot=self._free_slot,
        )
        self._waiting = GvisorPool(premises, config)
        self._waiting.open()

    async def _start_warm(self, spec: SandboxSpec, sink: OutputSink | None) -> WarmJob | None:
        return None if self._waiting is None else self._waiting.start(spec, sink, self._warm_jobs)

    async def _close_pool(self) -> None:
        if self._waiting is not None:
            await self._waiting.close()
            self._waiting = None

    def _over(self, job: SandboxJob) -> None:
        super()._over(job)
        if belongings := self._belongings.pop(job, None):
            belongings.close()


def _put_agent(root: Path) -> None:
    """Put the first process of sandboxes that stay into their root folder."""
    target = root / AGENT.lstrip("/")
    target.parent.mkdir(mode=0o755)
    shutil.copyfile(agent.__file__, target)
    target.chmod(0o444)


def _reachable_copy(program: Path, runtime: Path) -> Path:
    """Return a path of `program` that every user can execute: its own, or a copy in the runtime folder."""
    steps: Sequence[Path] = (program, *program.resolve().parents)
    if os.geteuid() != 0 or all(step.stat().st_mode & stat.S_IXOTH for step in steps):
        return program
    copy = runtime / "runsc"
    shutil.copyfile(program, copy)
    copy.chmod(0o755)
    return copy
