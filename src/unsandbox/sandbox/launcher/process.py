"""The launcher: a small process beside the server that starts sandboxes, counts what they use, and cleans up.

Why a process of its own and not `subprocess` in the server:

* Forking is cheap and safe here (few pages, one thread) and the server's event loop never waits for it.
* Between fork and exec the child can enter its control group, drop to its own user and set limits itself;
  none of that is possible, or all of it is slow, from outside.
* Sandboxes die with the *thread* that started them (PR_SET_PDEATHSIG). This one lives as long as the server,
  whichever thread the server's event loop runs in.
* Orphans of killed sandboxes come to it (PR_SET_CHILD_SUBREAPER) and not to a first process that may not reap.
* It outlives a server that was killed with -9, long enough to remove the runtime folder and the groups.

It is started as a bare interpreter (no site packages, no environment) with a SOCK_SEQPACKET socket on
descriptor 0. Requests are JSON with descriptors attached; so are answers. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsandbox.sandbox.launcher import cleanup, enter, freezer, syscalls
from unsandbox.sandbox.launcher import persistent as live_launcher
from unsandbox.sandbox.launcher.cgroups import (
    Bounds,
    Group,
    Hierarchy,
    Usage,
    children,
    group_name,
    held_by_sentry,
    held_memory,
    open_hierarchy,
)
from unsandbox.sandbox.launcher.fd_numbers import BLOCK_FD, INFO_FD, ZYGOTE_FD
from unsandbox.sandbox.launcher.network.gate import OutboundNetworks
from unsandbox.sandbox.launcher.network.setup import NetworkConfig
from unsandbox.sandbox.launcher.zygotes import Zygotes

MAX_MESSAGE = 1 << 16
FDS_PER_MESSAGE = 200
"""The kernel takes 253 descriptors in one message."""

_WATCH_INTERVAL_S = 0.05
_REMOVAL_INTERVAL_S = 0.01
_CORE_LIMIT = 1
"""A limit of one byte also stops the kernel from piping the dump to a handler on the host; zero does not."""


@dataclass(slots=True)
class Job:
    """One sandbox: the monitor that the launcher forked and the sandbox's first process below it."""

    number: int
    monitor: int
    info_fd: int
    group: Group | None
    memory_bytes: int
    first: int | None = None
    info: bytes = b""
    exit_status: int | None = None
    rusage: resource.struct_rusage | None = None
    killed: bool = False
    peak: int = 0
    out_of_memory: bool = False
    error: str | None = None
    first_gone: bool = False
    zygote: bool = False
    """Not a job but what warm sandboxes are forked from: they are counted, not it."""
    alone: bool = False
    """Whether the monitor stands for the whole sandbox: its program reports no child, and takes all along."""

    def over(self) -> bool:
        """Whether no process of the sandbox is left: a monitor that exits by itself has reaped the first."""
        if self.exit_status is None:
            return False
        return self.alone or self.first is None or self.first_gone or os.WIFEXITED(self.exit_status)


