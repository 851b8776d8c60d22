"""gVisor sandboxes that are up and wait: the start of gVisor's kernel is paid before a job comes.

In each a shell waits for one word. Everything of a job lies in files without a name that were handed over
empty: its script, its standard input, an archive of its files. The server fills them, says the word, and from
there on all is as in a sandbox that was made for the job. Each serves one job and is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.gvisor import probe
from unsandbox.sandbox.gvisor.bundle import bounds
from unsandbox.sandbox.gvisor.files import archive_of, fetch
from unsandbox.sandbox.gvisor.resources import GvisorResources
from unsandbox.sandbox.host.descriptors import memory_file, pipe
from unsandbox.sandbox.host.job_streams import JobStreams
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.running_job import Collected, SandboxJob
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.host.warm_sandbox import WarmJob, WarmSandbox
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.fd_numbers import ARCHIVE_FD, CONTROL_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Limits, NetworkMode, OutputSink, SandboxSpec

logger = logging.getLogger("unsandbox.sandbox")

_GO = b"go\n"
# The loader, the shell's helpers and the most popular interpreter are in gVisor's caches when a job comes.
_REHEARSAL = "for word in 'python3 -c 0' 'tar --version' cat find; do $word; done </dev/null >/dev/null 2>&1"
WAIT = (
    f"{_REHEARSAL}; echo ready >&{CONTROL_FD}; read -r _ <&{CONTROL_FD} || exit 1; . /proc/self/fd/{SCRIPT_FD}"
)
_LEAST = 2
_FAILURES = 3
_REST_S = 120.0
"""After so long without a job one less is kept waiting."""
_MAKING_AT_ONCE = 2
_BREATH_S = 0.2


class _Waiting(WarmSandbox):
    """A sandbox on its way to be ready, ready, or in use, with the files that its job will be in."""

    bundle: Path
    channel: socket.socket
    files: dict[int, int]
    """Descriptors of its files, by the number that each has inside."""

    def fill(self, number: int, data: bytes) -> None:
        """Write what the sandbox will read from a descriptor; its position stays at the beginning."""
        view, offset = memoryview(data), 0
        while view:
            written = os.pwrite(self.files[number], view, offset)
            view, offset = view[written:], offset + written

    def let_go(self) -> None:
        """Close the files; the sandbox has its own descriptors."""
        for fd in self.files.values():
            os.close(fd)
        self.files = {}

    def discard(self) -> None:
        """Close the descriptors: a sandbox that waits for a job ends by that."""
        super().discard()
        self.let_go()


class GvisorJob(WarmJob):
    """A job in a sandbox that was waiting: it does not wait until gVisor's kernel is gone."""

    # Not as in other warm sandboxes: gVisor's kernel holds the output to the end.
    _look_again = SandboxJob._look_again  # noqa: SLF001 - its own base class

    def _wind_up(self) -> None:
        super()._wind_up()
        if self._wound_up and self._exit_code is not None and self._ending is not None:
            # The tenant's programs are dead, and what they wrote lies in the pipes.
            for stream in self._streams.values():
                stream.read_now()
                stream.close()
            self._maybe_finish()


