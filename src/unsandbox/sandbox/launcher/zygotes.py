"""The launcher's side of warm sandboxes: passes requests to zygotes, watches and cleans up what they fork.

A zygote is started like any sandbox; this adds the socket on which it takes requests. What it forks is watched
through a descriptor of the process, which becomes readable at its end: the kernel has then ended everything in
the sandbox. Standard library only: this module is loaded by the launcher.
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

from unsandbox.sandbox.launcher.cgroups import Group, Usage, held_memory
from unsandbox.sandbox.launcher.groups import SandboxGroups
from unsandbox.sandbox.launcher.messages import Ended, First, Message, PrepareWarm

ZYGOTE_GONE = "the zygote is gone"
"""Why a sandbox was not made, when the reason is told for the zygote itself."""
_MESSAGE = 1024


@dataclass(slots=True)
class Warm:
    """One sandbox that a zygote forked or is asked to fork."""

    number: int
    zygote: int
    group: Group | None
    memory_bytes: int
    pid: int = 0
    pidfd: int = -1
    killed: bool = False
    watched: bool = False
    peak: int = 0
    out_of_memory: bool = False


class Zygotes:
    """All zygotes of one launcher and the sandboxes that came from them.

    Args:
        send: Sends a message to the server, with descriptors.
        groups: Makes and removes the control groups of sandboxes.
        poll: Where descriptors are registered that `handle` is to be called for.
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
        """Make the socket of zygote `number`; return the zygote's end, which is the caller's to close."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        self._sockets[number] = here
        self._by_fd[here.fileno()] = number
        self._poll.register(here, select.POLLIN)
        return there.detach()

    def remove(self, number: int) -> None:
        """Forget a zygote that is gone, and with it whatever it was still asked for."""
        sock = self._sockets.pop(number, None)
        if sock is None:
            return
        self._poll.unregister(sock)
        del self._by_fd[sock.fileno()]
        sock.close()
        for warm in [warm for warm in self._warm.values() if warm.zygote == number and warm.pidfd < 0]:
            self._finish(warm, ZYGOTE_GONE)

    def prepare(self, request: PrepareWarm, fds: Sequence[int]) -> None:
        """Ask a zygote for a sandbox. The descriptors are closed here."""
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
        """Kill a warm sandbox; False when the number is not that of one."""
        warm = self._warm.get(number)
        if warm is None:
            return False
        warm.killed = True
        self._kill(warm)
        return True

    def watch(self, number: int) -> None:
        """From now on look after the memory of a sandbox: it has its job."""
        if (warm := self._warm.get(number)) is not None:
            warm.watched = True

    def watched(self) -> list[Warm]:
        """Return the sandboxes that have a job, where no group counts memory."""
        return [warm for warm in self._by_pidfd.values() if warm.watched]

    def handle(self, fd: int) -> bool:
        """Take note of what a zygote says, or of a sandbox's end; False when the descriptor is not ours."""
        if (number := self._by_fd.get(fd)) is not None:
            self._read(number)
        elif (warm := self._by_pidfd.get(fd)) is not None:
            self._finish(warm)
        else:
            return False
        return True

    def check_memory(self) -> None:
        """Kill the sandboxes that hold too much."""
        for warm in self.watched():
            held = held_memory(warm.pid)
            warm.peak = max(warm.peak, held)
            if held > warm.memory_bytes and not warm.out_of_memory:
                warm.out_of_memory = True
                self._kill(warm)

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
            # The kernel drops a descriptor for which there is no room. Nobody could look after the sandbox; the
            # server closes its socket, which ends it.
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
                cpu_s=usage.cpu_s,
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
