"""The base class of the persistent sandboxes of all backends."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.host.process import SandboxProcess, communicate
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.host.sandbox_handle import SandboxHandle
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.launcher.messages import ChangeLimits
from unsandbox.sandbox.layout import WORK
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentSpec, RunningProcess, SandboxUsage
from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.validation import check_new_limits, check_port, check_program

SETUP_TIMEOUT_S = 60.0
_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program that a tenant starts in a persistent sandbox.

    Attributes:
        argv: Its command line.
        env: Its variables besides those of the sandbox.
        cwd: Its folder.
        terminal: Columns and rows of its terminal; None for pipes.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = WORK
    terminal: tuple[int, int] | None = None


class HostSandbox(abc.ABC):
    """A persistent sandbox: its life, freezing and limits; implements the launcher's `JobEvents`.

    A subclass creates the sandbox and starts programs in it.

    Args:
        spec: Its specification.
        host: The shared parts of all sandboxes of its backend.
        slot: Its slot.
        on_over: Called when the sandbox and its files are gone.
    """

    backend: str
    memory_overhead = 0
    """Bytes that the sandbox itself needs in its control group, in addition to the tenant's memory limit."""
    counts_processors = False
    """Whether it counts its processors once, at its start, and may then run on others."""

    def __init__(
        self, spec: PersistentSpec, host: HostResources, slot: Slot, on_over: Callable[[Any], None]
    ) -> None:
        self.frozen = False
        self.lasting: RunningProcess | None = None
        self.end_reason = ""
        """The reason, if this project ended the sandbox."""
        self.end_cause = "lost"
        self._spec = spec
        self._host = host
        self._slot = slot
        self._uid = slot.uid
        self._shown = spec.limits.vcpu, spec.limits.memory_bytes
        """Processors and memory that its programs see."""
        self._view = host.view.show(slot.number, *self._shown)
        self._processors = host.view.assign(spec.limits.vcpu)
        self._on_over = on_over
        self._handle = SandboxHandle(host.control)
        self._loop = asyncio.get_running_loop()
        self._ending: Ending | None = None
        self._ready = self._closed = False
        self._changing = asyncio.Lock()
        self._release: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """Its number at the launcher, which is part of the names of its control groups."""
        return self._handle.number

    # For subclasses

    @abc.abstractmethod
    async def _start_program(self, program: Program) -> SandboxProcess:
        """Start a program of the tenant."""

    @abc.abstractmethod
    async def _stop_all(self) -> None:
        """Suspend every process."""

    @abc.abstractmethod
    async def _continue_all(self) -> None:
        """Resume every process."""

    @abc.abstractmethod
    async def _hold_tenant(self) -> None:
        """Suspend the tenant's programs but let the engine's programs run; the sandbox may be frozen."""

    @abc.abstractmethod
    async def _let_tenant_go(self) -> None:
        """Restore the state before `_hold_tenant`: running or frozen."""

    @abc.abstractmethod
    async def _connect(self, port: int) -> int:
        """See `PersistentSandbox.connect`."""

    @abc.abstractmethod
    def _gone(self, ending: Ending) -> None:
        """Close the connections to the sandbox, which has no process any more. Called once."""

    @abc.abstractmethod
    def _remove_files(self) -> None:
        """Remove its files on the host; may block."""

    @abc.abstractmethod
    async def _save(self) -> None:
        """Save the persistent files before the sandbox is killed."""

    # Programs

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORK,
        terminal: tuple[int, int] | None = None,
    ) -> SandboxProcess:
        """Start a program; see `PersistentSandbox.spawn`.

        Raises:
            InvalidSpecError: An argument is invalid.
            SandboxError: The sandbox has ended or is frozen, or the program cannot be started.
        """
        program = Program(argv, env or {}, cwd, terminal)
        check_program(program.argv, program.env, cwd, terminal)
        async with self._going_on():
            return await self._start_program(program)

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = WORK,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        output_bytes: int = 10 * MIB,
    ) -> CommandOutcome:
        """Run a program to its end; see `PersistentSandbox.run`.

        Its background processes continue, but their later output is lost.
        """
        process = await self.spawn(argv, env=env, cwd=cwd)
        return await communicate(
            process,
            stdin,
            timeout_s=timeout_s,
            output_bytes=output_bytes,
            discard_fd=self._host.discard_fd,
        )

    async def connect(self, port: int) -> int:
        """Return a connected socket to a port inside; see `PersistentSandbox.connect`."""
        check_port(port)
        self._must_live()
        return await self._connect(port)

    # Freezing and limits

    async def freeze(self) -> None:
        """Suspend every process; see `PersistentSandbox.freeze`."""
        async with self._changing:
            self._must_live()
            if not self.frozen:
                await self._stop_all()
                self.frozen = True

    async def unfreeze(self) -> None:
        """Resume every process; see `PersistentSandbox.unfreeze`."""
        async with self._changing:
            self._must_live()
            if self.frozen:
                await self._continue_all()
                self.frozen = False

    @contextlib.asynccontextmanager
    async def _standing_still(self) -> AsyncIterator[None]:
        """Suspend the tenant's programs during the block; no program is started meanwhile."""
        async with self._changing:
            self._must_live()
            await self._hold_tenant()
            try:
                yield
            finally:
                if not self._handle.over.is_set():
                    await self._let_tenant_go()

    @contextlib.asynccontextmanager
    async def _going_on(self) -> AsyncIterator[None]:
        """Prevent freezing during the block: a program that is frozen while it starts would never report.

        Raises:
            SandboxError: It has ended, or is frozen.
        """
        self._must_live()
        async with self._changing:
            self._must_live()
            if self.frozen:
                raise SandboxError("the sandbox is frozen; unfreeze it first")
            yield

    async def set_limits(self, *, vcpu: float | None = None, memory_bytes: int | None = None) -> None:
        """Change limits; see `PersistentSandbox.set_limits`.

        Raises:
            InvalidSpecError: A limit is not positive.
            SandboxUnavailable: No control group on this machine can enforce it.
            SandboxError: The kernel refuses the change, for example because more memory is in use already.
        """
        check_new_limits(vcpu, memory_bytes)
        asked = [name for name, value in (("cpu", vcpu), ("memory", memory_bytes)) if value is not None]
        if missing := [name for name in asked if name not in self._host.cgroup.controllers]:
            raise SandboxUnavailable(
                f"limits of a running sandbox cannot be changed: no control group of {' or '.join(missing)} "
                "can be written; run as root, or have one delegated to this user"
            )
        self._must_live()
        memory = None if memory_bytes is None else memory_bytes + self.memory_overhead
        await self._handle.call(ChangeLimits, vcpu=vcpu, memory_bytes=memory)
        self._show(vcpu or self._shown[0], memory_bytes or self._shown[1])

    def settle(self) -> None:
        """Let what runs in it run on its processors, from now on also on others if those are too busy."""
        self._processors.group = self._host.cgroup.group_of(self._handle.number)
        if self.counts_processors:
            self._processors.widen()
        else:
            self._processors.move(self._processors.cpus)

    def _show(self, vcpu: float, memory_bytes: int) -> None:
        """Let its programs see new limits, and run on as many processors."""
        if vcpu != self._shown[0]:
            self._processors.release()
            self._processors = self._host.view.assign(vcpu)
            self.settle()
        self._shown = vcpu, memory_bytes
        self._host.view.show(self._slot.number, vcpu, memory_bytes)

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; see `PersistentSandbox.cpu_s`."""
        group = self._host.cgroup.group_of(self._handle.number)
        return None if group is None or self._handle.over.is_set() else group.cpu_s()

    def usage(self) -> SandboxUsage:
        """Return what the sandbox uses now; see `PersistentSandbox.usage`."""
        group = self._host.cgroup.group_of(self._handle.number)
        if group is None or self._handle.over.is_set():
            return SandboxUsage()
        used = group.usage(ended_well=True)
        processes = None if self.counts_processors else group.processes()
        return SandboxUsage(used.cpu_s, group.memory_in_use(), used.peak_memory_bytes, processes)

    def memory_kills(self) -> int:
        """Return how many processes were killed for memory; see `PersistentSandbox.memory_kills`."""
        group = self._host.cgroup.group_of(self._handle.number)
        return 0 if group is None or self._handle.over.is_set() else group.memory_kills()

    # Its end

    def ended(self, ending: Ending) -> None:
        """Record that no process of the sandbox is left."""
        if self._ending is not None:
            return
        self._ending = ending
        if ending.out_of_memory and not self.end_reason:
            self.end_reason, self.end_cause = "it used more memory than its limit", "memory"
        elif self._host.control.lost:
            self.end_reason, self.end_cause = "the launcher process has died", "node"
        self._handle.over.set()
        self._gone(ending)
        self._release = self._loop.create_task(self._wind_up())
        self._release.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _wind_up(self) -> None:
        try:
            await run_to_end(self._remove_files)
        finally:
            self._processors.release()
            self._on_over(self)

    async def wait_ended(self) -> None:
        """Return when the sandbox has ended by itself or was closed."""
        await self._handle.over.wait()

    async def close(self) -> None:
        """Save the files, kill the sandbox, and release its resources; see `PersistentSandbox.close`.

        Raises:
            SandboxError: It did not end in time.
        """
        if self._ready and not self._closed and not self._handle.over.is_set():
            await self._save()
        self._closed = True
        if not self._handle.number:
            self.ended(Ending(None, error="the sandbox was never started"))
        await self._handle.kill()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._handle.over.wait()
        except TimeoutError:
            raise SandboxError(f"the sandbox did not end within {_CLOSE_TIMEOUT_S:g} s") from None
        if self._release is not None:
            await asyncio.shield(self._release)

    def _must_live(self) -> None:
        if not self._ready or self._closed or self._handle.over.is_set():
            raise SandboxError(f"the sandbox has ended{self.end_reason and ': '}{self.end_reason}")
