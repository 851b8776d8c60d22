"""The hardened backend: each sandbox has a separate kernel, gVisor's, which is an ordinary process of the host.

A program that attacks the kernel attacks gVisor, which is written in a memory-safe language. gVisor itself
may only make the few system calls that its seccomp filter allows, as a user that owns nothing, in separate
namespaces and a separate control group. The costs are slower system calls and a start of a fifth of a second
or more, which warm sandboxes avoid (`pool.py`).
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from unsandbox.sandbox.backend import Capabilities
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.gvisor import agent, probe, runsc
from unsandbox.sandbox.gvisor.files import archive_of, fetch
from unsandbox.sandbox.gvisor.persistent import AGENT, PYTHON, GvisorSandbox
from unsandbox.sandbox.gvisor.pool import GvisorSource
from unsandbox.sandbox.gvisor.resources import MEMORY, GvisorResources
from unsandbox.sandbox.host.backend import HostBackend, JobStart, Opening
from unsandbox.sandbox.host.descriptors import DescriptorStack, input_file, memory_file
from unsandbox.sandbox.host.job_streams import open_streams, socket_pair
from unsandbox.sandbox.host.persistent_probe import PERSISTENT, QUOTA, examine_persistent, persistent_checks
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.host.warm.pool import WarmPool
from unsandbox.sandbox.launcher.fd_numbers import ARCHIVE_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Check, NetworkMode, OutputSink, ProbeReport, SandboxSpec

NO_NETWORK = (
    "network mode semitrusted is not available in gVisor sandboxes: they have no network but their own "
    "loopback; use zerotrust, or isolation bubblewrap"
)


class GvisorBackend(HostBackend):
    r"""Sandboxes by gVisor's `runsc` on the platform systrap; implements `Backend`.

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
    capabilities = Capabilities(persistent=True, memory_snapshots=True, own_kernel=True)
    _runsc: runsc.Runsc | None = None

    @property
    def version(self) -> str:
        """Release of the `runsc` in use; empty before it is open."""
        return "" if self._runsc is None else self._runsc.version

    def unavailable_reason(self) -> str | None:
        """Return an error if `runsc` is missing; see `Backend.unavailable_reason`."""
        if runsc.candidates():
            return None
        return f"gVisor's runsc is not installed; the operator can install it: {runsc.HOW_TO_GET}"

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """Return why sandboxes cannot have a network mode; see `Backend.network_refusal`."""
        return None if mode is NetworkMode.ZEROTRUST else NO_NETWORK

    def _install(self, runtime: Path, root: Path) -> None:
        found = runsc.find()
        self._runsc = replace(found, path=_reachable_copy(found.path, runtime))
        _put_agent(root)
        # Where the file goes that tells the limit of memory; gVisor mounts its own /proc above.
        (root / MEMORY.lstrip("/")).touch(mode=0o644)

    def _resources(self) -> GvisorResources:
        if self._runsc is None:
            raise SandboxError("the backend is not open")
        return GvisorResources(self.host, self._runsc.path, self._runsc.version)

    async def _prove(self) -> ProbeReport:
        return await probe.examine(self, self._resources())

    async def _open_pool(self, config: PoolConfig) -> WarmPool:
        pool = WarmPool(GvisorSource(self._resources(), config), self.host)
        await pool.open()
        return pool

    # Jobs

    def _open_job(
        self, spec: SandboxSpec, sink: OutputSink | None, slot: Slot, sent: DescriptorStack
    ) -> JobStart:
        resources = self._resources()
        with DescriptorStack() as kept:
            streams, descriptors = open_streams(slot.uid, sent, kept, socket.SOCK_SEQPACKET)
            channel, descriptors[EXTRA_FD] = socket_pair(sent, kept)
            descriptors |= {
                0: sent.add(input_file(spec.stdin)),
                SCRIPT_FD: sent.add(memory_file(resources.job_script(spec))),
                ARCHIVE_FD: sent.add(memory_file(archive_of(spec))),
            }
            bundle = resources.job_bundle(spec, slot)
            kept.callback(shutil.rmtree, bundle, ignore_errors=True)
            spec = replace(spec, files=())

            processors = resources.host.view.assign(spec.limits.vcpu)

            def over(job: SandboxJob) -> None:
                self._job_over(slot, job, processors)
                channel.close()
                shutil.rmtree(bundle, ignore_errors=True)

            job = SandboxJob(
                spec,
                streams,
                discard_fd=resources.host.discard_fd,
                sink=sink,
                on_over=over,
                reader=lambda _: fetch(channel, spec),
            )
            # The job closes its ends, and `over` closes the rest.
            kept.pop_all()
        request = resources.job_request(bundle, spec.limits, slot, descriptors, processors)
        return JobStart(job, request, descriptors, processors)

    # Persistent sandboxes

    def _new_persistent(
        self, spec: PersistentSpec, slot: Slot, on_over: Callable[[Opening], None]
    ) -> GvisorSandbox:
        return GvisorSandbox(spec, self._resources(), slot, on_over=on_over)

    async def _examine_persistent(self) -> Sequence[Check]:
        if not self._system.has_program(PYTHON.rpartition("/")[2]):
            problem = f"sandboxes see no {PYTHON}; install python3, or un languages install python"
            return [Check(PERSISTENT, False, "refused", problem)]
        problem = await examine_persistent(self._open_persistent, probe.SCRIPT, probe.judge_persistent)
        quota = Check(QUOTA, True, "file system in gVisor's kernel")
        return persistent_checks(problem, self.host, "gVisor's kernel", quota)


def _put_agent(root: Path) -> None:
    """Put the first process of persistent sandboxes into their root folder."""
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
