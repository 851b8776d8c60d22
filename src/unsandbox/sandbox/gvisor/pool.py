"""gVisor's source of warm sandboxes, in which gVisor's kernel has started before a job arrives.

In each sandbox a shell waits for one word. The sandbox has empty unnamed files for a job's script, its standard
input and an archive of its files. The server fills them and sends the word; from then on the sandbox behaves
like one that was created for the job.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from unsandbox.sandbox.gvisor import probe
from unsandbox.sandbox.gvisor.bundle import bounds
from unsandbox.sandbox.gvisor.files import archive_of, fetch
from unsandbox.sandbox.gvisor.resources import GvisorResources
from unsandbox.sandbox.host.descriptors import DescriptorStack, memory_file
from unsandbox.sandbox.host.job_streams import JobStreams, open_streams, socket_pair
from unsandbox.sandbox.host.machine_view import Processors
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.host.warm.pool import Starter, WarmEvents, WarmPool, WarmStart
from unsandbox.sandbox.host.warm.queue import QueuePolicy
from unsandbox.sandbox.host.warm.sandbox import WarmJob, WarmSandbox
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.fd_numbers import ARCHIVE_FD, CONTROL_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Limits, NetworkMode, OutputSink, SandboxSpec

_GO = b"\n"
# Loads the loader, the shell's helpers and the most popular interpreter into gVisor's caches.
_REHEARSAL = "for word in 'python3 -c 0' 'tar --version' cat find; do $word; done </dev/null >/dev/null 2>&1"
WAIT = (
    f"{_REHEARSAL}; echo ready >&{CONTROL_FD}; read -r _ <&{CONTROL_FD} || exit 1; . /proc/self/fd/{SCRIPT_FD}"
)
_LEAST = 2
_REST_S = 120.0
_MAKING_AT_ONCE = 2
_BREATH_S = 0.2
"""A delay, so that the job runs first: creating another sandbox takes half a second of CPU time."""


class GvisorWarmSandbox(WarmSandbox):
    """A warm sandbox with the empty files that its job will be written to.

    Args:
        streams: See `WarmSandbox`.
        slot: See `WarmSandbox`.
        events: The pool's callbacks.
        channel: The socket for artifacts.
        files: Descriptors of its files, by the number that each has inside.
        bundle: Its folder on the host.
        processors: The processors that it runs on.
    """

    def __init__(
        self,
        streams: JobStreams,
        slot: Slot,
        events: WarmEvents,
        *,
        channel: socket.socket,
        files: dict[int, int],
        bundle: Path,
        processors: Processors,
    ) -> None:
        super().__init__(streams, slot, on_ready=events.ready, on_over=events.over)
        self.channel = channel
        self.files = files
        self.bundle = bundle
        self.processors = processors

    def fill(self, number: int, data: bytes) -> None:
        """Write the content that the sandbox will read from a descriptor, without moving its position."""
        view, offset = memoryview(data), 0
        while view:
            written = os.pwrite(self.files[number], view, offset)
            view, offset = view[written:], offset + written

    def close_files(self) -> None:
        """Close the files, of which the sandbox has copies."""
        for fd in self.files.values():
            os.close(fd)
        self.files = {}

    def discard(self) -> None:
        """Close the descriptors, which ends a sandbox without a job."""
        super().discard()
        self.close_files()


class GvisorJob(WarmJob):
    """A job in a warm sandbox. Its result does not wait for the end of gVisor's kernel."""

    # Unlike in other warm sandboxes, gVisor's kernel holds the output open to the end.
    _look_again = SandboxJob._look_again  # noqa: SLF001 - its own base class
    _say = SandboxJob._say  # noqa: SLF001

    def _wind_up(self) -> None:
        super()._wind_up()
        if self._wound_up and self._exit_code is not None and self._ending is not None:
            # The tenant's programs are dead, and all their output is in the pipes.
            for stream in self._streams.values():
                stream.read_now()
                stream.close()
            self._maybe_finish()


