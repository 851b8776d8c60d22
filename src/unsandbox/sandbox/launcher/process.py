"""The launcher: a small process beside the server that starts sandboxes, counts what they use, and cleans up.

It is a separate process instead of `subprocess` in the server, for these reasons:

* Forking is cheap and safe here (few pages, one thread) and the server's event loop never waits for it.
* Between fork and exec the child can enter its control group, drop to its own user and set limits. From outside
  this is impossible or slow.
* Sandboxes die with the *thread* that started them (PR_SET_PDEATHSIG). The launcher's thread lives as long as
  the server, whatever thread the server's event loop runs in.
* Orphans of killed sandboxes become its children (PR_SET_CHILD_SUBREAPER), not those of the machine's first
  process, which may not reap them.
* It outlives a server that was killed with SIGKILL, long enough to remove the runtime folder and the groups.

It runs in a bare interpreter (no site packages, no environment) with a SOCK_SEQPACKET socket on descriptor 0.
Requests and answers are JSON with attached descriptors. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from unsandbox.sandbox.launcher import cleanup, enter, messages, syscalls
from unsandbox.sandbox.launcher.cgroups import Group, children, held_by_sentry, held_memory
from unsandbox.sandbox.launcher.connection import ServerConnection
from unsandbox.sandbox.launcher.fd_numbers import BLOCK_FD, INFO_FD, LIFE_FD, ZYGOTE_FD
from unsandbox.sandbox.launcher.groups import SandboxGroups
from unsandbox.sandbox.launcher.job import Job
from unsandbox.sandbox.launcher.messages import OpenPersistent, Start, StartZygote
from unsandbox.sandbox.launcher.network.gate import OutboundNetworks
from unsandbox.sandbox.launcher.network.setup import NetworkConfig
from unsandbox.sandbox.launcher.persistent import PersistentSandboxes, PersistentState
from unsandbox.sandbox.launcher.sandbox_program import become_sandbox
from unsandbox.sandbox.launcher.zygotes import Zygotes

_WATCH_INTERVAL_S = 0.05


class Launcher:
    """Serves one server until the server closes the socket or its process ends."""

    def __init__(
        self, sock: socket.socket, server_pid: int, runtime: Path, token: str, dead: Sequence[str]
    ) -> None:
        self._server = ServerConnection(sock)
        self._server_pid = server_pid
        self._runtime = runtime
        self._groups = SandboxGroups(cleanup.instance_name(server_pid, token), dead)
        self._jobs: dict[int, Job] = {}
        self._by_monitor: dict[int, Job] = {}
        self._by_info: dict[int, Job] = {}
        self._poll = select.poll()
        self._zygotes = Zygotes(self._server.send, self._groups, self._poll)
        self._networks = OutboundNetworks(self._poll, self._no_network)
        self._persistent = PersistentSandboxes(self._server.send, self._poll)
        self._lock = -1
        # Nothing is written to this pipe: its end tells first processes that the launcher has ended.
        self._life_read, self._life_write = os.pipe2(os.O_CLOEXEC)

    def run(self) -> None:
        """Serve; return when everything that belonged to the server is removed."""
        try:
            self._serve()
        finally:
            self._clean_up()

    def _serve(self) -> None:
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        server_life = self._watch_server()
        _set_up_process()
        self._prepare()
        for fd in (self._server.fileno(), wakeup_read, server_life):
            self._poll.register(fd, select.POLLIN)
        while not self._server.closed:
            for fd, _ in self._poll.poll(self._poll_timeout_ms()):
                if fd == self._server.fileno():
                    self._receive()
                elif fd == wakeup_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup_read, 4096)
                elif fd == server_life:
                    self._server.closed = True
                elif fd in self._by_info:
                    self._read_info(self._by_info[fd])
                elif self._persistent.watches(fd):
                    self._persistent.readable(fd)
                elif self._zygotes.handle(fd):
                    pass
                else:
                    self._networks.handle(fd)
            self._reap()
            self._watch()
            self._persistent.look()
            self._groups.remove_busy()

    def _watch_server(self) -> int:
        """Return a descriptor that becomes readable when the server's process ends."""
        try:
            fd = os.pidfd_open(self._server_pid)
        except ProcessLookupError:
            fd = os.open("/dev/null", os.O_RDONLY)
        # The server may have died, and its pid may be in use again, before this process started.
        self._server.closed = os.getppid() != self._server_pid
        return fd

    def _prepare(self) -> None:
        self._lock = cleanup.hold(self._runtime)
        ready = self._groups.open()
        cleanup.sweep([self._runtime.parent], remove_as_group=False)
        self._server.send(ready)

    def _poll_timeout_ms(self) -> float | None:
        if self._groups.busy or self._persistent.waiting:
            return 10 if self._groups.busy else 1
        if self._groups.count_memory:
            return None
        watched = self._zygotes.watched() or any(not job.zygote for job in self._jobs.values())
        return _WATCH_INTERVAL_S * 1000 if watched else None

    def _receive(self) -> None:
        if (received := self._server.receive()) is None:
            return
        request, fds = received
        match request:
            case Start():
                self._start(request, fds)
            case messages.PrepareWarm():
                self._zygotes.prepare(request, fds)
            case messages.Ask():
                self._persistent.handle(request, fds)
            case messages.Watch():
                self._zygotes.watch(request.job)
            case messages.Kill():
                if not self._zygotes.kill(request.job) and (job := self._jobs.get(request.job)):
                    job.killed = True
                    self._kill(job)
            case _:
                raise messages.MessageError("a message that is not for the launcher")

    # One job

    def _start(self, request: Start, fds: list[int]) -> None:
        number = request.job
        group: Group | None = None
        info_read, fds_to_close = -1, list(fds)
        try:
            info_read, info_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            fds_to_close.append(info_write)
            own = {INFO_FD: info_write}
            if isinstance(request, StartZygote):
                own[ZYGOTE_FD] = self._zygotes.add(number)
                fds_to_close.append(own[ZYGOTE_FD])
            else:
                group = self._groups.make(number, request.bounds)
            if request.network is not None:
                config = NetworkConfig(request.network.program, request.network.ipv6, request.uid, group)
                own[BLOCK_FD] = self._networks.prepare(number, config)
            launcher = os.getpid()
            place = None
            if isinstance(request, OpenPersistent):
                own[LIFE_FD] = self._life_read
                place = self._groups.make_freezer(number, group)
                self._persistent.add(number, PersistentState(request.uid, place, group, request.bounds))
            monitor = place.fork() if place else os.fork()
        except OSError as error:
            self._networks.close(number)
            for fd in (*fds_to_close, info_read):
                if fd >= 0:
                    os.close(fd)
            self._groups.remove(self._persistent.finish(number))
            self._groups.remove(group)
            self._server.send(
                messages.Ended(job=number, exit_code=None, error=f"cannot start a process: {error}")
            )
            return
        if monitor == 0:
            born_there = place is not None and place.nested
            become_sandbox(request, fds, own, None if born_there else group, launcher)
        self._networks.forked(number)
        for fd in fds_to_close:
            os.close(fd)
        job = Job(request, monitor, info_read, group)
        self._jobs[number] = self._by_monitor[monitor] = self._by_info[info_read] = job
        self._poll.register(info_read, select.POLLIN)

    def _read_info(self, job: Job) -> None:
        try:
            data = os.read(job.info_fd, 4096)
        except BlockingIOError:
            return
        job.info += data
        # The JSON object arrives in several writes.
        if data and not job.info.rstrip().endswith(b"}"):
            return
        self._close_info(job)
        if not job.info:
            if job.request.single_process and job.exit_status is None:
                # The program runs: its execution has closed the pipe.
                self._found_first(job, job.monitor)
            return
        if (child := job.reported_child()) is not None:
            self._found_first(job, child)

    def _close_info(self, job: Job) -> None:
        if job.info_fd >= 0:
            self._poll.unregister(job.info_fd)
            del self._by_info[job.info_fd]
            os.close(job.info_fd)
            job.info_fd = -1

    def _found_first(self, job: Job, pid: int) -> None:
        """Send the server a pidfd of the first process, which stays valid when the pid is reused."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError as error:
            # No descriptor is free, and without one the server cannot control the sandbox.
            job.error = f"cannot hold the sandbox: {error.strerror}"
            self._kill(job)
            return
        try:
            # The monitor is not reaped yet, so while this is true, the pid is still its child's.
            if _parent_of(pid) == (os.getpid() if job.request.single_process else job.monitor):
                job.first = pid
                # From here on the sandbox's namespaces exist, including the network namespace.
                self._persistent.found_first(job.number, pid, pidfd)
                self._server.send(messages.First(job.number, pid), (pidfd,))
                self._networks.attach(job.number, pid)
        finally:
            os.close(pidfd)
        if job.killed:
            self._kill(job)

    def _no_network(self, number: int, why: str) -> None:
        if (job := self._jobs.get(number)) is not None:
            job.error = job.error or why
            self._kill(job)

    def _kill(self, job: Job) -> None:
        """Kill the sandbox: all processes die with its first process, then the monitor exits."""
        if job.exit_status is not None:
            return
        if job.first is None and job.info_fd >= 0:
            # The first process is not known yet; it is killed as soon as it is reported.
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.first or job.monitor, signal.SIGKILL)
        self._persistent.kill(job.number)

    def _watch(self) -> None:
        """Kill sandboxes that use too much memory, where no control group counts it."""
        if self._groups.count_memory:
            return
        self._zygotes.check_memory()
        for job in self._jobs.values():
            if job.first is None or job.zygote:
                continue
            held = held_memory(job.first) + self._persistent.held_memory(job.number)
            if job.request.single_process:
                held += held_by_sentry(job.first)
            job.peak = max(job.peak, held)
            if held > job.request.bounds.memory_bytes and not job.out_of_memory:
                job.out_of_memory = True
                self._kill(job)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, rusage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if self._networks.reaped(pid, status):
                continue
            job = self._by_monitor.pop(pid, None)
            if job is None and self._persistent.reaped(pid, status, rusage):
                continue
            if job is None:
                # The monitor of this sandbox died first.
                for other in self._jobs.values():
                    other.first_gone = other.first_gone or other.first == pid
                continue
            if job.info_fd >= 0:
                self._read_info(job)
            job.exit_status, job.rusage = status, rusage
            if not os.WIFEXITED(status):
                # Processes that the monitor had not reaped are now children of this process.
                job.first_gone = job.first_gone or job.first not in children(os.getpid())
                self._kill_orphans()
        for job in [job for job in self._jobs.values() if job.over()]:
            self._finish(job)

    def _kill_orphans(self) -> None:
        """Kill the processes of monitors that ended unexpectedly.

        A sandbox asks to die with its monitor only after its set-up began. When the monitor is killed before
        that, its child waits for it for ever; as an orphan it has become a child of this process.
        """
        for pid in children(os.getpid()):
            if pid not in self._by_monitor and not self._persistent.owns(pid) and not self._networks.owns(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _finish(self, job: Job) -> None:
        del self._jobs[job.number]
        self._zygotes.remove(job.number)
        self._close_info(job)
        self._networks.close(job.number)
        self._server.send(job.ending())
        # The freezer's group first, because it may be inside the other one.
        for group in (self._persistent.finish(job.number), job.group):
            self._groups.remove(group)

    # The end

    def _clean_up(self) -> None:
        # From here on every child is an orphan.
        self._by_monitor.clear()
        self._persistent.close()
        self._networks.close_all()
        give_up = time.monotonic() + 5
        while time.monotonic() < give_up:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                # Again in each round: when a monitor ends, its child becomes a child of this process.
                self._kill_orphans()
                time.sleep(0.002)
        self._groups.close()
        cleanup.remove_runtime(self._runtime)


def _set_up_process() -> None:
    """Make this process the reaper of its children, with a high descriptor limit and an empty keyring."""
    # /proc/keys inside a sandbox must not list keys of the server's login session.
    syscalls.leave_session_keyring()
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Freeze the current objects, so that a collection in children does not copy their pages.
    gc.collect()
    gc.freeze()


def _parent_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def main() -> None:
    """Entry point of the launcher process.

    Arguments are the server's pid, the runtime folder, a token, and the names of dead instances of the server.
    """
    enter.default_signals()
    # Ctrl-C and a service manager's SIGTERM are for the server; the launcher ends with the server.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=0)
    os.set_inheritable(0, False)
    Launcher(sock, int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]).run()
