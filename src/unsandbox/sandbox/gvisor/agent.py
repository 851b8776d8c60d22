"""The first process of a persistent gVisor sandbox: starts programs in it and transfers their bytes.

A program that `runsc exec` starts holds descriptors of the host, and a sandbox with such descriptors cannot be
checkpointed. Programs of the agent hold pipes and terminals of the sandbox's kernel. Only the agent is
connected to the server, over descriptors 0 and 1, which a restored sandbox gets anew. It runs as root *of the
sandbox*, so tenants can neither kill nor read it, and has few capabilities there. The server does not trust
its messages.

The other end is `channel.py`. This file runs in the sandbox's interpreter, Python 3.7 or newer, with the
standard library only; the server imports it for the format of the messages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import termios
from pathlib import Path
from typing import Any

HEADER = struct.Struct(">cII")
"""Kind, stream, and number of bytes that follow."""
CHUNK = 1 << 16
"""Most bytes in one message."""
WINDOW = 1 << 18
"""Maximum bytes in flight of one stream in one direction."""

# From the server. A program and a connection are named by an even number; it is also the stream of their
# bytes in both directions. The odd number after it is the stream of a program's errors.
SPAWN = b"S"
"""JSON: argv, env, cwd, terminal (columns and rows, or null), limits (as in `resource`), root (or tenant)."""
CONNECT = b"C"
"""A port of the loopback, as text."""
SIGNAL = b"K"
"""JSON: number, session (whether to the whole session, else the process group)."""
RESIZE = b"R"
"""JSON: columns and rows."""
HALT = b"H"
"""`1`: suspend all programs of the tenant; `0`: resume them. Answered by DONE."""
DISK = b"T"
"""Answered by DISK: bytes used in the work folder, as text."""
QUIET = b"Q"
"""Send DONE, then nothing more, and read only the next message."""
RESET = b"Z"
"""JSON: numbers of programs, from a new server after a restore. These programs keep their streams; the output
of all others is drained. Answered by READY with the numbers that still run."""
GO = b"G"
"""After QUIET: continue."""

# In both directions.
DATA = b"D"
END = b"E"
"""No more DATA in this direction."""
CREDIT = b"W"
"""Number of further bytes that may be sent, as text."""
DROP = b"X"
"""This stream has no reader any more."""

# From the agent.
READY = b"Y"
STARTED = b"P"
"""Empty, or the reason why the program or connection could not be started."""
EXIT = b"O"
"""A program's exit code, seconds of CPU time and most memory in KiB, as text with spaces between them."""
DONE = b"A"

WORK = "/work"
SANDBOX_UID = 1000
_MAX_ROUNDS = 50


class Pump:
    """One direction of one stream: from a descriptor to the server (`out`), or from the server to it."""

    def __init__(self, agent: Agent, stream: int, fd: int, out: bool) -> None:
        self.agent = agent
        self.stream = stream
        self.fd = fd
        self.out = out
        self.credit = WINDOW
        self.waiting = b""
        self.ending = False
        self.draining = False
        self.closed = False
        os.set_blocking(fd, False)
        self.watch()

    def watch(self) -> None:
        """Tell the loop which events of the descriptor to wait for."""
        wanted = self.credit > 0 or self.draining if self.out else bool(self.waiting)
        self.agent.watch(self.fd, self, wanted, self.out)

    def ready(self) -> None:
        """Handle a readable or writable descriptor."""
        try:
            if self.out:
                self._read()
            else:
                self._write()
        except BlockingIOError:
            self.watch()
        except OSError:
            # The terminal has no programs any more, or the reader is gone.
            self.close()

    def drain(self) -> None:
        """Forward the bytes that can be read now."""
        with contextlib.suppress(OSError):
            while self.credit > 0 and not self.closed:
                self._read()

    def _read(self) -> None:
        data = os.read(self.fd, CHUNK if self.draining else min(CHUNK, self.credit))
        if not data:
            self.close()
        elif not self.draining:
            self.credit -= len(data)
            self.agent.send(DATA, self.stream, data)
            self.watch()

    def _write(self) -> None:
        count = os.write(self.fd, self.waiting)
        self.waiting = self.waiting[count:]
        self.agent.send(CREDIT, self.stream, b"%d" % count)
        if self.ending and not self.waiting:
            self.close()
        else:
            self.watch()

    def end(self) -> None:
        """Close as soon as everything is written."""
        self.ending = True
        if not self.waiting:
            self.close()

    def close(self) -> None:
        """Close now, and tell the server."""
        self.closed = True
        self.agent.forget(self)
        if self.out and not self.draining:
            self.agent.send(END, self.stream)
        elif not self.out and not self.ending:
            self.agent.send(DROP, self.stream)


