"""Makes a forked child of the launcher enter a running sandbox and become a program there.

Security depends on the order of the steps. The process joins the control groups while it can still write
files of the host. It changes its user before it enters the namespaces, so it never has rights of the host
inside. It closes all descriptors and becomes undumpable before tenants can see it. It gives up capabilities,
privileges and system calls before the first instruction of the program. No module may be imported during
these steps, because the interpreter's files are not visible in the mount namespace. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from unsandbox.sandbox.launcher import messages, syscalls
from unsandbox.sandbox.launcher.cgroups import write
from unsandbox.sandbox.launcher.messages import Failed, ProcessLimits, ProgramDetails, Report

INSIDE_UID = 1000
"""The user of every sandbox, seen from inside."""

CAPABILITY_TO_READ_ALL = 1 << 1 | 1 << 2 | 1 << 3
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: over the sandbox's own files, in its user namespace."""

# All except the user namespace, which is entered first, and the pid namespace, which affects children only.
_OTHER_NAMESPACES = (
    syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWNS
)
_CAP_SETPCAP = 1 << 8
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
CORE_LIMIT = 1
"""A limit of one byte also stops the kernel from piping the dump to a handler on the host; zero does not."""
_TIMEOUT_CONNECT_S = 5.0
_CONNECTOR_IDLE_S = 10.0

CHANGED_SIGNALS = (
    signal.SIGCHLD,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGPIPE,
    signal.SIGXFSZ,
)
"""Signals that the launcher or its interpreter handles; programs get the defaults (see `default_signals`)."""


@dataclass(frozen=True, slots=True)
class NamespaceHandles:
    """Descriptors for entering a sandbox: its first process, and the user namespace that owns the others."""

    first: int
    owner: int

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.first)
        os.close(self.owner)


def open_namespaces(first_pid: int, first: int) -> NamespaceHandles:
    """Return the handles of the sandbox with the first process `first_pid`, whose pidfd is `first`.

    Raises:
        OSError: It is gone.
    """
    namespace = os.open(f"/proc/{first_pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = fcntl.ioctl(namespace, syscalls.NS_GET_USERNS)
    finally:
        os.close(namespace)
    fcntl.ioctl(owner, termios.FIOCLEX)
    return NamespaceHandles(fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, 3), owner)


def tell(report: int, message: Report, fds: Sequence[int] = ()) -> None:
    """Send a message on a report socket."""
    with socket.socket(fileno=os.dup(report)) as sock:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([messages.encode(message)], ancillary)


def become_program(
    doors: NamespaceHandles, uid: int | None, details: bytes, fds: Sequence[int], pid_pipe: int, launcher: int
) -> NoReturn:
    """Enter the sandbox and become the program in `details`; called in the forked child.

    Args:
        doors: The sandbox.
        uid: Its host user; None if it is the user of this process.
        details: `ProgramDetails`, encoded. A program of ours stays out of the tenant's sight.
        fds: The report socket, then stdin, stdout, stderr unless the program gets a terminal.
        pid_pipe: Receives the pid of the program's process. A helper keeps the pid of the calling process.
        launcher: Pid of the process that forked this one.
    """
    report = fds[0]
    try:
        wanted = messages.decode_details(details)
        _leave_the_launcher((*fds, pid_pipe, doors.first, doors.owner))
        helper = wanted.helper is not None
        _enter(doors, uid, launcher, with_processes=not helper)
        pid, becomes_it = (os.getpid(), True) if helper else _fork(wanted.forker)
        if pid:
            os.write(pid_pipe, struct.pack("=i", pid))
            tell(report, messages.Entered(pid))
        if not becomes_it:
            os._exit(0)
        _lock_down_and_execute(wanted, fds)
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
        with contextlib.suppress(OSError):
            path = getattr(error, "filename", None)
            number = getattr(error, "errno", None) or 0
            tell(report, Failed(_in_words(error), number, path if isinstance(path, str) else ""))
    finally:
        os._exit(127)


