"""The launcher's part in persistent sandboxes: programs started in them, freezing, limits, connections.

Every program started in one is a child of the launcher (the process that entered the namespaces for it has
ended, and orphans come to the launcher), so its exit status arrives here. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from unsandbox.sandbox.launcher import enter, messages
from unsandbox.sandbox.launcher.cgroups import Bounds, Group, held_memory, members
from unsandbox.sandbox.launcher.freezer import Freezer
from unsandbox.sandbox.launcher.messages import Answered, Ask

_KILL_ROUNDS = 20


@dataclass(slots=True)
class Program:
    """One program in a sandbox. `pid` is known when the process that entered for it has reported it."""

    ask: int
    entering: int
    pipe: int
    pid: int | None = None


@dataclass(slots=True)
class PersistentState:
    """What the launcher keeps of a persistent sandbox beside its `Job`."""

    uid: int | None
    freezer: Freezer
    group: Group | None
    bounds: Bounds
    first: int | None = None
    doors: enter.NamespaceHandles | None = None
    programs: list[Program] = field(default_factory=list)
    freezing: int | None = None
    """The request to freeze that still waits for its answer."""

    def held(self) -> Iterable[int]:
        """Return the numbers of all processes of the tenant."""
        roots = [self.first, *(program.pid for program in self.programs if program.entering != program.pid)]
        return [member for root in roots if root is not None for member in members(root)]


class PersistentSandboxes:
    """All persistent sandboxes of one launcher."""

    def __init__(self, send: Callable[[Answered], None], poll: select.poll) -> None:
        """Keep nothing yet.

        Args:
            send: Sends an answer to the server.
            poll: The launcher's, which calls `readable` for each descriptor that `watches` is true for.
        """
        self._send = send
        self._poll = poll
        self._lives: dict[int, PersistentState] = {}
        self._pipes: dict[int, tuple[PersistentState, Program]] = {}
        self._connecting: set[int] = set()

    # What the launcher tells

    def add(self, job: int, live: PersistentState) -> None:
        """Take note of a sandbox that is being made."""
        self._lives[job] = live

    def found_first(self, job: int, pid: int, pidfd: int) -> None:
        """The first process of a sandbox is known; from now on it can be entered."""
        if (live := self._lives.get(job)) and live.doors is None:
            live.first = pid
            with contextlib.suppress(OSError):
                live.doors = enter.open_namespaces(pid, pidfd)

    def kill(self, job: int) -> None:
        """See to it that a sandbox whose first process was killed dies, also when frozen, and its helpers."""
        if live := self._lives.get(job):
            live.freezer.kill()
            for program in live.programs:
                if program.pid == program.entering:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(program.entering, signal.SIGKILL)

    def close(self) -> None:
        """The end of the launcher: nothing stays frozen, and every program is an orphan from here on."""
        for job in self._lives:
            self.kill(job)
        self._lives.clear()
        self._connecting.clear()

    def finish(self, job: int) -> Freezer | None:
        """A sandbox is gone; return the group that is to be removed."""
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
        """Return the bytes held by the programs of a sandbox that are not descendants of its first process."""
        live = self._lives.get(job)
        return sum(held_memory(program.pid) for program in live.programs if program.pid) if live else 0

    def owns(self, pid: int) -> bool:
        """Whether a child of the launcher is a program here, or on its way to become one."""
        for pipe in list(self._pipes):
            self.readable(pipe)
        return pid in self._connecting or any(
            pid in (program.pid, program.entering) for live in self._lives.values() for program in live.programs
        )

    def watches(self, fd: int) -> bool:
        """Whether a descriptor of the loop is one of these."""
        return fd in self._pipes

    def readable(self, pipe: int) -> None:
        """A process that entered says which number its program has; or ended without."""
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

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the launcher has ended; return whether it was one of these."""
        if not self.owns(pid):
            return False
        self._connecting.discard(pid)
        for live in self._lives.values():
            for program in live.programs:
                if program.pid == pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._ended(live, program, code if code >= 0 else 128 - code)
                    return True
                if program.entering == pid:
                    # The number may come back.
                    program.entering = -1
        return True

    @property
    def waiting(self) -> bool:
        """Whether `look` should be called soon."""
        return any(live.freezing is not None for live in self._lives.values())

    def look(self) -> None:
        """Answer the requests to freeze that are fulfilled."""
        for live in self._lives.values():
            if live.freezing is not None and live.freezer.frozen(live.held()):
                self._send(Answered(ask=live.freezing))
                live.freezing = None

    # What the server asks

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
            # A helper must be able to work while the tenant's programs stand still.
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
        """Send a signal to a program and its process group, or all of the session that it leads."""
        leader = request.pid
        for _ in range(_KILL_ROUNDS):
            found = [
                pid
                for pid in live.held()
                if pid == leader or leader in _groups(pid)[: 2 if request.session else 1]
            ]
            for pid in found:
                _send_signal(pid, leader, request.signal)
            # A group that forks faster than it is killed.
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

    def _ended(self, live: PersistentState, program: Program, code: int) -> None:
        self._close_pipe(program)
        live.programs.remove(program)
        self._send(Answered(ask=program.ask, exit_code=code))

    def _close_pipe(self, program: Program) -> None:
        if self._pipes.pop(program.pipe, None):
            self._poll.unregister(program.pipe)
            os.close(program.pipe)
            # The number may come back, as another's.
            program.pipe = -1

    def _refuse(self, ask: int, why: str) -> None:
        self._send(Answered(ask=ask, error=why))


def _groups(pid: int) -> tuple[int, int] | tuple[()]:
    """Return a living process's group and session, nothing of one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()
    return () if fields[0] in "ZX" else (int(fields[2]), int(fields[3]))


def _send_signal(pid: int, leader: int, number: int) -> None:
    """Send a signal to a process of a group or session, unless its number has passed on meanwhile."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid == leader or leader in _groups(pid):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