class Launcher:
    """Serves one server until its end of the socket is closed or its process is gone."""

    def __init__(self, sock: socket.socket, server_pid: int, runtime: Path, token: str) -> None:
        self._socket = sock
        self._server_pid = server_pid
        self._runtime = runtime
        self._name = cleanup.instance_name(server_pid, token)
        self._jobs: dict[int, Job] = {}
        self._by_monitor: dict[int, Job] = {}
        self._by_info: dict[int, Job] = {}
        self._pending_fds: list[int] = []
        self._pending_job = 0
        self._busy_groups: list[Group | freezer.Freezer] = []
        self._next_removal = 0.0
        self._poll = select.poll()
        self._zygotes = Zygotes(self._send, self._make_group, self._remove_group, self._poll)
        self._gates = OutboundNetworks(self._poll, self._no_network)
        self._hierarchy: Hierarchy | None = None
        self._freezer_base: tuple[str, Path] | None = None
        self._live = live_launcher.LiveSandboxes(self._send, self._poll)
        self._open = True
        self._lock = -1

    def run(self) -> None:
        """Serve; return when everything that belonged to the server is gone."""
        try:
            self._serve()
        finally:
            self._clean_up()

    def _serve(self) -> None:
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        server = self._watch_server()
        self._prepare()
        for fd in (self._socket.fileno(), wakeup_read, server):
            self._poll.register(fd, select.POLLIN)
        while self._open:
            for fd, _ in self._poll.poll(self._poll_timeout_ms()):
                if fd == self._socket.fileno():
                    self._receive()
                elif fd == wakeup_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup_read, 4096)
                elif fd == server:
                    self._open = False
                elif fd in self._by_info:
                    self._read_info(self._by_info[fd])
                elif self._live.watches(fd):
                    self._live.readable(fd)
                elif self._zygotes.handle(fd):
                    pass
                else:
                    self._gates.handle(fd)
            self._reap()
            self._watch()
            self._live.look()
            self._remove_busy_groups()

    def _watch_server(self) -> int:
        """Return a descriptor that becomes readable when the server's process is gone."""
        try:
            fd = os.pidfd_open(self._server_pid)
        except ProcessLookupError:
            fd = os.open("/dev/null", os.O_RDONLY)
        # It may have died, and its number have passed on, before this process had started.
        self._open = os.getppid() == self._server_pid
        return fd

    def _prepare(self) -> None:
        # Keys of the server's login session must not be listed in /proc/keys inside.
        syscalls.leave_session_keyring()
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._lock = cleanup.hold(self._runtime)
        self._hierarchy = open_hierarchy(self._name)
        cleanup.sweep([self._runtime.parent], remove_as_group=False)
        cgroup: dict[str, Any] = {"version": 0, "controllers": []}
        if self._hierarchy:
            cleanup.sweep({folder.parent for folder in self._hierarchy.folders()}, remove_as_group=True)
            cgroup = {"version": self._hierarchy.version, "controllers": self._hierarchy.controllers()}
            cgroup["parents"] = {name: str(folder) for name, folder in self._hierarchy.parents.items()}
        self._freezer_base = freezer.find_base(self._name, self._hierarchy)
        if self._freezer_base:
            cleanup.sweep([self._freezer_base[1].parent], remove_as_group=True)
        cgroup["freezer"] = self._freezer_base[0] if self._freezer_base else "stop"
        # What is here now stays: children need no copies of pages that only a collection would touch.
        gc.collect()
        gc.freeze()
        self._send({"ready": cgroup})

    def _poll_timeout_ms(self) -> float | None:
        if self._busy_groups or self._live.waiting:
            return 10 if self._busy_groups else 1
        if self._counts_memory():
            return None
        watched = self._zygotes.watched() or any(not job.zygote for job in self._jobs.values())
        return _WATCH_INTERVAL_S * 1000 if watched else None

    def _counts_memory(self) -> bool:
        return self._hierarchy is not None and "memory" in self._hierarchy.parents

    # Messages

    def _receive(self) -> None:
        size = socket.CMSG_SPACE(4 * FDS_PER_MESSAGE)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(MAX_MESSAGE, size, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._open = False
            return
        request = json.loads(data)
        op, number = request["op"], request["job"]
        self._keep_fds(number, ancillary)
        if op == "more":
            return
        attached, self._pending_fds = self._pending_fds, []
        match op:
            case "start":
                self._start(request, attached)
            case "prepare":
                self._zygotes.prepare(request, attached)
            case "live":
                self._live.handle(request, attached)
            case "watch":
                self._zygotes.watch(number)
            case "kill" if not self._zygotes.kill(number) and (job := self._jobs.get(number)):
                job.killed = True
                self._kill(job)

    def _keep_fds(self, job: int, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Take the descriptors of a message; a job with many sends them in several, the request last."""
        if job != self._pending_job:
            # A server that was interrupted never finished its request.
            for fd in self._pending_fds:
                os.close(fd)
            self._pending_fds, self._pending_job = [], job
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._pending_fds.extend(fds)

    def _send(self, answer: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([json.dumps(answer).encode()], ancillary)
        except OSError:
            self._open = False

    # One job

    def _start(self, request: dict[str, Any], fds: list[int]) -> None:
        number = request["job"]
        group: Group | None = None
        info_read, info_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            bounds = Bounds(**request["bounds"])
            own = {INFO_FD: info_write}
            if "nice" in request:
                fds.append(self._zygotes.add(number))
                request["fds"].append(ZYGOTE_FD)
            else:
                group = self._make_group(group_name(number), bounds)
            if network := request.get("network"):
                own[BLOCK_FD] = self._gates.prepare(
                    number, NetworkConfig(uid=request["uid"], group=group, **network)
                )
            launcher = os.getpid()
            place = self._make_freezer(number, group) if "live" in request else None
            if place:
                self._live.add(number, live_launcher.Live(request["uid"], place, group, bounds))
            monitor = place.fork() if place else os.fork()
        except OSError as error:
            self._gates.close(number)
            for fd in (*fds, info_read, info_write):
                os.close(fd)
            self._remove_group(self._live.finish(number))
            self._remove_group(group)
            self._send({"job": number, "exit": None, "error": f"cannot start a process: {error}"})
            return
        if monitor == 0:
            born_there = place is not None and place.nested
            _become_sandbox(request, fds, own, None if born_there else group, launcher)
        self._gates.forked(number)
        for fd in (*fds, info_write):
            os.close(fd)
        memory_bytes = request["bounds"]["memory_bytes"]
        job = Job(number, monitor, info_read, group, memory_bytes, alone=request.get("alone", False))
        job.zygote = "nice" in request
        self._jobs[number] = self._by_monitor[monitor] = self._by_info[info_read] = job
        self._poll.register(info_read, select.POLLIN)

    def _make_group(self, name: str, bounds: Bounds) -> Group | None:
        if self._hierarchy is None:
            return None
        group = Group(self._hierarchy, name)
        try:
            group.create(bounds)
        except FileNotFoundError:
            # Somebody tidied up: an idle server's group looks as empty as a forgotten one.
            self._hierarchy = open_hierarchy(self._name)
            if self._hierarchy is None:
                raise
            group = Group(self._hierarchy, name)
            group.create(bounds)
        return group

    def _remove_group(self, group: Group | freezer.Freezer | None) -> None:
        """Remove a group, later if the kernel still holds it."""
        if group and not group.remove():
            self._busy_groups.append(group)

    def _remove_busy_groups(self) -> None:
        """Try again to remove what was busy, every few milliseconds however much happens."""
        if self._busy_groups and (now := time.monotonic()) >= self._next_removal:
            self._next_removal = now + _REMOVAL_INTERVAL_S
            self._busy_groups = [group for group in self._busy_groups if not group.remove()]

    def _make_freezer(self, number: int, group: Group | None) -> freezer.Freezer:
        nested = group is not None and self._hierarchy is not None and self._hierarchy.version == 2
        try:
            return freezer.Freezer(self._freezer_base, group_name(number), nested=nested)
        except FileNotFoundError:
            # Tidied up by somebody, as above.
            self._freezer_base = freezer.find_base(self._name, self._hierarchy)
            return freezer.Freezer(self._freezer_base, group_name(number), nested=nested)

    def _read_info(self, job: Job) -> None:
        try:
            data = os.read(job.info_fd, 4096)
        except BlockingIOError:
            return
        job.info += data
        # The object comes in several writes.
        if data and not job.info.rstrip().endswith(b"}"):
            return
        self._close_info(job)
        if not job.info:
            if job.alone and job.exit_status is None:
                # The program runs: becoming it has closed the pipe.
                self._found_first(job, job.monitor)
            return
        info = json.loads(job.info)
        job.error = info.get("error")
        if "child-pid" in info:
            self._found_first(job, int(info["child-pid"]))

    def _close_info(self, job: Job) -> None:
        if job.info_fd >= 0:
            self._poll.unregister(job.info_fd)
            del self._by_info[job.info_fd]
            os.close(job.info_fd)
            job.info_fd = -1

    def _found_first(self, job: Job, pid: int) -> None:
        """Hand the server a descriptor of the first process, which stays right when the number is reused."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            # The monitor is not reaped yet, so while this holds the number is still its child's.
            if _parent_of(pid) == (os.getpid() if job.alone else job.monitor):
                job.first = pid
                # The sandbox's namespaces, that of the network too, exist from here on.
                self._live.found_first(job.number, pid, pidfd)
                self._send({"job": job.number, "first": pid}, (pidfd,))
                self._gates.attach(job.number, pid)
        finally:
            os.close(pidfd)
        if job.killed:
            self._kill(job)

    def _no_network(self, number: int, why: str) -> None:
        if (job := self._jobs.get(number)) is not None:
            job.error = job.error or why
            self._kill(job)

    def _kill(self, job: Job) -> None:
        """Kill the sandbox: its first process takes every other with it, then the monitor ends by itself."""
        if job.exit_status is not None:
            return
        if job.first is None and job.info_fd >= 0:
            # Too early to know it; killed as soon as it reports.
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.first or job.monitor, signal.SIGKILL)
        self._live.kill(job.number)

    def _watch(self) -> None:
        """Where no group counts memory, add it up and kill a sandbox that holds too much."""
        if self._counts_memory():
            return
        self._zygotes.check_memory()
        for job in self._jobs.values():
            if job.first is None or job.zygote:
                continue
            held = held_memory(job.first) + self._live.held_memory(job.number)
            if job.alone:
                held += held_by_sentry(job.first)
            job.peak = max(job.peak, held)
            if held > job.memory_bytes and not job.out_of_memory:
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
            if self._gates.reaped(pid, status):
                continue
            job = self._by_monitor.pop(pid, None)
            if job is None and self._live.reaped(pid, status):
                continue
            if job is None:
                # A sandbox whose monitor died before it.
                for other in self._jobs.values():
                    other.first_gone = other.first_gone or other.first == pid
                continue
            if job.info_fd >= 0:
                self._read_info(job)
            job.exit_status, job.rusage = status, rusage
            if not os.WIFEXITED(status):
                # What it had not reaped has become a child of this process.
                job.first_gone = job.first_gone or job.first not in children(os.getpid())
                self._kill_orphans()
        for job in [job for job in self._jobs.values() if job.over()]:
            self._finish(job)

    def _kill_orphans(self) -> None:
        """Kill what monitors left behind that did not end by themselves.

        A sandbox asks to die with its monitor only after its set-up began. When the monitor is killed before
        that, its child waits for it for ever; as an orphan it has become a child of this process.
        """
        for pid in children(os.getpid()):
            if pid not in self._by_monitor and not self._live.owns(pid) and not self._gates.owns(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _finish(self, job: Job) -> None:
        del self._jobs[job.number]
        self._zygotes.remove(job.number)
        self._close_info(job)
        self._gates.close(job.number)
        usage = job.group.usage() if job.group else Usage()
        status, rusage = job.exit_status or 0, job.rusage
        cpu_s, peak = usage.cpu_s, usage.peak_memory_bytes
        if cpu_s is None and rusage is not None:
            cpu_s = rusage.ru_utime + rusage.ru_stime
        if peak is None and rusage is not None:
            peak = max(job.peak, rusage.ru_maxrss * 1024)
        self._send(
            {
                "job": job.number,
                "exit": os.waitstatus_to_exitcode(status),
                "cpu_s": cpu_s,
                "peak_memory_bytes": peak,
                "oom": job.out_of_memory or usage.oom_kills > 0,
                "error": job.error,
            }
        )
        # The freezer's group first: it may lie in the other.
        for group in (self._live.finish(job.number), job.group):
            self._remove_group(group)

    # The end

    def _clean_up(self) -> None:
        # From here on every child is an orphan.
        self._by_monitor.clear()
        self._live.close()
        self._gates.close_all()
        give_up = time.monotonic() + 5
        while time.monotonic() < give_up:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                # Each round anew: the end of a monitor makes its child one of this process.
                self._kill_orphans()
                time.sleep(0.002)
        folders = set(self._hierarchy.folders()) if self._hierarchy else set()
        cleanup.remove_groups(sorted(folders | ({self._freezer_base[1]} if self._freezer_base else set())))
        cleanup.remove_runtime(self._runtime)


def _parent_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def _become_sandbox(
    request: dict[str, Any], fds: list[int], own: dict[int, int], group: Group | None, launcher: int
) -> None:
    """In the forked child: take on the job's group, user, limits and descriptors, and become its program.

    Never returns. The order matters: the group needs root, descriptors need room, and nothing of the launcher
    may stay open.
    """
    report = own[INFO_FD]
    try:
        if group:
            group.enter()
        # When the whole machine runs out of memory, a sandbox goes before the server or anything else.
        Path("/proc/self/oom_score_adj").write_text("1000")
        # First above every target number, so that no copy overwrites one that is still needed.
        targets = [*request["fds"], *own]
        floor = max(targets) + 1
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor) for fd in (*fds, *own.values())]
        report = sources[targets.index(INFO_FD)]
        for source, target in zip(sources, targets, strict=True):
            os.dup2(source, target, inheritable=target != INFO_FD or not request.get("alone"))
        for number in set(range(floor)) - set(targets):
            os.closerange(number, number + 1)
        os.closerange(floor, report)
        os.closerange(report + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.chdir("/")
        os.umask(0o022)
        signal.set_wakeup_fd(-1)
        for number in enter.CHANGED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (_CORE_LIMIT, _CORE_LIMIT))
        os.nice(request.get("nice", 0))
        uid = request["uid"]
        if "live" in request:
            live_launcher.mount_work_folder(request["live"], uid)
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        if request.get("alone"):
            _own_user_namespace()
        # After the change of user, which resets it. The sandbox program asks for the same, a moment later.
        syscalls.die_with_parent(launcher)
        os.execve(request["program"], request["argv"], {})  # noqa: S606 - a fixed program
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
        os.write(report, json.dumps({"error": f"cannot start the sandbox program: {error}"}).encode())
    finally:
        os._exit(127)


def _own_user_namespace() -> None:
    """Become root of a new user namespace that knows no user but the present one."""
    uid, gid = os.geteuid(), os.getegid()
    # A change of user has made /proc/self root's.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise OSError(error.errno, f"Creating new namespace failed: {error.strerror}") from error
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", file).write_text(text)


def main() -> None:
    """Entry point of the launcher process: arguments are the server's pid, the runtime folder and a token."""
    enter.default_signals()
    # The terminal's Ctrl-C and a service manager's SIGTERM are the server's business; this goes with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=0)
    os.set_inheritable(0, False)
    Launcher(sock, int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).run()
