"""Control groups: limits on memory, processes and CPU time of a whole sandbox, and its usage.

There are three kinds of machines: cgroup v2 with its controllers, v1 with one hierarchy per controller, or
neither writable. In the last case the launcher sets resource limits per process, and its watchdog adds up the
memory of the sandbox; this is weaker, and the probe reports it.

The launcher, a bare interpreter, loads this module: standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WANTED = ("memory", "pids", "cpu")
_THREADS = {1: "tasks", 2: "cgroup.threads"}
_CPU_PERIOD_US = 100_000
_SENTRY_MEMORY = "/memfd:runsc-memory"
_TCP_MEMORY = "memory.kmem.tcp.limit_in_bytes"
_MOST_TCP_MEMORY, _LEAST_TCP_MEMORY = 64 << 20, 1 << 20
_ABSENT: set[tuple[str, str]] = set()
"""Folders and names of settings that groups in them do not have, as the kernel was built without."""
_EXTRA_PROCESSES = 3
"""Processes that do not belong to the tenant: the monitor, the job script and the fork between them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one group: memory in bytes, CPU in processors."""

    memory_bytes: int
    processes: int
    vcpu: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of one group: seconds, bytes, processes killed for lack of memory. None where nothing counts it."""

    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """For each controller, the directory that contains this server's groups."""

    version: int
    parents: Mapping[str, Path]

    def controllers(self) -> list[str]:
        """Return the names of the controllers that can be used here."""
        return sorted(self.parents)

    def folders(self) -> list[Path]:
        """Return each distinct parent directory once (v1 may mount two controllers together)."""
        return sorted(set(self.parents.values()))


def group_name(number: int) -> str:
    """Return the name of the group of the sandbox with a number."""
    return f"job-{number}"