class GvisorPool:
    """Hands out sandboxes that wait; belongs to one open backend. How many wait follows the jobs that come.

    Args:
        resources: What its sandboxes are made with.
        config: What they are prepared for, and how many wait; none before the first job if its size is 0.
    """

    def __init__(self, resources: GvisorResources, config: PoolConfig) -> None:
        self._resources = resources
        self._host = host = resources.host
        self.jobs: set[SandboxJob] = set()
        """The jobs that run in its sandboxes."""
        self.config = config
        # Each takes 20 MB, and half a second of a processor to make.
        self._most = max(1, config.most // 8)
        self._least = min(config.size, self._most, _LEAST)
        self._target = self._least
        self._spec = SandboxSpec(run=["true"], limits=config.limits, system_paths=config.system_paths)
        self._counts = {"memory", "pids"} <= set(host.cgroup.parents)
        self._ready: deque[_Waiting] = deque()
        self._making: set[_Waiting] = set()
        self._changed = asyncio.Event()
        """Set when one is ready, or is not made after all."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._proven = self._closed = False
        self._proving: asyncio.Task[None] | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Begin to fill the pool; it serves as soon as a sandbox of it has proved its isolation."""
        if self._least:
            self._refill()

    @property
    def waiting(self) -> int:
        """How many sandboxes wait for a job."""
        return len(self._ready)

    async def start(self, spec: SandboxSpec, sink: OutputSink | None) -> GvisorJob | None:
        """Start a job in a sandbox that waits; None when there is none, or it needs one of its own.

        Args:
            spec: A validated specification.
            sink: See `Backend.start`.
        """
        if self._closed or not self._suits(spec):
            return None
        job = self._take(spec, sink, self.jobs) if self._proven else None
        self._rest_later()
        if job is None:
            self._target = min(self._most, self._target + 1)
            self._refill()
        else:
            # The job comes first: to make another takes half a second of a processor.
            self._loop.call_later(_BREATH_S, self._refill)
        return job

    async def close(self) -> None:
        """Let go of everything that waits."""
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in (*self._ready, *self._making):
            waiting.discard()
        self._ready.clear()

    def _suits(self, spec: SandboxSpec) -> bool:
        ours, wanted = self.config.limits, spec.limits
        return (
            spec.network is NetworkMode.ZEROTRUST
            and wanted.open_files <= ours.open_files
            and wanted.tmpfs_bytes == ours.tmpfs_bytes
            # Without groups it was bounded when it was made.
            and (self._counts or _bounds(wanted) == _bounds(ours))
            and set(self.config.system_paths).issuperset(spec.system_paths)
        )

    # Taking

    def _take(self, spec: SandboxSpec, sink: OutputSink | None, jobs: set[SandboxJob]) -> GvisorJob | None:
        while self._ready:
            waiting = self._ready.popleft()
            if not waiting.ready:
                continue
            job = GvisorJob(
                waiting,
                spec,
                discard_fd=self._host.discard_fd,
                sink=sink,
                on_over=jobs.discard,
                reader=partial(_fetch, waiting.channel, spec),
            )
            jobs.add(job)
            try:
                self._send(waiting, spec)
            except OSError as error:
                # It died while it waited.
                job.abandon()
                logger.debug("a warm gVisor sandbox was lost: %s", error)
                continue
            return job
        return None

    def _send(self, waiting: _Waiting, spec: SandboxSpec) -> None:
        if waiting.group is not None and (wanted := _bounds(spec.limits)) != _bounds(self.config.limits):
            waiting.group.change(wanted)
        waiting.fill(SCRIPT_FD, self._resources.job_script(spec, () if spec.stdin else ["exec </dev/null"]))
        waiting.fill(0, spec.stdin)
        waiting.fill(ARCHIVE_FD, archive_of(spec))
        waiting.let_go()
        waiting.control.send(_GO)

    # Making

    def _refill(self) -> None:
        """Make as many as are missing, a few at a time; the first is to prove that it keeps its promises."""
        if not self._proven:
            if self._proving is None and not self._closed:
                self._proving = self._run(self._prove())
            return
        while (
            not self._closed
            and len(self._making) < _MAKING_AT_ONCE
            and len(self._ready) + len(self._making) < self._target
            and self._make()
        ):
            pass

    async def _prove(self) -> None:
        jobs: set[SandboxJob] = set()
        try:
            report = await probe.examine(
                _Prover(self, jobs),
                self._resources,
            )
            self._proven = report.usable
        except SandboxError as error:
            self._give_up(str(error))
        finally:
            for left in jobs:
                left.cancel()
        self._refill()

    async def first(self, spec: SandboxSpec, sink: OutputSink | None, jobs: set[SandboxJob]) -> GvisorJob:
        """Start a job in a sandbox made to wait, whether or not the pool is proven.

        Raises:
            SandboxUnavailable: None could be made.
        """
        self._make()
        while self._making:
            self._changed.clear()
            await self._changed.wait()
        job = self._take(spec, sink, jobs)
        if job is None:
            raise SandboxUnavailable("a warm gVisor sandbox could not be created")
        return job

    def _make(self) -> bool:
        """Begin to make one; False when there is no room for it."""
        try:
            slot = self._host.slots.take()
        except SandboxError:
            return False
        uid = slot.uid
        sent = contextlib.ExitStack()
        try:
            waiting, fds = self._open(slot, uid, sent)
        except OSError as error:
            sent.close()
            slot.release()
            self._failed(str(error))
            return False
        self._making.add(waiting)
        self._run(self._ask(waiting, uid, fds, sent))
        return True

    def _open(self, slot: Slot, uid: int | None, sent: contextlib.ExitStack) -> tuple[_Waiting, dict[int, int]]:
        with contextlib.ExitStack() as kept:
            here, there = socket.socketpair()
            kept.enter_context(here)
            sent.enter_context(there)
            channel, far = socket.socketpair()
            kept.enter_context(channel)
            sent.enter_context(far)
            reads, fds = [], {CONTROL_FD: there.fileno(), EXTRA_FD: far.fileno()}
            for number in (1, 2):
                read, fds[number] = pipe(uid)
                sent.callback(os.close, fds[number])
                kept.callback(os.close, read)
                reads.append(read)
            files = {}
            for number in (0, SCRIPT_FD, ARCHIVE_FD):
                files[number] = memory_file(b"")
                kept.callback(os.close, files[number])
                # Its reader can neither write nor move where the server is.
                fds[number] = os.open(f"/proc/self/fd/{files[number]}", os.O_RDONLY | os.O_CLOEXEC)
                sent.callback(os.close, fds[number])
            bundle = self._resources.job_bundle(self._spec, uid, WAIT)
            kept.pop_all()
        waiting = _Waiting(
            JobStreams(here, *reads),
            slot,
            on_ready=lambda _: self._on_ready(waiting),
            on_over=lambda _, error: self._on_over(waiting, error),
        )
        waiting.channel, waiting.files, waiting.bundle = channel, files, bundle
        return waiting, fds

    async def _ask(
        self, waiting: _Waiting, uid: int | None, fds: dict[int, int], sent: contextlib.ExitStack
    ) -> None:
        request = self._resources.job_request(waiting.bundle, self.config.limits, uid, fds)
        with sent:
            try:
                waiting.number = await self._host.control.start(waiting, request, list(fds.values()))
            except SandboxError as error:
                waiting.ended(Ending(None, error=str(error)))
                return
        waiting.group = self._host.cgroup.group_of(waiting.number)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # What becomes of them

    def _on_ready(self, waiting: _Waiting) -> None:
        self._failures = 0
        self._making.discard(waiting)
        self._ready.append(waiting)
        self._changed.set()
        self._refill()

    def _on_over(self, waiting: _Waiting, error: str | None) -> None:
        waiting.slot.release()
        waiting.let_go()
        waiting.channel.close()
        shutil.rmtree(waiting.bundle, ignore_errors=True)
        unmade = waiting in self._making
        self._making.discard(waiting)
        self._changed.set()
        with contextlib.suppress(ValueError):
            self._ready.remove(waiting)
        if unmade and not self._closed:
            self._failed(error or "it ended before it was ready")
        if waiting.job is None:
            self._refill()

    def _failed(self, why: str) -> None:
        logger.warning("a warm gVisor sandbox could not be created: %s", why)
        self._failures += 1
        if self._failures >= _FAILURES:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        """From now on every job gets a sandbox of its own making, which is slower and no less isolated."""
        logger.error("the pool of warm gVisor sandboxes is off: %s", why)
        self._closed = True

    # How many

    def _rest_later(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = self._loop.call_later(_REST_S, self._have_rest)

    def _have_rest(self) -> None:
        """Keep one less: no job came for a while."""
        self._target = max(self._least, self._target - 1)
        while len(self._ready) > self._target:
            self._ready.popleft().discard()
        self._rest = None
        if self._target > self._least:
            self._rest_later()


@dataclass(slots=True)
class _Prover:
    """Starts the probe in a sandbox that waits, as a backend would."""

    pool: GvisorPool
    jobs: set[SandboxJob]
    name: str = "gvisor"

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> SandboxJob:
        return await self.pool.first(replace(spec, limits=self.pool.config.limits), sink, self.jobs)


def _fetch(channel: socket.socket, spec: SandboxSpec, _job: SandboxJob) -> Collected:
    return fetch(channel, spec)


def _bounds(limits: Limits) -> Bounds:
    return bounds(limits.memory_bytes, limits.processes, limits.vcpu)
