"""Warm sandboxes, seen from the server: the template they are forked in, one that waits, its one job."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import platform
import re
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from unsandbox.sandbox import proc_masks
from unsandbox.sandbox.host.job_script import MARK_START
from unsandbox.sandbox.host.launcher_client import CgroupReport, Ending, LauncherControl
from unsandbox.sandbox.host.running_job import ArtifactReader, SandboxJob
from unsandbox.sandbox.languages.table import LanguageTable
from unsandbox.sandbox.launcher.cgroups import Group
from unsandbox.sandbox.launcher.fd_numbers import INFO_FD
from unsandbox.sandbox.layout import ARTIFACT_FOLDER, DEFAULT_ENV, HOSTNAME, PREPARED_FOLDERS, SHM, TMP, WORK
from unsandbox.sandbox.native import first_process
from unsandbox.sandbox.seccomp import compiler as seccomp
from unsandbox.sandbox.spec import Captured, Limits, OutputSink, SandboxSpec
from unsandbox.sandbox.system import System
from unsandbox.sandbox.zygote.lockdown import SYSTEM_CALLS
from unsandbox.sandbox.zygote.main import COMMANDS, FIRST_PROCESS, MAIN

PYTHON = ("python3", MAIN)
"""The command of programs that the waiting interpreter runs itself; any other is executed by it."""
_PARTS = ("prefault", "lockdown", "main")
"""The modules that a zygote loads, in this order."""
_CAPABILITIES = ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "NET_ADMIN", "SYS_NICE")
"""What a zygote needs to make sandboxes; they themselves have none."""
_READS_AT_START = re.compile(r"PYTHON|LD_|LC_|MALLOC_|GLIBC_|GCONV_|(LANG|LANGUAGE|HOME|PATH|TZ)\Z")
"""Variables that an interpreter, its loader or its C library looks at once, when it starts."""
_INLINE_BYTES = 1 << 16
_TOO_MANY_REPORTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolContext:
    """What every pool uses of its backend.

    Attributes:
        control: The launcher.
        cgroup: Its control groups.
        discard_fd: Where surplus output goes.
        users: The users that sandboxes run as, by slot; None when all run as the server's.
        take_slot: Returns a free slot, or raises `SandboxError`.
        free_slot: Takes it back.
    """

    control: LauncherControl
    cgroup: CgroupReport
    discard_fd: int
    users: range | None
    take_slot: Callable[[], int]
    free_slot: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Template:
    """What a zygote is started in.

    Attributes:
        root: The read-only root folder.
        system: Where `/usr` comes from.
        system_paths: What else of it all sandboxes see; each has a mount point in `root`.
        env: Variables of Python programs beyond the defaults.
        as_root: Whether the server is root, and needs no user namespace to make others.
        own_users: Whether each sandbox gets a user of its own; if not, all map the zygote's.
    """

    root: Path
    system: System
    system_paths: Iterable[str]
    env: Mapping[str, str]
    as_root: bool
    own_users: bool

    def arguments(self, files: Mapping[str, int]) -> bytes:
        """Return bubblewrap's options, NUL-separated.

        Args:
            files: Descriptor numbers of the files to be present, by path.
        """
        words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"]
        if not self.as_root:
            words += ["--unshare-user", "--uid", "0", "--gid", "0"]
        words += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--cap-drop", "ALL"]
        # The kernel wants the last one of who maps the root of the namespace around it.
        for name in (*_CAPABILITIES, *([] if self.own_users else ["SETFCAP"])):
            words += ["--cap-add", f"CAP_{name}"]
        words += [
            "--hostname",
            HOSTNAME,
            "--ro-bind",
            str(self.root),
            "/",
            "--ro-bind",
            str(self.system.usr),
            "/usr",
        ]
        for path in self.system_paths:
            words += ["--ro-bind", str(self.system.path(path)), path]
        words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", SHM, "--remount-ro", "/dev"]
        words += ["--perms", "1777", "--tmpfs", TMP, "--perms", "0755", "--tmpfs", WORK, "--chdir", WORK]
        words += ["--info-fd", str(INFO_FD)]
        for path, fd in files.items():
            words += ["--perms", "0555", "--file", str(fd), path]
        for name, value in (DEFAULT_ENV | dict(self.env) | {"PWD": WORK}).items():
            words += ["--setenv", name, value]
        return b"".join(os.fsencode(word) + b"\0" for word in words)

    def files(self, bpf: bytes, version: str, folders: Sequence[str]) -> dict[str, bytes]:
        """Return what brings the zygote's code into the interpreter, by path.

        Args:
            bpf: The system call filter of the sandboxes.
            version: The interpreter's, as in the name of its folders: `3.11`.
            folders: What is made in each sandbox before it is ready.
        """
        folder = resources.files("unsandbox.sandbox.zygote")
        known = seccomp.numbers(platform.machine())
        numbers = {name: known[name] for name in SYSTEM_CALLS if name in known}
        masks = proc_masks.masked_files(), proc_masks.masked_folders()
        settings = numbers, bpf, *masks, first_process.build_spawner()
        parts = {f"{WORK}/.{name}": (folder / f"{name}.py").read_bytes() for name in _PARTS}
        parts[f"{WORK}/.install"] = f"install(lambda: Setup(*{settings!r}), {list(folders)!r})\n".encode()
        executed = "; ".join(f"exec(open({path!r}).read(), n)" for path in parts)
        load = f"import sys; n = {{'__name__': 'zygote'}}; {executed}"
        site = f"{WORK}/.local/lib/python{version}/site-packages"
        first = first_process.build_waiter()
        return {
            **parts,
            f"{site}/zygote.pth": load.encode(),
            **({} if first is None else {FIRST_PROCESS: first}),
        }


def python_version(system: System) -> str | None:
    """Return the version of the `python3` that a sandbox finds, by its file name; None if that says none."""
    for folder in ("local/bin", "bin"):
        path = system.usr / folder / "python3"
        for _ in range(10):
            if not path.is_symlink():
                break
            path = path.parent / path.readlink()
            if found := re.fullmatch(r"python(3\.\d+)", path.name):
                return found[1]
    return None


def runs_in_process(spec: SandboxSpec, template_env: Mapping[str, str]) -> bool:
    """Whether the waiting interpreter is in the state in which a fresh one would begin this program."""
    if tuple(spec.run[:2]) != PYTHON or spec.compile is not None:
        return False
    changed = {
        name for name in spec.env.keys() | template_env.keys() if spec.env.get(name) != template_env.get(name)
    }
    return not any(_READS_AT_START.match(name) for name in changed)


def waiting_kind(spec: SandboxSpec) -> int | None:
    """Return in which kind of sandbox an interpreter waits that would begin this program.

    It was started without variables and input of a job's own.
    """
    kind = next((kind for kind, command in COMMANDS.items() if tuple(spec.run) == command), None)
    if kind is None or spec.compile is not None or spec.env or spec.stdin:
        return None
    there = any(file.path == spec.run[1] and file.mode == 0o644 for file in spec.files)
    return kind if there else None


def encode_job(
    spec: SandboxSpec,
    *,
    in_process: bool,
    report: bool,
    said: bytes,
    present: Collection[str],
    known: Mapping[str, str],
) -> tuple[bytes, bytes | None]:
    """Return the message that a waiting sandbox takes, and what goes into a file because it is too long.

    Args:
        spec: The job.
        in_process: Whether the waiting interpreter runs it.
        report: Whether the sandbox hands over what it has compiled before it goes on.
        said: What a compile step of an earlier run wrote to stderr.
        present: Folders that are there already.
        known: Variables that the waiting interpreter has.
    """
    folders = [*spec.folders, *([ARTIFACT_FOLDER] if spec.collect_artifacts else [])]
    if in_process:
        env = {name: value for name, value in spec.env.items() if known.get(name) != value}
    else:
        env = {**DEFAULT_ENV, "PWD": WORK, **spec.env}
    content = {
        "attached": False,
        "run": None if in_process else list(spec.run),
        "args": list(spec.run[2:]),
        "report": spec.compiled if report else None,
        "said": said,
        "compile": None if spec.compile is None else list(spec.compile),
        "env": env,
        "folders": [folder for folder in folders if folder not in present],
        # Artifacts are looked for when every process but the first is gone.
        "early": not (spec.collect_artifacts or spec.artifact_paths),
        "files": [(file.path, file.mode, file.data) for file in spec.files],
    }
    # The oldest version that has all of these types: the other side may be any Python 3.
    size = sum(len(file.data) for file in spec.files)
    if size < _INLINE_BYTES:
        message = marshal.dumps(content, 2)
        if len(message) < _INLINE_BYTES:
            return message, None
    return marshal.dumps({"attached": True}, 2), marshal.dumps(content, 2)


class WarmSandbox:
    """A sandbox on its way to be ready, ready, or in use; implements `JobEvents`."""

    def __init__(
        self,
        *,
        control: socket.socket,
        stdout_fd: int,
        stderr_fd: int,
        slot: int,
        on_ready: Callable[[WarmSandbox], None],
        on_over: Callable[[WarmSandbox, str | None], None],
    ) -> None:
        self.control = control
        self.stdout_fd, self.stderr_fd = stdout_fd, stderr_fd
        self.slot = slot
        self.number = 0
        self.pid = self.pidfd = -1
        self.group: Group | None = None
        self.cpu_s = 0.0
        """What the preparation has used of the processors; no job pays for it."""
        self.job: WarmJob | None = None
        self._said_ready = False
        self._watching = True
        self._error: str | None = None
        self._on_ready, self._on_over = on_ready, on_over
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._read)

    @property
    def ready(self) -> bool:
        """Whether a job can be sent."""
        return self._said_ready and self.pidfd >= 0

    def started(self, pid: int, pidfd: int) -> None:
        """The sandbox's first process exists."""
        self.pid, self.pidfd = pid, pidfd
        self._check()

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left, or it could not be made."""
        if self.job is not None:
            self.job.ended(ending)
        else:
            self.discard()
        self._on_over(self, ending.error or self._error)

    def hand_over(self) -> None:
        """Stop looking at the socket: a job takes the descriptors."""
        if self._watching:
            self._loop.remove_reader(self.control.fileno())
            self._watching = False

    def discard(self) -> None:
        """Close the descriptors: a sandbox that waits for a job ends by that."""
        self.hand_over()
        self._said_ready = False
        self.control.close()
        for fd in (self.stdout_fd, self.stderr_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdout_fd = self.stderr_fd = self.pidfd = -1

    def kill(self) -> None:
        """Kill everything in it, whatever it does."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.discard()

    def _read(self) -> None:
        try:
            data = self.control.recv(_TOO_MANY_REPORTS)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data == b"ready\n":
            self._said_ready = True
            if self.group is not None:
                self.cpu_s = self.group.cpu_s() or 0.0
            self._check()
            return
        if data:
            self._error = data.decode("utf-8", "replace").strip()
        # It ends, and the launcher will say so. Until then nothing more is to be read.
        self._said_ready = False
        self.hand_over()

    def _check(self) -> None:
        if self.ready:
            self._on_ready(self)


