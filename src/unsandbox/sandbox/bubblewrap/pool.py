"""Bubblewrap's source of warm sandboxes: creates them, and sends jobs to them."""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

from unsandbox.sandbox.bubblewrap.job_message import (
    commands_by_kind,
    encode_job,
    runs_in_process,
    waiting_kind,
)
from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.bubblewrap.template import Template
from unsandbox.sandbox.bubblewrap.zygotes import Zygote, Zygotes
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.compile_cache import CompileCache, Compiled, read_program, with_program
from unsandbox.sandbox.host.descriptors import DescriptorStack, input_file, memory_file
from unsandbox.sandbox.host.job_streams import open_streams
from unsandbox.sandbox.host.machine_view import Processors
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.host.warm.pool import Starter, WarmEvents, WarmPool, WarmStart
from unsandbox.sandbox.host.warm.queue import QueuePolicy
from unsandbox.sandbox.host.warm.sandbox import WarmJob, WarmSandbox
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.messages import PrepareWarm
from unsandbox.sandbox.launcher.zygotes import ZYGOTE_GONE
from unsandbox.sandbox.layout import shm_bytes
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Captured, Limits, NetworkMode, OutputSink, SandboxSpec
from unsandbox.sandbox.zygote.main import KIND_ANY

_MAKING_AT_ONCE = 4
_CALM_S = 5.0
_OTHERS_CALM_S = 300.0
_REFILL_AFTER_S = 0.01
"""While half of a queue is left, running programs get the processors before the preparation does."""
_LONGEST_SAID = 1 << 15
"""Maximum size of cached compiler messages, which must fit into a pipe that nothing reads yet."""