def _fork(code: bytes) -> tuple[int, bool]:
    """Fork the process that becomes a program.

    Returns:
        Its number on the host, and whether this is it. With machine code it shares the memory of its parent,
        which waits for its execution and does not return. Without, the number is 0 in it.
    """
    if code:
        # The kernel may refuse executable memory.
        with contextlib.suppress(OSError):
            return syscalls.fork_sharing(code), True
    pid = os.fork()
    return pid, pid == 0


def become_connector(doors: NamespaceHandles, uid: int | None, orders: int) -> NoReturn:
    """Connect to ports of the sandbox's loopback on request, and send back the sockets.

    Called in the forked child. The process exits when the other end of `orders` is closed, or after a while
    without requests.
    """
    try:
        _leave_the_launcher((orders, doors.first, doors.owner))
        _become_user(uid)
        syscalls.setns(doors.owner, syscalls.CLONE_NEWUSER)
        syscalls.setns(doors.first, syscalls.CLONE_NEWNET)
        doors.close()
        _give_up_capabilities(0)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        with socket.socket(fileno=orders) as asked:
            asked.settimeout(_CONNECTOR_IDLE_S)
            while port := asked.recv(16):
                _connect(int(port), orders)
    except TimeoutError:
        pass
    except BaseException as error:  # noqa: BLE001 - as above
        with contextlib.suppress(OSError):
            tell(orders, Failed(_in_words(error)))
    finally:
        os._exit(0)


def _connect(port: int, report: int) -> None:
    try:
        sock = _connected(port)
    except OSError as error:
        tell(report, Failed(_in_words(error)))
    else:
        with sock:
            tell(report, messages.Connected(), [sock.fileno()])


def open_low_ports(doors: NamespaceHandles, uid: int | None, report: int) -> NoReturn:
    """Allow the sandbox's programs to listen on ports below 1024; called in the forked child."""
    try:
        _leave_the_launcher((report, doors.first, doors.owner))
        _become_user(uid)
        syscalls.setns(doors.owner, syscalls.CLONE_NEWUSER)
        syscalls.setns(doors.first, syscalls.CLONE_NEWNET)
        # This file belongs to the network namespace of the process that opens it.
        write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        tell(report, messages.LowPortsOpened())
    except BaseException as error:  # noqa: BLE001 - as above
        with contextlib.suppress(OSError):
            tell(report, Failed(_in_words(error)))
    finally:
        os._exit(0)


def _connected(port: int) -> socket.socket:
    problem: OSError | None = None
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(_TIMEOUT_CONNECT_S)
        try:
            sock.connect((address, port))
        except OSError as error:
            sock.close()
            problem = problem or error
            continue
        sock.setblocking(False)
        return sock
    raise problem or OSError(errno.ECONNREFUSED, "connection refused")


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def default_signals() -> None:
    """Give every signal its default action and block none.

    Both are inherited, also by executed programs: from `nohup` (SIGHUP), from a script that starts the server
    with `&` (SIGINT, SIGQUIT), or from a thread that blocks signals. The launcher does this once, so that no
    program in a sandbox depends on how the server was started.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


# Entering


def _leave_the_launcher(keep: Sequence[int]) -> None:
    """Give up everything of the launcher except the descriptors in `keep`."""
    # When the machine runs out of memory, the kernel kills sandboxes before anything else.
    write("/proc/self/oom_score_adj", "1000")
    start = 0
    for fd in sorted(keep):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # Occupy the numbers of the standard streams, so that later files do not get them.
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    signal.set_wakeup_fd(-1)
    for number in CHANGED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    # Erase the launcher's command line in this copy, because /proc shows it to everyone.
    syscalls.clear_memory(*_COMMAND_LINE)


def _find_command_line() -> tuple[int, int]:
    """Return the memory range of this process's command line, which is the same in forked children."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    # arg_start and arg_end are the fields 48 and 49 of the line; the list begins with the third field.
    return int(fields[45]), int(fields[46])


