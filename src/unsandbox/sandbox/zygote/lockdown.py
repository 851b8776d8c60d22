"""Turns a fork of the zygote into a sandbox: a list of system calls, and two ways to execute it.

An interpreter that locks itself down after a fork writes to hundreds of pages, and the kernel copies each. On
x86-64, a few instructions (`spawner.x86_64.S`) therefore execute the list in a process that shares the zygote's
memory while the zygote waits, as with vfork(2). This process forks the program's process, which continues in
this interpreter, and becomes the sandbox's first process. On other machines, a forked interpreter executes
the list.

This file is loaded into the zygote before `main`, whose namespace it shares; the same rules apply.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    _Step = tuple[str, tuple[int, ...], int]
    """Name of a system call and its arguments; for a fork, the value that `start` returns in the child."""

CONTROL_FD = 3
"""In the zygote the launcher's socket, in its children the server's."""
FIRST_PROCESS_FD = 100
"""A number above every descriptor of a request, in the zygote and until a program runs."""
SANDBOX_UID = 1000
VIEW = "/run"
"""Where a zygote sees the files that tell sandboxes their limits, one folder for each slot."""
PROGRAM, FEEDER, FIRST = 1 << 24, 1 << 24 | 1, 1 << 24 | 2
"""The values that `Setup.start` returns in the forks; they are above every pid."""

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_SHARES_MEMORY, _WAITS, _PIDFD = 0x100, 0x4000, 0x1000
_SET_TID, _CLEAR_TID = 0x1000000, 0x200000
_READ_ONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 4, 22, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_TID_ADDRESS, _PR_CAP_AMBIENT = 38, 40, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_SIGCHLD, _F_SETFD = 17, 2
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_ARCH_GET_FS = 0x1003
_RSEQ_BYTES, _RSEQ_SIGNATURE, _RSEQ_FAILED = 32, 0x53053053, -2
_HERE = -100
_DETACH = 2
_WRITABLE, _EXECUTABLE, _PRIVATE_MEMORY = 3, 5, 0x22
_PAGE = 4096
HEADER_WORDS, STEP_WORDS = 3, 7
"""Of a list as `spawner.x86_64.S` reads it: words before the first call, and words of each call."""
_WORD = (1 << 64) - 1
_MOST_PLANS = 256


SYSTEM_CALLS = (
    "arch_prctl", "capset", "chdir", "clone", "close", "close_range", "dup3", "execve", "fcntl", "ioctl",
    "get_robust_list", "mknodat", "mount", "openat", "prctl", "prlimit64", "rseq", "rt_sigaction",
    "set_robust_list", "setgroups", "setpriority", "setresgid", "setresuid", "setsid", "socket", "umask",
    "umount2", "unshare", "write",
)  # fmt: skip
"""Those whose numbers `Setup` needs, as far as the machine has them."""


class Setup:
    """Creates sandboxes.

    Args:
        numbers: The numbers of the system calls, by name.
        bpf: The system call filter, as an array of `struct sock_filter`.
        proc_files: Of /proc: files to be empty, folders to be empty, files that tell the sandbox's limits.
        spawner: Instructions that carry out a list; None where there are none for this machine.
        nice: The number by which the zygote's priority is lower than that of its sandboxes.
    """

    def __init__(
        self,
        numbers: Mapping[str, int],
        bpf: bytes,
        proc_files: tuple[Sequence[str], Sequence[str], Sequence[str]],
        spawner: bytes | None,
        nice: int,
    ) -> None:
        import ctypes
        import os
        import struct

        self._ctypes = ctypes
        self._struct = struct
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._numbers = numbers
        self._texts: dict[bytes, Any] = {}
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._proc_files = proc_files
        self._bpf = ctypes.create_string_buffer(bpf, len(bpf))
        self._filter = struct.pack("HxxxxxxP", len(bpf) // 8, ctypes.addressof(self._bpf))
        self._capabilities = 0
        while self._libc.prctl(_PR_CAPBSET_READ, self._capabilities, 0, 0, 0) >= 0:
            self._capabilities += 1
        self._priority = _normal_priority(nice)
        self.used: list[tuple[int, int, int]] = []
        """Memory that programs use; see `rehearse`."""
        self._sharing: tuple[Callable[[int], int], _Thread] | None = None
        """The machine code that executes a list; None if a forked interpreter does."""
        thread = None if spawner is None else _Thread(ctypes, self._libc, numbers)
        if spawner is not None and thread is not None and thread.number_at:
            self._sharing = self._load(spawner), thread
        else:
            self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def start(self, settings: Sequence[int], gate: str, fds: Sequence[int]) -> tuple[int, int]:
        """Create a sandbox.

        Args:
            settings: User (-1 for that of the zygote), whether somebody waits for it, bytes of /tmp and /work,
                of /dev/shm, open files, processes, bytes of data or 0, number of the slot.
            gate: Path of a named pipe at which the program will wait, or empty.
            fds: Its control socket, stdout, stderr, and what it enters its control groups by.

        Returns:
            In the zygote a descriptor of the sandbox's first process and 0. In its forks -1, and `PROGRAM` in
            what becomes the program, `FEEDER` in what feeds a program that waits at a named pipe, `FIRST` in
            the first process where that is an interpreter.

        Raises:
            OSError: No process can be created.
        """
        plan = self.plan(settings, gate, fds)
        if self._sharing is None:
            return self._fork(plan, fds[0])
        return self._share(*self._sharing, plan, fds[0])

    def plan(self, settings: Sequence[int], gate: str, fds: Sequence[int]) -> Any:
        """Return the list of system calls for `start`, from a cache, because requests repeat."""
        key = (*settings, gate, *fds)
        if (plan := self._plans.get(key)) is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
                self._texts.clear()
            steps = list(self._steps(settings, gate, fds))
            plan = self._plans[key] = steps if self._sharing is None else self._written(steps)
        return plan

    # The list

    def _steps(self, settings: Sequence[int], gate: str, fds: Sequence[int]) -> Iterator[_Step]:
        import os
        import resource

        uid, urgent, tmpfs, shm, open_files, processes, data, slot = settings
        control, stdout, stderr, *groups = fds
        call, at = self._call, self._at
        owner = max(0, uid)
        yield call("dup3", control, CONTROL_FD, os.O_CLOEXEC)
        priority = [] if self._priority is None else [call("setpriority", os.PRIO_PROCESS, 0, self._priority)]
        if urgent:
            yield from priority
        for group in groups:
            yield call("write", group, at(b"0"), 1)
        yield call("unshare", _NEWNS | _NEWUTS | _NEWIPC | _NEWNET | _NEWCGROUP)
        for place, size, mode in (("/dev/shm", shm, "1777"), ("/tmp", tmpfs, "1777"), ("/work", tmpfs, "755")):  # noqa: S108
            yield self._mount(
                "tmpfs", place, _NOSUID | _NODEV, f"size={size},mode={mode},uid={owner},gid={owner}"
            )
        yield from self._proc(slot)
        yield self._mount("devpts", "/dev/pts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620")
        yield from self._loopback_up()
        yield from priority
        yield call("chdir", at(b"/work"))
        yield call("umask", 0o022)
        yield call("setsid")
        yield call("dup3", stdout, 1, 0)
        yield call("dup3", stderr, 2, 0)
        yield call("close_range", CONTROL_FD + 1, max(fds), 0)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = open_files if hard == resource.RLIM_INFINITY else min(open_files, hard)
        yield self._limit(resource.RLIMIT_NOFILE, most)
        if data:
            yield self._limit(resource.RLIMIT_DATA, data)
        if uid >= 0:
            yield call("setgroups", 0, 0)
            yield call("setresgid", uid, uid, uid)
            yield call("setresuid", uid, uid, uid)
        yield call("unshare", _NEWUSER)
        # Set here, because a namespace applies the limit to the processes of its creator, which as an ordinary
        # user are those of all sandboxes together.
        yield self._limit(resource.RLIMIT_NPROC, processes)
        # After the change of user, this process cannot open its files in /proc.
        yield call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)
        mapping = f"{SANDBOX_UID} {owner} 1"
        for name, text in (("setgroups", "deny"), ("uid_map", mapping), ("gid_map", mapping)):
            # The lowest free descriptor.
            fd = CONTROL_FD + 1
            yield call("openat", _HERE, at(f"/proc/self/{name}".encode()), os.O_WRONLY, 0)
            yield call("write", fd, at(text.encode()), len(text))
            yield call("close", fd)
        # Ignored by the zygote.
        yield call("rt_sigaction", _SIGCHLD, at(bytes(32)), 0, 8)
        yield from self._give_up_all()
        if gate:
            yield call("mknodat", _HERE, at(gate.encode()), 0o010666, 0)
        yield self._call_fork(PROGRAM)
        if gate:
            yield self._call_fork(FEEDER)
        words = self._struct.pack("PP", at(b"init"), 0)
        yield call("close_range", 0, CONTROL_FD - 1, 0)
        yield call("fcntl", CONTROL_FD, _F_SETFD, 0)
        path = f"/proc/self/fd/{FIRST_PROCESS_FD}"
        yield call("execve", at(path.encode()), at(words), at(bytes(8)))

    def _proc(self, slot: int) -> Iterator[_Step]:
        """Mount /proc: without what tells of the machine, and with the sandbox's limits."""
        call, at = self._call, self._at
        yield self._mount("proc", "/proc", _NOSUID | _NODEV | _NOEXEC, "")
        # The sandbox's user owns the settings of its namespaces.
        sysctl = at(b"/proc/sys")
        yield call("mount", sysctl, sysctl, 0, _BIND, 0)
        yield call("mount", 0, sysctl, 0, _BIND | _REMOUNT | _READ_ONLY | _NOSUID | _NODEV, 0)
        for path in self._proc_files[0]:
            yield call("mount", at(b"/dev/null"), at(path.encode()), 0, _BIND, 0)
        for path in self._proc_files[1]:
            yield self._mount("tmpfs", path, _READ_ONLY | _NOSUID | _NODEV | _NOEXEC, "size=4k,mode=555")
        # Their mounts are read-only as that of the folder.
        for name in self._proc_files[2]:
            own = at(f"{VIEW}/{slot}/{name}".encode())
            yield call("mount", own, at(f"/proc/{name}".encode()), 0, _BIND, 0)
        yield call("umount2", at(VIEW.encode()), _DETACH)

    def _call(self, name: str, *arguments: int, in_child: int = 0) -> _Step:
        return name, arguments, in_child

    def _call_fork(self, in_child: int) -> _Step:
        # Like the C library's fork, which stores the thread id at an address known to the kernel.
        number_at = 0 if self._sharing is None else self._sharing[1].number_at
        return self._call("clone", _SIGCHLD | _SET_TID | _CLEAR_TID, 0, 0, number_at, 0, in_child=in_child)

    def _at(self, text: bytes) -> int:
        """Return the address of a copy that ends in a NUL byte."""
        if (copy := self._texts.get(text)) is None:
            copy = self._texts[text] = self._ctypes.create_string_buffer(text)
        return int(self._ctypes.addressof(copy))

    def _mount(self, kind: str, place: str, flags: int, options: str) -> _Step:
        at = self._at
        return self._call(
            "mount", at(kind.encode()), at(place.encode()), at(kind.encode()), flags, at(options.encode())
        )

    def _limit(self, resource: int, most: int) -> _Step:
        return self._call("prlimit64", 0, resource, self._at(self._struct.pack("QQ", most, most)), 0)

    def _loopback_up(self) -> Iterator[_Step]:
        # The socket takes the place of stdout, which comes later and closes it.
        request = self._struct.pack("16sh22x", b"lo", _IFF_UP_RUNNING)
        yield self._call("close", 1)
        yield self._call("socket", 2, 2, 0)
        yield self._call("ioctl", 1, _SIOCSIFFLAGS, self._at(request))

    def _give_up_all(self) -> Iterator[_Step]:
        """Drop every capability permanently, and install the system call filter."""
        call, at = self._call, self._at
        for capability in range(self._capabilities):
            yield call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        yield call("capset", at(self._struct.pack("Ii", _CAPABILITY_VERSION_3, 0)), at(bytes(24)))
        yield call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        yield call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        yield call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, at(self._filter), 0, 0)

    # Execution

    def _load(self, code: bytes) -> Callable[[int], int]:
        """Return instructions as a function that keeps the interpreter's lock."""
        ctypes, libc = self._ctypes, self._libc
        libc.mmap.restype = ctypes.c_void_p
        place = libc.mmap(None, ctypes.c_size_t(_PAGE), _WRITABLE, _PRIVATE_MEMORY, -1, ctypes.c_size_t(0))
        ctypes.memmove(place, code, len(code))
        if libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(_PAGE), _EXECUTABLE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        function: Callable[[int], int] = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(place)
        return function

    def _written(self, steps: Sequence[_Step]) -> tuple[Any, Sequence[str]]:
        """Encode a list for the machine code; also return the names of its calls."""
        words = [0] * HEADER_WORDS
        for name, arguments, in_child in steps:
            padded = (*arguments, 0, 0, 0, 0, 0)[:5]
            words += [self._numbers[name], *(argument & _WORD for argument in padded), in_child]
        return (self._ctypes.c_uint64 * len(words))(*words), tuple(name for name, _, _ in steps)

    def _share(
        self,
        spawn: Callable[[int], int],
        thread: _Thread,
        plan: tuple[Any, Sequence[str]],
        control: int,
    ) -> tuple[int, int]:
        """Execute a list with the machine code."""
        words, names = plan
        place = self._ctypes.addressof(words)
        words[0] = _SHARES_MEMORY | _WAITS | _PIDFD | _NEWPID | _SIGCHLD
        words[1] = 0
        python = self._ctypes.pythonapi
        python.PyOS_BeforeFork()
        result = spawn(place)
        if result >= PROGRAM:
            python.PyOS_AfterFork_Child()
            thread.renew()
            return -1, result
        python.PyOS_AfterFork_Parent()
        if result <= 0:
            raise OSError(-result, "clone")
        if words[1]:
            step = (words[1] - place - 8 * HEADER_WORDS) // (8 * STEP_WORDS)
            _tell(control, names[step], -words[0] & _WORD)
        return words[2] & 0xFFFFFFFF, 0

    def _fork(self, steps: Sequence[_Step], control: int) -> tuple[int, int]:
        """Execute a list in a forked interpreter."""
        import os

        self._check("unshare", self._libc.unshare(_NEWPID))
        child = os.fork()
        if child:
            self._check("setns", self._libc.setns(self._own_pids, _NEWPID))
            return os.pidfd_open(child), 0
        name = ""
        try:
            for name, arguments, in_child in steps:
                if in_child:
                    if os.fork() == 0:
                        return -1, in_child
                    continue
                wide = [self._ctypes.c_ulong(argument & _WORD) for argument in arguments]
                result = self._libc.syscall(self._ctypes.c_long(self._numbers[name]), *wide)
                # Without a program for the first process, this interpreter becomes the first process.
                if name != "execve":
                    self._check(name, result)
        except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
            _tell(control if name == "dup3" else CONTROL_FD, name, getattr(error, "errno", None) or 0)
            os._exit(1)
        return -1, FIRST

    def _check(self, name: str, result: int) -> None:
        if result < 0:
            raise OSError(self._ctypes.get_errno(), name)

    def hide(self) -> None:
        """Prevent the sandbox's processes from tracing or reading this one until it executes a program."""
        self._check("prctl", self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))

    # The zygote's memory

    def populate(self) -> None:
        """Prepare the memory that programs use; before Linux 5.14 the memory is prepared when it is used."""
        number = self._ctypes.c_ulong
        for address, length, advice in self.used:
            if self._libc.madvise(number(address), number(length), advice):
                return

    def trim(self) -> None:
        """Return free memory to the kernel, so that each fork has less to copy and to free."""
        if trim := getattr(self._libc, "malloc_trim", None):
            trim(0)