class WarmJob(SandboxJob):
    """A job in a sandbox that was waiting: it ends when the first process says so, not when it is torn down."""

    def __init__(
        self,
        prepared: WarmSandbox,
        spec: SandboxSpec,
        *,
        discard_fd: int,
        sink: OutputSink | None,
        on_over: Callable[[SandboxJob], None],
        on_compiled: Callable[[int, Captured], None] | None = None,
        reader: ArtifactReader | None = None,
    ) -> None:
        """Take a sandbox that waits.

        Args:
            prepared: The sandbox.
            spec: What it will be sent.
            discard_fd: Where output goes that is not kept.
            sink: Sees output as it comes.
            on_over: Called when the result is known.
            on_compiled: Called once with a descriptor of what the compile step made, and what it said; the
                program does not run before this returns.
            reader: As of `SandboxJob`.
        """
        self._on_compiled = on_compiled
        self._handed: list[int] = []
        self._prepared = prepared
        prepared.hand_over()
        super().__init__(
            spec,
            control=prepared.control,
            stdout_fd=prepared.stdout_fd,
            stderr_fd=prepared.stderr_fd,
            discard_fd=discard_fd,
            sink=sink,
            on_over=on_over,
            reader=reader,
        )
        pid, pidfd = prepared.pid, prepared.pidfd
        prepared.stdout_fd = prepared.stderr_fd = prepared.pidfd = -1
        prepared.job = self
        self.started(pid, pidfd)

    def ended(self, ending: Ending) -> None:
        """No process of the sandbox is left; see `SandboxJob.ended`."""
        if ending.cpu_s is not None:
            ending = Ending(
                ending.exit_code,
                max(0.0, ending.cpu_s - self._prepared.cpu_s),
                ending.peak_memory_bytes,
                ending.out_of_memory,
                ending.error,
            )
        super().ended(ending)

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far, without those of the preparation."""
        used = None if self._prepared.group is None else self._prepared.group.cpu_s()
        return None if used is None else max(0.0, used - self._prepared.cpu_s)

    def _look_again(self) -> None:
        # Its first process has let go of the output: what ends the streams is the last one that holds it.
        self._look_later()

    def begin(self) -> None:
        """The job was sent: its time runs."""
        self._take_report(MARK_START + b" ")

    def _receive(self, size: int) -> bytes:
        if self._on_compiled is None:
            # What else is attached is closed by the kernel.
            return super()._receive(size)
        data, fds, _, _ = socket.recv_fds(self._control, size, 1, socket.MSG_CMSG_CLOEXEC)
        self._handed += fds
        return data

    def _take_report(self, line: bytes) -> None:
        super()._take_report(line)
        if line == b"compiled" and self._on_compiled is not None and self._handed:
            tell, self._on_compiled = self._on_compiled, None
            # Whatever the compiler wrote lies in the pipe by now.
            self._streams["stderr"].read_now()
            tell(self._handed[0], self._streams["stderr"].result())
            with contextlib.suppress(OSError):
                self._control.send(b"go")
        while self._handed:
            os.close(self._handed.pop())

    def _wind_up(self) -> None:
        super()._wind_up()
        group = self._prepared.group
        if self._wound_up and self._exit_code is not None and self._ending is None and group is not None:
            # All its processes but the first are gone, and that one is being killed: the count is complete.
            usage = group.usage(ended_well=self._exit_code == 0)
            if usage.cpu_s is None:
                return  # The launcher has just removed the group, and is about to say what it counted.
            self.ended(Ending(0, usage.cpu_s, usage.peak_memory_bytes, usage.oom_kills > 0))


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How many sandboxes wait for jobs.

    Attributes:
        size: How many wait when there is little to do.
        most: How many wait at most, when there is much.
        system_paths: What the toolchains of all languages need outside /usr.
        python_env: Variables of Python programs.
        limits: What a waiting sandbox is bounded by; memory, processors and time of its job may differ.
        folders: What is made in advance, as nearly all jobs want it.
        forks_per_zygote: After so many a new one takes over: its forks share hash seed and memory layout.
    """

    size: int = 4
    most: int = 32
    system_paths: tuple[str, ...] = ()
    python_env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    folders: tuple[str, ...] = ()
    forks_per_zygote: int = 500


def pool_for(table: LanguageTable, size: int, most: int, limits: Limits) -> PoolConfig:
    """Return the pool that serves every language of a table.

    Args:
        table: The languages.
        size: How many sandboxes wait when there is little to do.
        most: How many wait at most.
        limits: Those of most jobs.
    """
    paths = {pattern: None for language in table.available() for pattern in language.system_paths}
    return PoolConfig(
        size=size,
        most=max(size, most),
        system_paths=tuple(paths),
        python_env=dict(table["python"].env),
        limits=limits,
        folders=PREPARED_FOLDERS,
    )