class Group:
    """The control group of one sandbox, in every usable hierarchy."""

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self._version = hierarchy.version
        # As text, because every job has a group, and Path objects cost more than the system calls.
        self._folders = {controller: f"{parent}/{name}" for controller, parent in hierarchy.parents.items()}

    def create(self, bounds: Bounds) -> None:
        """Create the group and set its limits, completely or not at all.

        Raises:
            OSError: The kernel refused a directory or a value.
        """
        try:
            self._create(bounds)
        except OSError:
            self.remove()
            raise

    def _create(self, bounds: Bounds) -> None:
        for folder in set(self._folders.values()):
            os.mkdir(folder)  # noqa: PTH102
        self.change(bounds)

    def change(self, bounds: Bounds) -> None:
        """Set the limits of the group.

        Raises:
            OSError: The kernel refused a value: more memory is in use than it could take back.
        """
        settings = self._settings_v2(bounds) if self._version == 2 else self._settings_v1(bounds)
        # The limit of memory and swap must never be below that of memory, so it is raised first.
        self._bound_swap(bounds)
        for controller, file, value in settings:
            if controller in self._folders:
                write(f"{self._folders[controller]}/{file}", value)
        self._bound_swap(bounds)
        if self._version == 1:
            # Version 1 counts and limits the buffers of sockets separately from all other memory.
            most = min(_MOST_TCP_MEMORY, max(_LEAST_TCP_MEMORY, bounds.memory_bytes // 4))
            self._write_if_present("memory", _TCP_MEMORY, str(most))

    def _bound_swap(self, bounds: Bounds) -> None:
        for controller, file, value in self._swap_settings(bounds):
            # The file does not exist if the kernel does not count swap.
            self._write_if_present(controller, file, value)

    def _write_if_present(self, controller: str, file: str, value: str) -> None:
        folder = self._folders.get(controller)
        if folder is None or (absent := (os.path.dirname(folder), file)) in _ABSENT:  # noqa: PTH120 - as above
            return
        try:
            write(f"{folder}/{file}", value)
        except OSError:
            if os.path.exists(folder) and not os.path.exists(f"{folder}/{file}"):  # noqa: PTH110
                _ABSENT.add(absent)

    @staticmethod
    def _settings_v1(bounds: Bounds) -> list[tuple[str, str, str]]:
        # The period is the kernel's default.
        return [
            ("memory", "memory.limit_in_bytes", str(bounds.memory_bytes)),
            ("pids", "pids.max", str(bounds.processes + _EXTRA_PROCESSES)),
            ("cpu", "cpu.cfs_quota_us", str(max(1000, int(bounds.vcpu * _CPU_PERIOD_US)))),
        ]

    @staticmethod
    def _settings_v2(bounds: Bounds) -> list[tuple[str, str, str]]:
        return [
            ("memory", "memory.max", str(bounds.memory_bytes)),
            ("pids", "pids.max", str(bounds.processes + _EXTRA_PROCESSES)),
            ("cpu", "cpu.max", f"{max(1000, int(bounds.vcpu * _CPU_PERIOD_US))} {_CPU_PERIOD_US}"),
        ]

    def _swap_settings(self, bounds: Bounds) -> list[tuple[str, str, str]]:
        if self._version == 2:
            return [("memory", "memory.swap.max", "0")]
        return [("memory", "memory.memsw.limit_in_bytes", str(bounds.memory_bytes))]

    def enter(self) -> None:
        """Move the calling, single-threaded process into the group; its children start there.

        On v1 a thread that moves itself through `tasks` needs no grace period of the kernel (up to 8 ms),
        which a write of another process's number to `cgroup.procs` would.
        """
        file = "cgroup.procs" if self._version == 2 else "tasks"
        for folder in set(self._folders.values()):
            write(f"{folder}/{file}", "0")

    def entrances(self) -> list[int]:
        """Return descriptors with which a process moves itself into the group: it writes `0` to each."""
        file = "cgroup.procs" if self._version == 2 else "tasks"
        fds: list[int] = []
        try:
            for folder in set(self._folders.values()):
                fds.append(os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CLOEXEC))  # noqa: PERF401 - closed on failure
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def threads(self) -> list[int]:
        """Return the numbers of all threads in the group."""
        folder = next(iter(self._folders.values()))
        return [int(number) for number in read(Path(folder, _THREADS[self._version])).split()]

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time that the group has used so far; None if nothing counts them."""
        if self._version == 2:
            # Every v2 group counts its CPU time, even one without the controller that limits it.
            used = field(f"{next(iter(self._folders.values()))}/cpu.stat", "usage_usec")
            return None if used is None else used / 1e6
        used = _number(f"{self._folders['cpuacct']}/cpuacct.usage") if "cpuacct" in self._folders else None
        return None if used is None else used / 1e9

    def memory_in_use(self) -> int | None:
        """Return the bytes of memory in use, without files not used lately; None if they are not counted."""
        if (folder := self._folders.get("memory")) is None:
            return None
        now = _number(f"{folder}/memory.{'current' if self._version == 2 else 'usage_in_bytes'}")
        name = "inactive_file" if self._version == 2 else "total_inactive_file"
        return None if now is None else max(0, now - (field(f"{folder}/memory.stat", name) or 0))

    def processes(self) -> int | None:
        """Return how many processes and threads it has; None if they are not counted."""
        return _number(f"{self._folders['pids']}/pids.current") if "pids" in self._folders else None

    def memory_kills(self) -> int:
        """Return how many processes of the group the kernel has killed at the memory limit."""
        file = "events" if self._version == 2 else "oom_control"
        folder = self._folders.get("memory")
        return 0 if folder is None else field(f"{folder}/memory.{file}", "oom_kill") or 0

    def usage(self, *, ended_well: bool = False) -> Usage:
        """Return the group's usage so far.

        Args:
            ended_well: Whether to ignore processes in it that were killed for lack of memory.
        """
        peak, oom_kills = None, 0
        if folder := self._folders.get("memory"):
            peak = _number(f"{folder}/memory.{'peak' if self._version == 2 else 'max_usage_in_bytes'}")
            if not ended_well:
                oom_kills = self.memory_kills()
        return Usage(self.cpu_s(), peak, oom_kills)

    def remove(self) -> bool:
        """Remove the group; return False if it is still busy and the caller should try again."""
        # Not `all` over a generator: remove the other directories even if one is busy.
        gone = [remove_folder(folder) for folder in set(self._folders.values())]
        return all(gone)


def remove_folder(folder: Path | str) -> bool:
    """Remove one cgroup directory; return whether it is gone."""
    try:
        os.rmdir(folder)  # noqa: PTH106 - as above
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def members(pid: int) -> list[int]:
    """Return the host pids of a process and all its descendants that are alive."""
    found = [pid]
    for parent in found:
        found.extend(children(parent))
    return found


def children(pid: int) -> list[int]:
    """Return the host pids of a process's children, including those of all its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.extend(int(child) for child in read(task / "children").split())
    return found


def held_memory(pid: int) -> int:
    """Return the bytes of memory of a process and its descendants, without pages of files.

    Daemons are included, because orphans of a sandbox become children of its first process.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for member in members(pid):
        fields = read(Path(f"/proc/{member}/statm")).split()
        if len(fields) > 2:
            total += (int(fields[1]) - int(fields[2])) * page
    return total


def used_cpu_s(pid: int) -> float | None:
    """Return the CPU time of a process, its living descendants, and those that they have waited for.

    The kernel counts it in steps of 10 ms. None if the process is gone.
    """
    ticks = None
    for member in members(pid):
        # Behind the name, which may contain anything: the time in user mode and in the kernel, its own and that
        # of its children (proc_pid_stat(5), fields 14 to 17).
        fields = read(Path(f"/proc/{member}/stat")).rpartition(")")[2].split()[11:15]
        if len(fields) == 4:
            ticks = (ticks or 0) + sum(map(int, fields))
    return None if ticks is None else ticks / os.sysconf("SC_CLK_TCK")


def held_by_sentry(pid: int) -> int:
    """Return the bytes that a gVisor sandbox uses for its programs and the files in its memory.

    All of it lies in one anonymous file of the kernel that runs as an ordinary process, of which only parts are
    mapped at a time.
    """
    found: dict[int, int] = {}
    for member in members(pid):
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{member}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()).startswith(_SENTRY_MEMORY):
                        status = entry.stat()
                        found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def read(path: Path | str, *, at_once: bool = False) -> str:
    """Return the text of a file of the kernel, or an empty text; `at_once` reads it with a single call."""
    # `read_text` costs three times as much, and each job's usage is read before its answer is sent.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        text = part = os.read(fd, 1 << 16)
        while part and not at_once:
            part = os.read(fd, 1 << 16)
            text += part
        return text.decode()
    except OSError:
        return ""
    finally:
        os.close(fd)


def write(path: Path | str, text: str) -> None:
    """Write a setting of a control group.

    Raises:
        OSError: The kernel refuses it.
    """
    # One write call without truncation, because these are not ordinary files.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _number(path: Path | str) -> int | None:
    text = read(path, at_once=True).strip()
    return int(text) if text.isdigit() else None


def field(path: Path | str, name: str) -> int | None:
    """Return the number after `name` in a file of a control group; None if it is missing."""
    for line in read(path, at_once=True).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None
