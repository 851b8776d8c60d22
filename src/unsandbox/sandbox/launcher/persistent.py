"""The launcher's side of persistent sandboxes: their programs, freezing, limits and connections.

Every program in them is a child of the launcher, so the launcher gets its exit status: the process that
    entered the
namespaces for it has ended, and the launcher adopts orphans. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from unsandbox.sandbox.launcher import enter, messages
from unsandbox.sandbox.launcher.cgroups import Bounds, Group, held_memory, members
from unsandbox.sandbox.launcher.freezer import Freezer
from unsandbox.sandbox.launcher.messages import Answered, Ask

_KILL_ROUNDS = 20


@dataclass(slots=True)
class Program:
    """One program in a sandbox. `pid` is known when the entering process has reported it."""

    ask: int
    entering: int
    pipe: int
    pid: int | None = None


@dataclass(slots=True)
class PersistentState:
    """The launcher's record of a persistent sandbox, in addition to its `Job`."""

    uid: int | None
    freezer: Freezer
    group: Group | None
    bounds: Bounds
    first: int | None = None
    doors: enter.NamespaceHandles | None = None
    programs: list[Program] = field(default_factory=list)
    freezing: int | None = None
    """Number of the pending request to freeze, if any."""

    def held(self) -> Iterable[int]:
        """Return the pids of all processes of the tenant."""
        roots = [self.first, *(program.pid for program in self.programs if program.entering != program.pid)]
        return [member for root in roots if root is not None for member in members(root)]