class GvisorSource:
    """Creates warm sandboxes; implements `WarmSource`.

    Args:
        resources: The resources of the backend.
        config: What they are prepared for, and how many there are; none before the first job if its size is 0.
    """

    name = "gvisor"
    news_s = 0.0

    def __init__(self, resources: GvisorResources, config: PoolConfig) -> None:
        self._resources = resources
        self._config = config
        self._spec = SandboxSpec(run=["true"], limits=config.limits, system_paths=config.system_paths)
        self._counts = {"memory", "pids"} <= set(resources.host.cgroup.parents)
        # Each sandbox uses 20 MB.
        most = max(1, config.most // 8)
        self.policies = {
            0: QueuePolicy(
                least=min(config.size, most, _LEAST),
                most=most,
                making_at_once=_MAKING_AT_ONCE,
                rest_s=_REST_S,
                rest_after_last_job=True,
                refill_after_s=_BREATH_S,
                hurry_after_s=_BREATH_S,
            )
        }

    async def open(self, pool: WarmPool) -> None:
        """Do nothing, because sandboxes need no preparation; see `WarmSource.open`."""

    def rest(self) -> None:
        """Do nothing, because there are no resources besides the sandboxes; see `WarmSource.rest`."""

    def suits(self, spec: SandboxSpec) -> bool:
        """Return whether a job can run in a warm sandbox; see `WarmSource.suits`."""
        ours, wanted = self._config.limits, spec.limits
        return (
            spec.network is NetworkMode.ZEROTRUST
            and spec.environment is None
            and wanted.open_files <= ours.open_files
            and wanted.tmpfs_bytes == ours.tmpfs_bytes
            # Its kernel counted its processors when it started.
            and wanted.vcpu == ours.vcpu
            # Without a control group, its limits were fixed when it was created.
            and (self._counts or _bounds(wanted) == _bounds(ours))
            and set(self._config.system_paths).issuperset(spec.system_paths)
        )

    def kind_of(self, spec: SandboxSpec) -> int | None:  # noqa: ARG002 - there is one kind
        """See `WarmSource.kind_of`."""
        return None

    def message(self, spec: SandboxSpec) -> _Message:
        """Return a job as the contents of a sandbox's files; see `WarmSource.message`."""
        return _Message(spec, self._resources, self._config.limits)

    def make(
        self,
        kind: int,  # noqa: ARG002 - there is one
        slot: Slot,
        sent: DescriptorStack,
        events: WarmEvents,
        *,
        urgent: bool,  # noqa: ARG002 - all are made alike
    ) -> WarmStart:
        """Open a sandbox that starts with `WAIT`; see `WarmSource.make`."""
        resources = self._resources
        with DescriptorStack() as kept:
            streams, fds = open_streams(slot.uid, sent, kept, socket.SOCK_SEQPACKET)
            channel, fds[EXTRA_FD] = socket_pair(sent, kept)
            files = {}
            for number in (0, SCRIPT_FD, ARCHIVE_FD):
                files[number] = kept.add(memory_file(b""))
                # A separate open file, so that its reader can neither write nor move the server's position.
                fds[number] = sent.add(os.open(f"/proc/self/fd/{files[number]}", os.O_RDONLY | os.O_CLOEXEC))
            bundle = resources.job_bundle(self._spec, slot, WAIT)
            kept.pop_all()
        processors = resources.host.view.assign(self._config.limits.vcpu)
        sandbox = GvisorWarmSandbox(
            streams, slot, events, channel=channel, files=files, bundle=bundle, processors=processors
        )
        request = resources.job_request(bundle, self._config.limits, slot, fds, processors)
        return WarmStart(sandbox, request, list(fds.values()))

    def became_ready(self, sandbox: WarmSandbox) -> None:
        """Let gVisor's threads run on every processor: its kernel has counted those of its start."""
        processors = _own(sandbox).processors
        processors.group = sandbox.group
        processors.widen()

    def gone(self, sandbox: WarmSandbox) -> None:
        """Remove a sandbox's folder on the host; see `WarmSource.gone`."""
        own = _own(sandbox)
        own.close_files()
        if own.job is None:
            own.channel.close()
        own.processors.release()
        shutil.rmtree(own.bundle, ignore_errors=True)

    def knows_why(self, sandbox: WarmSandbox, error: str | None) -> bool:  # noqa: ARG002 - nothing else fails
        """See `WarmSource.knows_why`."""
        return False

    async def prove(self, start: Starter) -> None:
        """Run the probe of the backend in a warm sandbox; see `WarmSource.prove`."""
        await probe.examine(_Prover(start, self._config.limits), self._resources)


@dataclass(frozen=True, slots=True)
class _Message:
    """A job as the contents of a sandbox's files; implements `JobMessage`."""

    spec: SandboxSpec
    resources: GvisorResources
    prepared_for: Limits

    def send(self, sandbox: WarmSandbox) -> None:
        """See `JobMessage.send`."""
        own, spec = _own(sandbox), self.spec
        if own.group is not None and (wanted := _bounds(spec.limits)) != _bounds(self.prepared_for):
            own.group.change(wanted)
        self.resources.host.view.show(own.slot.number, spec.limits.vcpu, spec.limits.memory_bytes)
        # Warm sandboxes have an empty file as input, while a job without input has /dev/null.
        own.fill(SCRIPT_FD, self.resources.job_script(spec, () if spec.stdin else ["exec </dev/null"]))
        own.fill(0, spec.stdin)
        own.fill(ARCHIVE_FD, archive_of(spec))
        own.close_files()
        own.control.send(_GO)

    def watch(
        self, sandbox: WarmSandbox, sink: OutputSink | None, on_over: Callable[[SandboxJob], None]
    ) -> WarmJob:
        """See `JobMessage.watch`."""
        channel, spec = _own(sandbox).channel, replace(self.spec, files=())

        def over(job: SandboxJob) -> None:
            # The sandbox may be gone before all that it handed over is read.
            channel.close()
            on_over(job)

        return GvisorJob(
            sandbox,
            spec,
            discard_fd=self.resources.host.discard_fd,
            sink=sink,
            on_over=over,
            reader=lambda _: fetch(channel, spec),
        )


@dataclass(slots=True)
class _Prover:
    """Starts the probe in a warm sandbox, as a backend would."""

    starter: Starter
    limits: Limits
    name: str = "gvisor"

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> SandboxJob:
        return await self.starter(replace(spec, limits=self.limits), sink)


def _own(sandbox: WarmSandbox) -> GvisorWarmSandbox:
    if not isinstance(sandbox, GvisorWarmSandbox):
        raise TypeError("a warm sandbox of another backend")
    return sandbox


def _bounds(limits: Limits) -> Bounds:
    return bounds(limits.memory_bytes, limits.processes, limits.vcpu)