class _Thread:
    """The C library's registrations of the zygote's thread with the kernel, which a fork has to repeat."""

    def __init__(self, ctypes: Any, libc: Any, numbers: Mapping[str, int]) -> None:
        self._ctypes, self._libc, self._numbers = ctypes, libc, numbers
        self.number_at = self._number_at()
        """Return the address of the C library's thread id; 0 if it is not where it is expected."""
        self._robust = (ctypes.c_ulong(), ctypes.c_ulong())
        libc.syscall(numbers["get_robust_list"], 0, *map(ctypes.byref, self._robust))
        self._rseq_at = self._find_rseq()

    def _number_at(self) -> int:
        import _thread

        place = self._ctypes.c_ulong()
        if self._libc.prctl(_PR_GET_TID_ADDRESS, self._ctypes.byref(place), 0, 0, 0) != 0 or not place.value:
            return 0
        known = self._ctypes.c_int.from_address(place.value).value
        return int(place.value) if known == _thread.get_native_id() else 0

    def _find_rseq(self) -> int:
        """Return the address of the area for restartable sequences; 0 if there is none."""
        ctypes = self._ctypes
        try:
            offset = ctypes.c_ssize_t.in_dll(self._libc, "__rseq_offset").value
            size = ctypes.c_uint.in_dll(self._libc, "__rseq_size").value
        except ValueError:
            return 0
        base = ctypes.c_ulong()
        self._libc.syscall(self._numbers["arch_prctl"], _ARCH_GET_FS, ctypes.byref(base))
        return int(base.value + offset) if size and base.value else 0

    def renew(self) -> None:
        """Repeat the registrations in a fork."""
        ctypes, call = self._ctypes, self._libc.syscall
        call(self._numbers["set_robust_list"], *self._robust)
        if self._rseq_at:
            # The value that the C library expects if the kernel refuses.
            ctypes.c_int.from_address(self._rseq_at + 4).value = _RSEQ_FAILED
            call(self._numbers["rseq"], ctypes.c_ulong(self._rseq_at), _RSEQ_BYTES, 0, _RSEQ_SIGNATURE)


def _normal_priority(nice: int) -> int | None:
    """Return the priority of sandboxes; None if it is that of the zygote, or cannot be set."""
    import os

    own = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, own - nice)
    except OSError:
        return None
    os.setpriority(os.PRIO_PROCESS, 0, own)
    return own - nice if nice else None


def _tell(control: int, name: str, number: int) -> None:
    """Report to the server why a sandbox was not created."""
    import os

    os.write(control, f"error {name}: {os.strerror(number)}\n".encode())