_COMMAND_LINE = _find_command_line()


def _become_user(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # Neither a debugger nor /proc may look at this copy of the launcher.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _enter(doors: NamespaceHandles, uid: int | None, launcher: int, *, with_processes: bool) -> None:
    _become_user(uid)
    syscalls.setns(doors.owner, syscalls.CLONE_NEWUSER)
    kinds = _OTHER_NAMESPACES | (syscalls.CLONE_NEWPID if with_processes else 0)
    syscalls.setns(doors.first, kinds)
    try:
        syscalls.setns(doors.first, syscalls.CLONE_NEWUSER)
    except OSError as error:
        # A sandbox with a single user namespace has been entered already.
        if error.errno != errno.EINVAL:
            raise
    if {*os.getresuid(), *os.getresgid()} != {INSIDE_UID}:
        raise OSError(errno.EPERM, "not the sandbox's user")
    # Changes of user and namespace reset this setting, so it comes last. Children die with the sandbox instead.
    syscalls.die_with_parent(launcher)


def _lock_down_and_execute(wanted: ProgramDetails, fds: Sequence[int]) -> None:
    report, *streams = fds
    os.setsid()
    if wanted.terminal is not None:
        streams = [_open_terminal(report, *wanted.terminal)] * 3
    # The copies get numbers above the standard streams and are closed on execution.
    for target, fd in enumerate(streams):
        os.dup2(fd, target, inheritable=True)
    _set_limits(wanted.limits)
    _give_up_capabilities(wanted.helper or 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    os.chdir(wanted.cwd)
    argv = [os.fsencode(word) for word in wanted.argv]
    env = {os.fsencode(name): os.fsencode(value) for name, value in wanted.env.items()}
    candidates = _candidates(argv[0], env)
    syscalls.install_filter(wanted.filter)
    _execute(candidates, argv, env)


def _candidates(program: bytes, env: dict[bytes, bytes]) -> list[bytes]:
    if b"/" in program:
        return [program]
    folders = env.get(b"PATH", b"/usr/bin:/bin").split(b":")
    return [folder + b"/" + program for folder in folders if folder]


def _execute(candidates: Sequence[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> None:
    problem: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(argv[0]))
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)  # noqa: S606 - the tenant's program, inside
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = OSError(error.errno, error.strerror, os.fsdecode(argv[0]))
    raise problem


def _open_terminal(report: int, columns: int, rows: int) -> int:
    """Open a terminal of the sandbox, make it this session's terminal, send its master; return the terminal."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    terminal = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    tell(report, messages.TerminalOpened(), [master])
    os.close(master)
    return int(terminal)


def run_on(cpus: Sequence[int]) -> None:
    """Let this process, and what it starts, run on these processors alone; without any, leave it as it is."""
    if cpus:
        # A processor may have gone.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)


def _set_limits(limits: ProcessLimits) -> None:
    run_on(limits.cpus)
    resource.setrlimit(resource.RLIMIT_CORE, (CORE_LIMIT, CORE_LIMIT))
    for wanted, kind in (
        (limits.open_files, resource.RLIMIT_NOFILE),
        (limits.processes, resource.RLIMIT_NPROC),
        (limits.data_bytes, resource.RLIMIT_DATA),
        (limits.file_bytes, resource.RLIMIT_FSIZE),
    ):
        if wanted is not None:
            hard = resource.getrlimit(kind)[1]
            bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(kind, (bound, bound))


def _give_up_capabilities(keep: int) -> None:
    """Drop all capabilities except those in the mask `keep`, which a helper keeps when it executes."""
    if keep:
        # Inherited capabilities must stay in the bounding set, and emptying that set needs a capability.
        syscalls.set_capabilities(keep | _CAP_SETPCAP, keep)
    syscalls.drop_bounding_set()
    syscalls.set_capabilities(keep, keep)
    for number in range(keep.bit_length()):
        if keep >> number & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