class PersistentSandboxes:
    """All persistent sandboxes of one launcher."""

    def __init__(self, send: Callable[[Answered], None], poll: select.poll) -> None:
        """Create an empty collection.

        Args:
            send: Sends an answer to the server.
            poll: The launcher's poll object; the launcher calls `readable` for descriptors that `watches`
                accepts.
        """
        self._send = send
        self._poll = poll
        self._lives: dict[int, PersistentState] = {}
        self._pipes: dict[int, tuple[PersistentState, Program]] = {}
        self._connecting: set[int] = set()

    # Events of the launcher

    def add(self, job: int, live: PersistentState) -> None:
        """Add a sandbox that is being created."""
        self._lives[job] = live

    def found_first(self, job: int, pid: int, pidfd: int) -> None:
        """Record the first process of a sandbox, which can be entered from now on."""
        if (live := self._lives.get(job)) and live.doors is None:
            live.first = pid
            with contextlib.suppress(OSError):
                live.doors = enter.open_namespaces(pid, pidfd)

    def kill(self, job: int) -> None:
        """Let a sandbox whose first process was killed die, even if it is frozen, and kill its helpers."""
        if live := self._lives.get(job):
            live.freezer.kill()
            for program in live.programs:
                if program.pid == program.entering:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(program.entering, signal.SIGKILL)

    def close(self) -> None:
        """Unfreeze everything and forget all programs, because the launcher ends."""
        for job in self._lives:
            self.kill(job)
        self._lives.clear()
        self._connecting.clear()

    def finish(self, job: int) -> Freezer | None:
        """Forget a sandbox that has ended; return its freezer, whose group the caller removes."""
        live = self._lives.pop(job, None)
        if live is None:
            return None
        if live.doors:
            live.doors.close()
        if live.freezing is not None:
            self._refuse(live.freezing, "the sandbox has ended")
        for program in list(live.programs):
            self._ended(live, program, 128 + signal.SIGKILL)
        return live.freezer

    def held_memory(self, job: int) -> int:
        """Return the memory of a sandbox's programs that are not descendants of its first process."""
        live = self._lives.get(job)
        return sum(held_memory(program.pid) for program in live.programs if program.pid) if live else 0

    def owns(self, pid: int) -> bool:
        """Return whether a child of the launcher is a program of a persistent sandbox, or will become one."""
        for pipe in list(self._pipes):
            self.readable(pipe)
        return pid in self._connecting or any(
            pid in (program.pid, program.entering) for live in self._lives.values() for program in live.programs
        )

    def watches(self, fd: int) -> bool:
        """Return whether a descriptor belongs to this collection."""
        return fd in self._pipes

    def readable(self, pipe: int) -> None:
        """Read the pid of a program from the process that entered for it, or its end without one."""
        live, program = self._pipes[pipe]
        try:
            data = os.read(pipe, 4)
        except BlockingIOError:
            return
        if data:
            program.pid = struct.unpack("=i", data)[0]
        self._close_pipe(program)
        if not data:
            self._ended(live, program, 127)

    def reaped(self, pid: int, status: int, used: resource.struct_rusage) -> bool:
        """Handle the end of a child; return whether it was a program of a persistent sandbox."""
        if not self.owns(pid):
            return False
        self._connecting.discard(pid)
        for live in self._lives.values():
            for program in live.programs:
                if program.pid == pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._ended(live, program, code if code >= 0 else 128 - code, used)
                    return True
                if program.entering == pid:
                    # The number may come back.
                    program.entering = -1
        return True

    @property
    def waiting(self) -> bool:
        """Return whether `look` should be called soon."""
        return any(live.freezing is not None for live in self._lives.values())

    def look(self) -> None:
        """Answer the requests to freeze that are complete."""
        for live in self._lives.values():
            if live.freezing is not None and live.freezer.frozen(live.held()):
                self._send(Answered(ask=live.freezing))
                live.freezing = None

    # Requests of the server

    def handle(self, request: Ask, fds: Sequence[int]) -> None:
        """Carry out a request; closes the descriptors."""
        try:
            live = self._lives.get(request.job)
            if live is None or live.doors is None:
                self._refuse(request.ask, "the sandbox has ended")
            else:
                self._handle(live, live.doors, request, fds)
        except OSError as error:
            self._refuse(request.ask, error.strerror or str(error))
        finally:
            for fd in fds:
                os.close(fd)

    def _handle(
        self, live: PersistentState, doors: enter.NamespaceHandles, request: Ask, fds: Sequence[int]
    ) -> None:
        match request:
            case messages.Spawn():
                self._spawn(live, doors, request.ask, fds)
                return
            case messages.SpawnHelper():
                self._spawn(live, doors, request.ask, fds, helper=True)
                return
            case messages.Freeze():
                live.freezer.freeze(live.held())
                live.freezing = request.ask
                self.look()
                return
            case messages.Connect():
                self._fork_helper(lambda: enter.become_connector(doors, live.uid, fds[0]))
            case messages.OpenLowPorts():
                self._fork_helper(lambda: enter.open_low_ports(doors, live.uid, fds[0]))
            case messages.Signal():
                self._signal(live, request)
            case messages.Unfreeze():
                live.freezer.thaw()
            case messages.ChangeLimits():
                self._set_limits(live, request)
        self._send(Answered(ask=request.ask))

    def _spawn(
        self,
        live: PersistentState,
        doors: enter.NamespaceHandles,
        ask: int,
        fds: Sequence[int],
        *,
        helper: bool = False,
    ) -> None:
        details, *others = fds
        data = os.pread(details, os.fstat(details).st_size, 0)
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            launcher = os.getpid()
            # A helper must be able to run while the tenant's programs are frozen.
            pid = os.fork() if helper else live.freezer.fork()
            if pid == 0:
                try:
                    if live.group and (helper or not live.freezer.nested):
                        live.group.enter()
                    enter.become_program(doors, live.uid, data, others, write, launcher)
                finally:
                    os._exit(127)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        program = Program(ask, pid, read)
        live.programs.append(program)
        self._pipes[read] = live, program
        self._poll.register(read, select.POLLIN)

    def _fork_helper(self, become: Callable[[], NoReturn]) -> None:
        pid = os.fork()
        if pid == 0:
            become()
        self._connecting.add(pid)

    def _signal(self, live: PersistentState, request: messages.Signal) -> None:
        """Send a signal to a program's process group, or to the whole session that it leads."""
        leader = request.pid
        for _ in range(_KILL_ROUNDS):
            found = [
                pid
                for pid in live.held()
                if pid == leader or leader in _groups(pid)[: 2 if request.session else 1]
            ]
            for pid in found:
                _send_signal(pid, leader, request.signal)
            # Several rounds, because the group may fork faster than it is killed.
            if not found or request.signal != signal.SIGKILL:
                break

    def _set_limits(self, live: PersistentState, request: messages.ChangeLimits) -> None:
        memory, vcpu = request.memory_bytes, request.vcpu
        live.bounds = Bounds(
            live.bounds.memory_bytes if memory is None else memory,
            live.bounds.processes,
            live.bounds.vcpu if vcpu is None else vcpu,
        )
        if live.group is not None:
            live.group.change(live.bounds)

    # The end of a program

    def _ended(
        self, live: PersistentState, program: Program, code: int, used: resource.struct_rusage | None = None
    ) -> None:
        self._close_pipe(program)
        live.programs.remove(program)
        answer = Answered(ask=program.ask, exit_code=code)
        if used is not None:
            cpu_s, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
            answer = replace(answer, cpu_s=cpu_s, peak_memory_bytes=peak)
        self._send(answer)

    def _close_pipe(self, program: Program) -> None:
        if self._pipes.pop(program.pipe, None):
            self._poll.unregister(program.pipe)
            os.close(program.pipe)
            # The number may come back, as another's.
            program.pipe = -1

    def _refuse(self, ask: int, why: str) -> None:
        self._send(Answered(ask=ask, error=why))


def _groups(pid: int) -> tuple[int, int] | tuple[()]:
    """Return the group and session of a process; None if it has ended or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()
    return () if fields[0] in "ZX" else (int(fields[2]), int(fields[3]))


def _send_signal(pid: int, leader: int, number: int) -> None:
    """Send a signal to a process of a group or session, unless its pid was reused meanwhile."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid == leader or leader in _groups(pid):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
