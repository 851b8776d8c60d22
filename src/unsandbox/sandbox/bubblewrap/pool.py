"""The warm pool: sandboxes that are up and wait, one job each, replaced in the background."""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from unsandbox.sandbox.bubblewrap.job_message import (
    PYTHON,
    commands_by_kind,
    encode_job,
    runs_in_process,
    waiting_kind,
)
from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.bubblewrap.template import Template
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.compile_cache import CompileCache, Compiled, read_program, with_program
from unsandbox.sandbox.host.descriptors import input_file, memory_file, pipe
from unsandbox.sandbox.host.job_streams import JobStreams
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.host.warm_sandbox import WarmJob, WarmSandbox
from unsandbox.sandbox.launcher.cgroups import Bounds, Group, Hierarchy, group_name
from unsandbox.sandbox.launcher.fd_numbers import ARGS_FD, ZYGOTE_FILE_FD
from unsandbox.sandbox.launcher.messages import PrepareWarm, StartZygote
from unsandbox.sandbox.launcher.zygotes import ZYGOTE_GONE
from unsandbox.sandbox.layout import shm_bytes
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Captured, Limits, NetworkMode, OutputSink, SandboxSpec
from unsandbox.sandbox.zygote.main import KIND_ANY

logger = logging.getLogger("unsandbox.sandbox")

_NICE = 5
"""Waiting sandboxes are made when nothing more urgent is to be done."""
_MAKING_AT_ONCE = 4
_FAILURES = 3
"""Sandboxes in a row that could not be made, after which the pool gives up, for good or for a while."""
_AGAIN_S = 60.0
"""How long a pool that served before rests then."""
_NEWS_S = 0.1
"""How long to wait for the news that the zygote itself is gone, when a sandbox could not be made."""
_CALM_S = 5.0
_OTHERS_CALM_S = 300.0
_REFILL_AFTER_S = 0.01
"""As long as half of a shelf is left, the programs that run have the processors before the preparation."""
_LONGEST_SAID = 1 << 15
"""A compiler that said more than this says it again. It must fit into a pipe that nobody reads yet."""


@dataclass(frozen=True, slots=True)
class BubblewrapPoolContext:
    """What this pool uses of its backend.

    Attributes:
        resources: What its sandboxes are made with.
        template: What zygotes are started in.
        python: Version of the interpreter in it.
    """

    resources: BubblewrapResources
    template: Template
    python: str


@dataclass(eq=False)
class _Zygote:
    """One zygote; implements `JobEvents`."""

    pool: WarmPool
    number: int = 0
    forks: int = 0
    alive: set[WarmSandbox] = field(default_factory=set)
    gone: bool = False

    def started(self, pid: int, pidfd: int) -> None:
        """It exists."""
        del pid
        os.close(pidfd)

    def ended(self, ending: Ending) -> None:
        """It is gone, and everything that it forked."""
        self.gone = True
        self.pool.zygote_ended(self, ending.error)