class BubblewrapSource:
    """Creates warm sandboxes as forks of a zygote; implements `WarmSource`.

    Args:
        resources: The resources of the backend.
        template: The template of zygotes.
        python: Version of its interpreter.
        config: The configuration of the pool.
    """

    name = "bubblewrap"
    news_s = 0.1
    """The message that the zygote has ended may arrive after those of its sandboxes."""

    def __init__(
        self, resources: BubblewrapResources, template: Template, python: str, config: PoolConfig
    ) -> None:
        host = resources.host
        self._host = host
        self._config = config
        self._limits = config.limits
        self._bounds = _bounds(config.limits)
        self._mounted = frozenset(config.system_paths)
        self._counts_memory, self._counts_processes = (
            name in host.cgroup.parents for name in ("memory", "pids")
        )
        self._counts_cpu = host.cgroup.version == 2 or "cpuacct" in host.cgroup.parents
        self._commands = commands_by_kind(config.commands)
        self.policies = _policies(config, self._commands)
        self.compiled = CompileCache(host.system)
        self._pool: WarmPool | None = None
        self._template = template
        files = template.files(resources.filter, python, config.folders, self._commands)
        self._zygotes = Zygotes(
            resources,
            template,
            files,
            self._bounds,
            config.forks_per_zygote,
            on_started=self._zygote_started,
            on_failed=self._zygote_failed,
        )
        self._zygote_of: WeakKeyDictionary[WarmSandbox, Zygote] = WeakKeyDictionary()
        self.processors: WeakKeyDictionary[WarmSandbox, Processors] = WeakKeyDictionary()
        """Those of sandboxes that were sent a job which nobody watches yet."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, pool: WarmPool) -> None:
        """Start a zygote; see `WarmSource.open`."""
        self._pool = pool
        await self._zygotes.open()

    def rest(self) -> None:
        """End the zygotes; see `WarmSource.rest`."""
        self._zygotes.rest()

    def _zygote_started(self) -> None:
        if self._pool is not None:
            self._pool.refill()

    def _zygote_failed(self, why: str) -> None:
        if self._pool is not None:
            self._pool.failed(why)

    # Choice of sandboxes

    def suits(self, spec: SandboxSpec) -> bool:
        """Return whether a job can run in a warm sandbox; see `WarmSource.suits`."""
        if not self._zygotes.serving:
            return False
        ours, wanted = self._limits, spec.limits
        if (ours.open_files, ours.tmpfs_bytes) != (wanted.open_files, wanted.tmpfs_bytes):
            return False
        if wanted.processes > ours.processes or (
            wanted.processes < ours.processes and not self._counts_processes
        ):
            return False
        if not self._counts_memory and ours.memory_bytes != wanted.memory_bytes:
            # Without a control group, its limits were fixed when it was created.
            return False
        if wanted.cpu_s is not None and not self._counts_cpu:
            return False
        if any(not isinstance(file.data, bytes) for file in spec.files):
            # The message would hold the file in memory.
            return False
        return (
            spec.network is NetworkMode.ZEROTRUST
            and spec.environment is None
            and self._mounted.issuperset(spec.system_paths)
        )

    def kind_of(self, spec: SandboxSpec) -> int | None:
        """Return the kind whose interpreter can run this program; see `WarmSource.kind_of`."""
        return waiting_kind(spec, self._commands) if _bounds(spec.limits) == self._bounds else None

    def message(self, spec: SandboxSpec) -> _Message:
        """Return a job, encoded for the first process; see `WarmSource.message`."""
        key, said = self.compiled.key_of(spec), b""
        if key is not None and (program := self.compiled.find(key)) is not None:
            spec, said, key = with_program(spec, program), program.said, None
        data, attached = encode_job(
            spec,
            in_process=runs_in_process(spec, self._config.python_env),
            report=key is not None,
            said=b"" if spec.compile_apart else said,
            present=self._config.folders,
            known=self._config.python_env,
            quick_end=self._config.quick_end,
        )
        on_compiled = None if key is None else partial(self._keep, key)
        return _Message(spec, data, attached, self, self._host.discard_fd, on_compiled, said)

    def _keep(self, key: tuple[str, bytes], fd: int, said: Captured) -> None:
        """Cache a job's compiled program and the compiler's messages."""
        read = read_program(fd, self.compiled.most_each)
        if read is not None and len(said.data) <= _LONGEST_SAID and not said.dropped_bytes:
            self.compiled.keep(key, Compiled(*read, said.data))

    def prepare_for(self, sandbox: WarmSandbox, limits: Limits) -> None:
        """Set the limits of a job.

        Raises:
            OSError: Its group is gone.
        """
        if sandbox.group is None:
            task = asyncio.get_running_loop().create_task(self._watch(sandbox.number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (bounds := _bounds(limits)) != self._bounds:
            # The group's limit includes a monitor and a script, which this sandbox does not have.
            processes = limits.processes - (0 if limits.processes == self._limits.processes else 2)
            sandbox.group.change(replace(bounds, processes=max(0, processes)))

    def assign(self, sandbox: WarmSandbox, limits: Limits) -> Processors:
        """Show a sandbox the limits of its job, and assign it processors until the job is over."""
        view = self._host.view
        view.show(sandbox.slot.number, limits.vcpu, limits.memory_bytes)
        assigned = self.processors[sandbox] = view.assign(limits.vcpu)
        return assigned

    async def _watch(self, number: int) -> None:
        with contextlib.suppress(SandboxError):
            await self._host.control.watch(number)

    # Making

    def make(
        self, kind: int, slot: Slot, sent: DescriptorStack, events: WarmEvents, *, urgent: bool
    ) -> WarmStart | None:
        """Request a fork from a zygote; see `WarmSource.make`."""
        zygote = self._zygotes.pick()
        if zygote is None:
            return None
        with DescriptorStack() as kept:
            uid = slot.uid if self._template.own_users else self._template.uid
            streams, descriptors = open_streams(uid, sent, kept, socket.SOCK_SEQPACKET)
            sandbox = WarmSandbox(streams, slot, on_ready=events.ready, on_over=events.over)
            kept.pop_all()
        self._zygote_of[sandbox] = zygote
        zygote.forks += 1
        zygote.alive.add(sandbox)
        limits = self._limits
        settings = (
            kind,
            slot.uid if self._template.own_users and slot.uid is not None else -1,
            int(urgent),
            limits.tmpfs_bytes,
            shm_bytes(limits.tmpfs_bytes),
            limits.open_files,
            limits.processes,
            self._host.data_bytes(limits.memory_bytes) or 0,
            slot.number,
        )
        self._host.view.show(slot.number, limits.vcpu, limits.memory_bytes)
        request = PrepareWarm(zygote=zygote.number, bounds=self._bounds, settings=settings)
        return WarmStart(sandbox, request, list(descriptors.values()))

    def became_ready(self, sandbox: WarmSandbox) -> None:
        """See `WarmSource.became_ready`."""
        self._zygotes.became_ready(sandbox)

    def gone(self, sandbox: WarmSandbox) -> None:
        """See `WarmSource.gone`."""
        self._zygotes.lost(self._zygote_of[sandbox], sandbox)

    def knows_why(self, sandbox: WarmSandbox, error: str | None) -> bool:
        """Return whether its zygote has ended, which counts as one failure for all of its sandboxes."""
        return error == ZYGOTE_GONE or self._zygote_of[sandbox].gone

    async def prove(self, start: Starter) -> None:
        """Run the probe of the backend in a warm sandbox; see `WarmSource.prove`."""
        job = await start(SandboxSpec(run=probe.COMMAND, limits=self._limits), None)
        probe.report("the pool", probe.judge_outcome(await job.wait()))


@dataclass(frozen=True, slots=True)
class _Message:
    """A job for the first process of a warm sandbox; implements `JobMessage`."""

    spec: SandboxSpec
    data: bytes
    attached: bytes | None
    source: BubblewrapSource
    discard_fd: int
    on_compiled: Callable[[int, Captured], None] | None
    said: bytes
    """The compiler's messages of an earlier run."""

    def send(self, sandbox: WarmSandbox) -> None:
        """See `JobMessage.send`."""
        self.source.prepare_for(sandbox, self.spec.limits)
        processors = self.source.assign(sandbox, self.spec.limits)
        with DescriptorStack() as sent:
            fds = []
            if self.attached is not None:
                fds.append(sent.add(memory_file(self.attached)))
            if self.spec.stdin:
                fds.append(sent.add(input_file(self.spec.stdin)))
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sandbox.sent_at = time.monotonic()
            cpus = ",".join(map(str, processors.cpus)).encode()
            sandbox.control.sendmsg([cpus, b" ", self.data], ancillary)

    def watch(
        self, sandbox: WarmSandbox, sink: OutputSink | None, on_over: Callable[[SandboxJob], None]
    ) -> WarmJob:
        """See `JobMessage.watch`."""
        processors = self.source.processors.pop(sandbox, None)
        if processors is None:
            raise SandboxError("a warm sandbox serves one job only")
        processors.group = sandbox.group

        def over(job: SandboxJob) -> None:
            processors.release()
            on_over(job)

        job = WarmJob(
            sandbox,
            self.spec,
            discard_fd=self.discard_fd,
            sink=sink,
            on_over=over,
            on_compiled=self.on_compiled,
        )
        job.begin(self.said)
        return job


def _policies(config: PoolConfig, kinds: Iterable[int]) -> dict[int, QueuePolicy]:
    policies = {
        KIND_ANY: QueuePolicy(
            least=config.size,
            most=config.most,
            making_at_once=_MAKING_AT_ONCE,
            rest_s=_CALM_S,
            jobs_wait=True,
            refill_after_s=_REFILL_AFTER_S,
        )
    }
    # Filled with the first job of their language, and emptied when no job came for a while.
    other = QueuePolicy(
        least=0,
        most=max(1, config.most // 8),
        making_at_once=_MAKING_AT_ONCE,
        rest_s=_OTHERS_CALM_S,
        rest_after_last_job=True,
        keeps_spare=True,
        refill_after_s=_REFILL_AFTER_S,
    )
    return policies | dict.fromkeys(kinds, other)


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.memory_bytes, limits.processes, limits.vcpu)
