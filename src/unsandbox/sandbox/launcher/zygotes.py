"""The launcher's side of warm sandboxes: passes requests to zygotes, and watches and cleans up their forks.

A zygote is started like any sandbox; this module adds the socket for its requests. A fork is watched through
its pidfd, which becomes readable when the process and everything in its sandbox have ended. Standard library
only: the launcher loads this.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unsandbox.sandbox.launcher.cgroups import Group, Usage, held_memory, used_cpu_s
from unsandbox.sandbox.launcher.groups import SandboxGroups
from unsandbox.sandbox.launcher.messages import Ended, First, Message, PrepareWarm

ZYGOTE_GONE = "the zygote is gone"
"""The error of a sandbox that was not created because its zygote ended, which has its own error."""
_MESSAGE = 1024


@dataclass(slots=True)
class Warm:
    """A warm sandbox that a zygote has forked or will fork."""

    number: int
    zygote: int
    group: Group | None
    memory_bytes: int
    pid: int = 0
    pidfd: int = -1
    killed: bool = False
    watched: bool = False
    peak: int = 0
    cpu_s: float | None = None
    out_of_memory: bool = False


class Zygotes:
    """All zygotes of one launcher and the sandboxes that came from them.

    Args:
        send: Sends a message to the server, with descriptors.
        groups: Makes and removes the control groups of sandboxes.
        poll: The poll object; the launcher calls `handle` for the descriptors registered here.
    """

    def __init__(
        self,
        send: Callable[[Message, Sequence[int]], None],
        groups: SandboxGroups,
        poll: select.poll,
    ) -> None:
        self._send = send
        self._groups = groups
        self._poll = poll
        self._sockets: dict[int, socket.socket] = {}
        self._by_fd: dict[int, int] = {}
        self._warm: dict[int, Warm] = {}
        self._by_pidfd: dict[int, Warm] = {}

    def add(self, number: int) -> int:
        """Create the socket of zygote `number`; return the zygote's end, which the caller closes."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        self._sockets[number] = here
        self._by_fd[here.fileno()] = number
        self._poll.register(here, select.POLLIN)
        return there.detach()

    def remove(self, number: int) -> None:
        """Forget a zygote that has ended, and its pending requests."""
        sock = self._sockets.pop(number, None)
        if sock is None:
            return
        self._poll.unregister(sock)
        del self._by_fd[sock.fileno()]
        sock.close()
        for warm in [warm for warm in self._warm.values() if warm.zygote == number and warm.pidfd < 0]:
            self._finish(warm, ZYGOTE_GONE)

    def prepare(self, request: PrepareWarm, fds: Sequence[int]) -> None:
        """Request a sandbox from a zygote, and close the descriptors."""
        number = request.job
        group: Group | None = None
        entrances: list[int] = []
        try:
            group = self._groups.make(number, request.bounds)
            entrances = group.entrances() if group else []
            attached = array.array("i", [*fds, *entrances])
            words = " ".join(map(str, (number, *request.settings)))
            self._sockets[request.zygote].sendmsg(
                [words.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, attached)]
            )
        except (OSError, KeyError) as error:
            self._groups.remove(group)
            gone = isinstance(error, KeyError | BrokenPipeError | ConnectionError)
            said = ZYGOTE_GONE if gone else f"cannot ask the zygote: {error}"
            self._send(Ended(job=number, exit_code=None, error=said), ())
        else:
            self._warm[number] = Warm(number, request.zygote, group, request.bounds.memory_bytes)
        finally:
            for fd in (*fds, *entrances):
                os.close(fd)

    def kill(self, number: int) -> bool:
        """Kill a warm sandbox; return False if no warm sandbox has this number."""
        warm = self._warm.get(number)
        if warm is None:
            return False
        warm.killed = True
        self._kill(warm)
        return True

    def watch(self, number: int) -> None:
        """Start to check the memory of a sandbox, which now has its job."""
        if (warm := self._warm.get(number)) is not None:
            warm.watched = True
            self._sample(warm)

    def watched(self) -> list[Warm]:
        """Return the sandboxes that have a job, where no group counts memory."""
        return [warm for warm in self._by_pidfd.values() if warm.watched]

    def handle(self, fd: int) -> bool:
        """Handle a zygote's message or a sandbox's end; return False for a foreign descriptor."""
        if (number := self._by_fd.get(fd)) is not None:
            self._read(number)
        elif (warm := self._by_pidfd.get(fd)) is not None:
            self._finish(warm)
        else:
            return False
        return True

    def check_memory(self) -> None:
        """Kill the sandboxes that use too much memory."""
        for warm in self.watched():
            held = self._sample(warm)
            if held > warm.memory_bytes and not warm.out_of_memory:
                warm.out_of_memory = True
                warm.cpu_s = used_cpu_s(warm.pid)
                self._kill(warm)

    def _sample(self, warm: Warm) -> int:
        """Return the bytes that a sandbox holds now, where no control group counts them."""
        held = 0 if self._groups.count_memory or warm.pidfd < 0 else held_memory(warm.pid)
        warm.peak = max(warm.peak, held)
        return held

    def _read(self, zygote: int) -> None:
        sock = self._sockets[zygote]
        try:
            data, fds, _, _ = socket.recv_fds(sock, _MESSAGE, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.remove(zygote)
        warm = self._warm.get(int(data)) if data.isdigit() else None
        if warm is not None and not fds:
            # The kernel dropped a descriptor because no number was free. The server closes the sandbox's
            # socket, which ends it.
            self._finish(warm, "too many open files in the launcher process")
        if warm is None or not fds:
            for fd in fds:
                os.close(fd)
            return
        warm.pidfd, *others = fds
        for fd in others:
            os.close(fd)
        warm.pid = _pid_of(warm.pidfd)
        self._by_pidfd[warm.pidfd] = warm
        self._poll.register(warm.pidfd, select.POLLIN)
        self._send(First(warm.number, warm.pid), (warm.pidfd,))
        # Before the job as well: it may be over when the launcher hears of it.
        self._sample(warm)
        if warm.killed:
            self._kill(warm)

    def _kill(self, warm: Warm) -> None:
        if warm.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(warm.pidfd, signal.SIGKILL)

    def _finish(self, warm: Warm, error: str | None = None) -> None:
        del self._warm[warm.number]
        if warm.pidfd >= 0:
            self._poll.unregister(warm.pidfd)
            del self._by_pidfd[warm.pidfd]
            os.close(warm.pidfd)
        usage = warm.group.usage() if warm.group else Usage()
        self._send(
            Ended(
                job=warm.number,
                exit_code=None if error else 0,
                cpu_s=warm.cpu_s if usage.cpu_s is None else usage.cpu_s,
                peak_memory_bytes=usage.peak_memory_bytes or warm.peak or None,
                out_of_memory=warm.out_of_memory or usage.oom_kills > 0,
                error=error,
            ),
            (),
        )
        self._groups.remove(warm.group)


def _pid_of(pidfd: int) -> int:
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, _, number = os.read(fd, _MESSAGE).partition(b"\nPid:")
    finally:
        os.close(fd)
    return int(number.split(None, 1)[0]) if number else -1