@dataclass(eq=False)
class _WarmQueue:
    """Sandboxes of one kind.

    Attributes:
        kind: What waits in them.
        least: How many wait when there is little to do.
        most: How many wait at most.
        rest_s: After so long without a job that had to wait, one less is kept.
        target: How many shall wait now.
    """

    kind: int
    least: int
    most: int
    rest_s: float
    target: int
    ready: deque[WarmSandbox] = field(default_factory=deque)
    making: set[WarmSandbox] = field(default_factory=set)
    waiting: deque[asyncio.Future[WarmSandbox | None]] = field(default_factory=deque)
    calm: asyncio.TimerHandle | None = None
    refilling: asyncio.TimerHandle | None = None

    def pop(self) -> WarmSandbox | None:
        """Return one that is ready, if there is any."""
        while self.ready:
            prepared = self.ready.popleft()
            if prepared.ready:
                return prepared
        return None

    def answer_waiters(self) -> None:
        """Tell whoever waits that nothing comes."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)


class WarmPool:
    """Hands out sandboxes that wait; belongs to one open backend.

    Args:
        context: The backend's part in it.
        config: How many wait.
    """

    def __init__(self, context: BubblewrapPoolContext, config: PoolConfig) -> None:
        self._context = context
        self._resources = context.resources
        self._host = host = context.resources.host
        self.jobs: set[SandboxJob] = set()
        """The jobs that run in its sandboxes."""
        self._config = config
        self._limits = config.limits
        self._hierarchy: Hierarchy | None = host.cgroup.hierarchy()
        self._commands = commands_by_kind(config.commands)
        self._files = context.template.files(
            context.resources.filter, context.python, config.folders, self._commands
        )
        self._mounted = frozenset(config.system_paths)
        self._bounds = _bounds(config.limits)
        self._counts_memory, self._counts_processes = (
            name in host.cgroup.parents for name in ("memory", "pids")
        )
        self._any = _WarmQueue(KIND_ANY, config.size, config.most, _CALM_S, config.size)
        # Filled when the first job of their language comes, and given up when none came for long.
        self._others = {
            kind: _WarmQueue(kind, 0, max(1, config.most // 8), _OTHERS_CALM_S, 0) for kind in self._commands
        }
        self._zygote: _Zygote | None = None
        self._next: _Zygote | None = None
        self._dismissed: set[WarmSandbox] = set()
        self._failures = 0
        self._compiled = CompileCache(host.system)
        self._closed = self._proven = False
        self._off: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """How many sandboxes wait for a job."""
        return len(self._any.ready)

    async def open(self) -> None:
        """Begin to fill the pool; it serves as soon as a sandbox of it has proved its isolation."""
        self._zygote = _Zygote(self)
        await self._start_zygote(self._zygote)
        self._run(self._prove())

    async def _prove(self) -> None:
        jobs: set[SandboxJob] = set()
        spec = SandboxSpec(run=probe.COMMAND, limits=self._limits)
        try:
            job = await self._start(spec, None, jobs)
            if job is not None:
                probe.report("the pool", probe.judge_outcome(await job.wait()))
                self._proven = True
        except SandboxError as error:
            self._give_up(str(error))
        finally:
            for left in jobs:
                left.cancel()

    async def start(self, spec: SandboxSpec, sink: OutputSink | None) -> WarmJob | None:
        """Start a job in a sandbox that waits; None when it needs one of its own.

        Args:
            spec: A validated specification.
            sink: See `Backend.start`.
        """
        if not self._proven or not self._suits(spec):
            return None
        return await self._start(spec, sink, self.jobs)

    async def _start(self, spec: SandboxSpec, sink: OutputSink | None, jobs: set[SandboxJob]) -> WarmJob | None:
        key, said = self._compiled.key_of(spec), b""
        if key is not None and (program := self._compiled.find(key)) is not None:
            spec, said, key = with_program(spec, program), program.said, None
        in_process = runs_in_process(spec, self._config.python_env)
        message, attached = encode_job(
            spec,
            in_process=in_process,
            report=key is not None,
            said=said,
            present=self._config.folders,
            known=self._config.python_env,
            quick_end=self._config.quick_end,
        )
        while (prepared := self._take_other(spec) or await self._take()) is not None:
            try:
                self._prepare_for(prepared, spec.limits)
                _send(prepared.control, message, attached, spec.stdin)
            except OSError as error:
                # It died while it waited.
                prepared.discard()
                logger.debug("a warm sandbox was lost: %s", error)
                continue
            # The program runs already; what it says waits in the socket and the pipes.
            try:
                job = WarmJob(
                    prepared,
                    spec,
                    discard_fd=self._host.discard_fd,
                    sink=sink,
                    on_over=jobs.discard,
                    on_compiled=None if key is None else partial(self._keep, key),
                )
            except BaseException:
                # Nobody would look after it.
                prepared.kill()
                raise
            jobs.add(job)
            job.begin()
            return job
        return None

    def _keep(self, key: tuple[str, bytes], fd: int, said: Captured) -> None:
        """Keep what a job has compiled, with what the compiler said."""
        read = read_program(fd, self._compiled.most_each)
        if read is not None and len(said.data) <= _LONGEST_SAID and not said.dropped_bytes:
            self._compiled.keep(key, Compiled(*read, said.data))

    async def close(self) -> None:
        """Let go of everything that waits."""
        self._closed = True
        if self._off is not None:
            self._off.cancel()
        for shelf in (self._any, *self._others.values()):
            for timer in (shelf.calm, shelf.refilling):
                if timer is not None:
                    timer.cancel()
            shelf.answer_waiters()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What a sandbox that waits can be used for

    def _suits(self, spec: SandboxSpec) -> bool:
        if self._closed or self._off is not None or self._zygote is None:
            return False
        ours, wanted = self._limits, spec.limits
        if (ours.open_files, ours.tmpfs_bytes) != (wanted.open_files, wanted.tmpfs_bytes):
            return False
        if wanted.processes > ours.processes or (
            wanted.processes < ours.processes and not self._counts_processes
        ):
            return False
        if not self._counts_memory and ours.memory_bytes != wanted.memory_bytes:
            # Without a group it was limited when it was made.
            return False
        if any(not isinstance(file.data, bytes) for file in spec.files):
            # The message would hold it in memory.
            return False
        return spec.network is NetworkMode.ZEROTRUST and self._mounted.issuperset(spec.system_paths)

    def _prepare_for(self, prepared: WarmSandbox, limits: Limits) -> None:
        if prepared.group is None:
            self._run(self._tell(self._host.control.watch, prepared.number))
        elif (bounds := _bounds(limits)) != self._bounds:
            # A group has room for a monitor and a script, which this sandbox does not have.
            processes = limits.processes - (0 if limits.processes == self._limits.processes else 2)
            prepared.group.change(replace(bounds, processes=max(0, processes)))

    # Taking and making

    def _take_other(self, spec: SandboxSpec) -> WarmSandbox | None:
        """Return a sandbox in which another interpreter waits for this program, if there is one."""
        kind = waiting_kind(spec, self._commands)
        if kind is None or _bounds(spec.limits) != self._bounds:
            return None
        shelf = self._others[kind]
        prepared = shelf.pop()
        if prepared is None or not shelf.ready:
            shelf.target = min(shelf.most, shelf.target + 1)
        self._rest_later(shelf, again=True)
        self._refill_soon(shelf)
        return prepared

    async def _take(self) -> WarmSandbox | None:
        shelf = self._any
        if (prepared := shelf.pop()) is not None:
            self._refill_soon(shelf)
            return prepared
        shelf.target = min(shelf.most, shelf.target + 1)
        waiter: asyncio.Future[WarmSandbox | None] = self._loop.create_future()
        shelf.waiting.append(waiter)
        self._refill(shelf)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (late := waiter.result()) is not None:
                self._on_ready(shelf, late)
            raise

    def _refill_soon(self, shelf: _WarmQueue) -> None:
        """Replace what was taken, when its job has been sent; later, when there are others."""
        if shelf.refilling is None:
            delay = _REFILL_AFTER_S if 2 * len(shelf.ready) >= shelf.target else 0.0
            shelf.refilling = self._loop.call_later(delay, self._refill, shelf)

    def _refill(self, shelf: _WarmQueue) -> None:
        """Make as many as are missing, a few at a time."""
        if shelf.refilling is not None:
            shelf.refilling.cancel()
            shelf.refilling = None
        if self._closed or self._off is not None:
            return
        self._rest_later(shelf)
        waiting = sum(not waiter.done() for waiter in shelf.waiting)
        missing = shelf.target + waiting - len(shelf.ready) - len(shelf.making)
        for _ in range(min(missing, _MAKING_AT_ONCE - len(shelf.making))):
            if (zygote := self._pick_zygote()) is None or not self._make(shelf, zygote, urgent=waiting > 0):
                return

    def _make(self, shelf: _WarmQueue, zygote: _Zygote, *, urgent: bool) -> bool:
        """Begin to make one; False when there is no room for it."""
        limits = self._limits
        with contextlib.ExitStack() as sent:
            try:
                slot = self._host.slots.take()
            except SandboxError:
                # As many live as may; whoever waits gets the same words on the way without a pool.
                shelf.answer_waiters()
                return False
            try:
                uid = slot.uid
                here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sent.enter_context(there)
                with contextlib.ExitStack() as kept:
                    kept.enter_context(here)
                    out_read, out_write = pipe(uid)
                    sent.callback(os.close, out_write)
                    kept.callback(os.close, out_read)
                    err_read, err_write = pipe(uid)
                    sent.callback(os.close, err_write)
                    kept.pop_all()
            except OSError as error:
                slot.release()
                self._failed(str(error))
                return False
            prepared = WarmSandbox(
                JobStreams(here, out_read, err_read),
                slot,
                on_ready=partial(self._on_ready, shelf),
                on_over=partial(self._on_over, shelf, zygote),
            )
            shelf.making.add(prepared)
            zygote.forks += 1
            zygote.alive.add(prepared)
            settings = (
                shelf.kind,
                -1 if uid is None else uid,
                int(urgent),
                limits.tmpfs_bytes,
                shm_bytes(limits.tmpfs_bytes),
                limits.open_files,
                limits.processes,
                0 if self._counts_memory else limits.memory_bytes,
            )
            request = PrepareWarm(zygote=zygote.number, bounds=self._bounds, settings=settings)
            fds = [there.fileno(), out_write, err_write]
            asking = self._run(self._ask(prepared, request, fds))
            asking.add_done_callback(partial(self._asked, prepared, sent.pop_all()))
        return True

    async def _ask(self, prepared: WarmSandbox, request: PrepareWarm, fds: list[int]) -> None:
        try:
            prepared.number = await self._host.control.start(prepared, request, fds)
        except SandboxError as error:
            prepared.ended(Ending(None, error=str(error)))
            return
        if self._hierarchy is not None:
            prepared.group = Group(self._hierarchy, group_name(prepared.number))

    @staticmethod
    def _asked(prepared: WarmSandbox, sent: contextlib.ExitStack, asking: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step never runs.
        sent.close()
        if asking.cancelled():
            prepared.ended(Ending(None, error="the pool was closed"))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    async def _tell(word: Callable[[int], Coroutine[Any, Any, None]], number: int) -> None:
        with contextlib.suppress(SandboxError):
            await word(number)

    # What becomes of them

    def _on_ready(self, shelf: _WarmQueue, prepared: WarmSandbox) -> None:
        self._failures = 0
        shelf.making.discard(prepared)
        if self._next is not None and prepared in self._next.alive:
            # It serves: from now on it is the one, and the old one ends with its last sandbox.
            old, self._zygote, self._next = self._zygote, self._next, None
            if old:
                self._retire(old)
        while shelf.waiting:
            waiter = shelf.waiting.popleft()
            if not waiter.done():
                waiter.set_result(prepared)
                break
        else:
            shelf.ready.append(prepared)
        self._refill(shelf)

    def _on_over(self, shelf: _WarmQueue, zygote: _Zygote, prepared: WarmSandbox, error: str | None) -> None:
        prepared.slot.release()
        was_made = prepared not in shelf.making
        shelf.making.discard(prepared)
        with contextlib.suppress(ValueError):
            shelf.ready.remove(prepared)
        zygote.alive.discard(prepared)
        if zygote is not self._zygote and zygote is not self._next:
            self._retire(zygote)
        if prepared in self._dismissed:
            self._dismissed.discard(prepared)
        elif prepared.job is None and not self._closed:
            if was_made or error == ZYGOTE_GONE:
                self._refill(shelf)
            else:
                why = error or "it ended before it was ready"
                self._loop.call_later(_NEWS_S, self._not_made, shelf, zygote, why)

    def _not_made(self, shelf: _WarmQueue, zygote: _Zygote, why: str) -> None:
        if not (zygote.gone or self._closed):
            # Else it is the zygote's end that counts, once for all that it was making.
            self._failed(why)
        self._refill(shelf)

    def _failed(self, why: str) -> None:
        logger.warning("a warm sandbox could not be created: %s", why)
        self._failures += 1
        if self._failures >= _FAILURES:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        """From now on every job gets a sandbox of its own making, which is slower and no less isolated.

        What served before may do so again: the machine may have been short of something, or somebody killed it.
        """
        self._any.answer_waiters()
        if not self._proven:
            logger.error("the pool of warm sandboxes is off: %s", why)
            self._closed = True
        elif self._off is None and not self._closed:
            logger.error("the pool of warm sandboxes is off for %g s: %s", _AGAIN_S, why)
            self._off = self._loop.call_later(_AGAIN_S, self._try_again)

    def _try_again(self) -> None:
        self._off = None
        self._failures = _FAILURES - 1
        if self._zygote is None:
            self._replace_zygote()
        else:
            self._refill(self._any)

    # Zygotes

    def _pick_zygote(self) -> _Zygote | None:
        zygote = self._zygote
        if zygote is not None and zygote.forks >= self._config.forks_per_zygote and self._next is None:
            self._next = _Zygote(self)
            self._run(self._start_zygote(self._next))
        if self._next is not None and self._next.number and not self._next.forks:
            # One sandbox, to find out whether it serves.
            return self._next
        return zygote

    async def _start_zygote(self, zygote: _Zygote) -> None:
        try:
            with contextlib.ExitStack() as sent:
                fds = self._zygote_descriptors(sent)
                request = StartZygote(
                    program=str(self._resources.program),
                    argv=("bwrap", "--args", str(ARGS_FD), "--", *PYTHON),
                    fds=tuple(fds),
                    bounds=self._bounds,
                    nice=_NICE if self._host.slots.users is not None else 0,
                )
                zygote.number = await self._host.control.start(zygote, request, list(fds.values()))
        except (OSError, SandboxError) as error:
            zygote.ended(Ending(None, error=str(error)))
            return
        self._refill(self._any)

    def _zygote_descriptors(self, sent: contextlib.ExitStack) -> dict[int, int]:
        def send(fd: int) -> int:
            sent.callback(os.close, fd)
            return fd

        # The kind of files that programs will find there; nothing is ever written to them.
        ends = [pipe(None) for _ in range(2)]
        for read, _ in ends:
            send(read)
        numbers = {path: fd for fd, path in enumerate(self._files, ZYGOTE_FILE_FD)}
        return {
            0: send(input_file(b"")),
            1: send(ends[0][1]),
            2: send(ends[1][1]),
            ARGS_FD: send(memory_file(self._context.template.arguments(numbers))),
            **{numbers[path]: send(memory_file(data)) for path, data in self._files.items()},
        }

    def zygote_ended(self, zygote: _Zygote, why: str | None) -> None:
        """Start another one in place of one that is gone."""
        if self._closed or zygote not in (self._zygote, self._next):
            return
        self._failed(f"the zygote has ended: {why or 'killed'}")
        if zygote is self._next:
            self._next = None
        else:
            self._zygote = None
            self._replace_zygote()

    def _replace_zygote(self) -> None:
        if not self._closed and self._off is None:
            self._zygote = _Zygote(self)
            self._run(self._start_zygote(self._zygote))

    def _retire(self, zygote: _Zygote) -> None:
        if not zygote.alive and not zygote.gone:
            self._run(self._tell(self._host.control.kill, zygote.number))

    def _rest_later(self, shelf: _WarmQueue, *, again: bool = False) -> None:
        if again and shelf.calm is not None:
            shelf.calm.cancel()
            shelf.calm = None
        if shelf.calm is None and shelf.target > shelf.least:
            shelf.calm = self._loop.call_later(shelf.rest_s, self._rest, shelf)

    def _rest(self, shelf: _WarmQueue) -> None:
        """Let a shelf shrink again, one at a time, when no job had to wait lately."""
        shelf.calm = None
        if shelf.target > shelf.least and not self._closed:
            shelf.target -= 1
            if len(shelf.ready) > shelf.target:
                self._dismissed.add(prepared := shelf.ready.popleft())
                prepared.discard()
            self._rest_later(shelf)


def _bounds(limits: Limits) -> Bounds:
    return Bounds(limits.memory_bytes, limits.processes, limits.vcpu)


def _send(control: socket.socket, message: bytes, attached: bytes | None, stdin: bytes) -> None:
    """Send a job to the sandbox that waits for it."""
    fds = []
    try:
        if attached is not None:
            fds.append(memory_file(attached))
        if stdin:
            fds.append(input_file(stdin))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        control.sendmsg([message], ancillary)
    finally:
        for fd in fds:
            os.close(fd)