class Agent:
    """The loop: messages from the server, descriptors of programs, ends of programs."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.watched: dict[int, dict[bool, Pump]] = {}
        self.masks: dict[int, int] = {}
        self.inward: dict[int, Pump] = {}
        self.outward: dict[int, Pump] = {}
        self.programs: dict[int, int] = {}
        self.terminals: dict[int, int] = {}
        self.halted: list[int] = []
        self.received = b""
        self.wakeup, write = os.pipe()
        for fd in (self.wakeup, write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for fd in (0, self.wakeup):
            self.poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Serve until the server's end of descriptor 0 is closed."""
        self.send(READY, 0)
        while True:
            for fd, _ in self.poll.poll():
                if fd == 0:
                    if not self.receive():
                        return
                elif fd == self.wakeup:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                else:
                    for pump in list(self.watched.get(fd, {}).values()):
                        pump.ready()
            self.reap()

    # Descriptors

    def watch(self, fd: int, pump: Pump, wanted: bool, out: bool) -> None:
        """Start or stop to wait for a pump's descriptor. Two pumps may share one: a terminal, a connection."""
        pumps = self.watched.setdefault(fd, {})
        if wanted:
            pumps[out] = pump
        else:
            pumps.pop(out, None)
        mask = (select.POLLIN if True in pumps else 0) | (select.POLLOUT if False in pumps else 0)
        if mask != self.masks.get(fd, 0):
            if mask:
                self.poll.register(fd, mask)
            else:
                self.poll.unregister(fd)
            self.masks[fd] = mask

    def forget(self, pump: Pump) -> None:
        """Remove a pump that has ended; close its descriptor when no other pump uses it."""
        self.watch(pump.fd, pump, False, pump.out)
        table = self.outward if pump.out else self.inward
        if table.get(pump.stream) is pump:
            del table[pump.stream]
        others = [*self.outward.values(), *self.inward.values()]
        if any(other.fd == pump.fd for other in others):
            if not pump.out and stat.S_ISSOCK(os.fstat(pump.fd).st_mode):
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(pump.fd)) as half:
                    half.shutdown(socket.SHUT_WR)
            return
        self.watched.pop(pump.fd, None)
        self.masks.pop(pump.fd, None)
        self.terminals.pop(pump.stream, None)
        os.close(pump.fd)

    def send(self, kind: bytes, stream: int, data: bytes = b"") -> None:
        """Send a message; waits for room."""
        view = memoryview(HEADER.pack(kind, stream, len(data)) + data)
        while view:
            view = view[os.write(1, view) :]

    def receive(self) -> bool:
        """Handle the available messages; return False at the end of the stream."""
        data = os.read(0, 1 << 18)
        self.received += data
        while True:
            message = self.next_message()
            if message is None:
                return bool(data)
            self.handle(*message)

    def next_message(self) -> tuple[bytes, int, bytes] | None:
        """Return the next whole message, or None."""
        if len(self.received) < HEADER.size:
            return None
        kind, stream, size = HEADER.unpack_from(self.received)
        if len(self.received) < HEADER.size + size:
            return None
        data = self.received[HEADER.size : HEADER.size + size]
        self.received = self.received[HEADER.size + size :]
        return kind, stream, data

    def handle(self, kind: bytes, stream: int, data: bytes) -> None:  # noqa: C901 - a branch for each message
        """Carry out one message."""
        if kind == DATA and stream in self.inward:
            pump = self.inward[stream]
            pump.waiting += data
            pump.ready()
        elif kind == END and stream in self.inward:
            self.inward[stream].end()
        elif kind == CREDIT and stream in self.outward:
            self.outward[stream].credit += int(data)
            self.outward[stream].watch()
        elif kind == DROP and stream in self.outward:
            if stream in self.terminals:
                # gVisor does not hang up by itself.
                self.signal(stream, signal.SIGHUP, session=True)
            self.outward[stream].draining = True
            self.outward[stream].close()
        elif kind == SPAWN:
            self.spawn(stream, json.loads(data.decode()))
        elif kind == CONNECT:
            self.connect(stream, int(data))
        elif kind == SIGNAL:
            self.signal(stream, **json.loads(data.decode()))
        elif kind == RESIZE and stream in self.terminals:
            columns, rows = json.loads(data.decode())
            set_size(self.terminals[stream], columns, rows)
        elif kind == HALT:
            self.halt() if data == b"1" else self.let_go()
            self.send(DONE, stream)
        elif kind == DISK:
            found = os.statvfs(WORK)
            self.send(DISK, stream, b"%d" % ((found.f_blocks - found.f_bfree) * found.f_frsize))
        elif kind == QUIET:
            self.send(DONE, stream)
            self.be_quiet()
        elif kind == RESET:
            self.reset(json.loads(data.decode()))

    def be_quiet(self) -> None:
        """Do nothing until the next message, and handle it. A checkpoint is taken meanwhile."""
        while True:
            message = self.next_message()
            if message is not None:
                self.handle(*message)
                return
            self.received += os.read(0, 1 << 18)

    def reset(self, keep: list[int]) -> None:
        """Forget streams: the output of their programs is dropped, and their input does not end.

        The streams of programs to keep start again, as if nothing had been sent yet.
        """
        self.programs = {stream: pid for stream, pid in self.programs.items() if stream in keep}
        kept = {number for stream in self.programs for number in (stream, stream + 1)}
        for pump in [*self.outward.values()]:
            pump.draining = pump.stream not in kept
            pump.credit = WINDOW
            pump.watch()
        for pump in [*self.inward.values()]:
            pump.waiting = b""
            pump.watch()
        self.outward = {stream: pump for stream, pump in self.outward.items() if stream in kept}
        self.inward = {stream: pump for stream, pump in self.inward.items() if stream in kept}
        self.terminals = {}
        self.let_go()
        self.send(READY, 0, json.dumps(list(self.programs)).encode())

    # Programs

    def spawn(self, stream: int, details: dict[str, Any]) -> None:
        """Start a program and say whether it runs."""
        terminal = details["terminal"]
        try:
            ours, theirs = open_terminal(*terminal) if terminal else open_pipes()
            report, reporting = os.pipe()
            pid = os.fork()
        except OSError as error:
            self.send(STARTED, stream, json.dumps(refusal(error)).encode())
            return
        if pid == 0:
            try:
                become(details, theirs)
            except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
                os.write(reporting, json.dumps(refusal(error)).encode())
            finally:
                os._exit(127)
        for fd in {*theirs, reporting}:
            os.close(fd)
        said = read_all(report)
        if said:
            for fd in set(ours):
                os.close(fd)
            os.waitpid(pid, 0)
            self.send(STARTED, stream, said)
            return
        self.programs[stream] = pid
        self.send(STARTED, stream)
        self.inward[stream] = Pump(self, stream, ours[0], out=False)
        self.outward[stream] = Pump(self, stream, ours[1], out=True)
        if terminal:
            self.terminals[stream] = ours[0]
        else:
            self.outward[stream + 1] = Pump(self, stream + 1, ours[2], out=True)

    def connect(self, stream: int, port: int) -> None:
        """Connect to a port inside, and report whether a program listens there."""
        sock = None
        for host in ("127.0.0.1", "::1"):
            try:
                sock = socket.create_connection((host, port), timeout=10)
                break
            except OSError as error:
                said = error.strerror or str(error)
        if sock is None:
            self.send(STARTED, stream, said.encode())
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(STARTED, stream)
        fd = sock.detach()
        self.inward[stream] = Pump(self, stream, fd, out=False)
        self.outward[stream] = Pump(self, stream, fd, out=True)

    def reap(self) -> None:
        """Report the ends of programs; also reap orphans."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            for stream, known in list(self.programs.items()):
                if known == pid:
                    del self.programs[stream]
                    # Send the program's output before its end.
                    for number in (stream, stream + 1):
                        if number in self.outward:
                            self.outward[number].drain()
                    cpu_s = used.ru_utime + used.ru_stime
                    self.send(EXIT, stream, b"%d %.6f %d" % (code, cpu_s, used.ru_maxrss))

    def signal(self, stream: int, number: int, session: bool) -> None:
        """Send a signal to the group, or all of the session, that a program leads; also when it has ended."""
        leader = self.programs.get(stream)
        if session:
            for pid, fields in processes():
                if leader is not None and int(fields[3]) == leader:
                    send_signal(pid, number)
        elif leader is not None:
            with contextlib.suppress(OSError):
                os.killpg(leader, number)

    def halt(self) -> None:
        """Stop every process of the tenant, including new ones, except those that the tenant stopped."""
        for _ in range(_MAX_ROUNDS):
            running = [pid for pid, fields in processes() if fields[0] not in "TtZX"]
            if not running:
                return
            for pid in running:
                send_signal(pid, signal.SIGSTOP)
                if pid not in self.halted:
                    self.halted.append(pid)

    def let_go(self) -> None:
        """Resume the processes that `halt` stopped; children first, so that no parent sees a stopped child."""
        for pid in reversed(self.halted):
            send_signal(pid, signal.SIGCONT)
        self.halted = []


def become(details: dict[str, Any], fds: tuple[int, ...]) -> None:
    """Become the program; called in the forked child."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    if details["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for name, value in details["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if not details["root"]:
        os.setgroups([])
        os.setresgid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
        os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
    os.umask(0o022)
    os.chdir(details["cwd"])
    argv = details["argv"]
    os.execvpe(argv[0], argv, details["env"])  # noqa: S606 - starting programs is what this is for


def refusal(error: BaseException) -> tuple[str, int, str]:
    """Return why a program cannot be started: in words, as the kernel's number, and the path that it names."""
    said = getattr(error, "strerror", None) or str(error) or "unknown"
    path = getattr(error, "filename", None)
    path = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
    return said[:1000], getattr(error, "errno", None) or 0, path[:1000]


def open_pipes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the agent's and the program's ends of standard input, output and error."""
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
    return (in_write, out_read, err_read), (in_read, out_write, err_write)


def open_terminal(columns: int, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the two ends of a new terminal, in the form of `open_pipes`."""
    # The terminal belongs to the user that opens it.
    os.setegid(SANDBOX_UID)
    os.seteuid(SANDBOX_UID)
    try:
        master, slave = os.openpty()
    finally:
        os.seteuid(0)
        os.setegid(0)
    set_size(master, columns, rows)
    return (master, master), (slave, slave, slave)


def set_size(fd: int, columns: int, rows: int) -> None:
    """Set a terminal's size."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_all(fd: int) -> bytes:
    """Read a descriptor to its end and close it."""
    with os.fdopen(fd, "rb") as file:
        return file.read()


def processes() -> list[tuple[int, list[str]]]:
    """Return pid and fields of `stat`, from the state on, of every process of the tenant."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if folder.stat().st_uid == SANDBOX_UID:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    found.append((int(folder.name), fields))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESRCH):
                    raise
    return found


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


if __name__ == "__main__":
    Agent().run()
    sys.exit(0)
