"""Persistent sandboxes, which sessions and services run in: the interface between engine and backends.

A persistent sandbox runs any number of programs, one after another or at the same time, and can be frozen. It
ends when it is closed, when its first process dies, or with the server. Its work folder (`/work`, the home of
its user) is on disk with a quota; all other writable files are in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from unsandbox.sandbox.spec import GIB, MIB, Artifact, Captured, NetworkMode, SandboxFile


@dataclass(frozen=True, slots=True)
class PersistentLimits:
    """Limits of a persistent sandbox, in bytes. `vcpu` and `memory_bytes` can be changed while it runs."""

    vcpu: float = 1.0
    memory_bytes: int = 2 * GIB
    processes: int = 512
    open_files: int = 4096
    tmpfs_bytes: int = 512 * MIB
    work_bytes: int = 2 * GIB
    """Quota of the work folder, on disk."""


@dataclass(frozen=True, slots=True)
class PersistentSpec:
    """The specification of a persistent sandbox."""

    limits: PersistentLimits = field(default_factory=PersistentLimits)
    network: NetworkMode = NetworkMode.ZEROTRUST
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every program started in it."""
    files: Sequence[SandboxFile] = ()
    low_ports: bool = False
    """Allow its programs to listen on ports below 1024."""
    system_paths: Sequence[str] = ()
    """See `SandboxSpec`."""
    environment: Path | None = None
    """See `SandboxSpec`."""
    work_disk: Path | None = None
    """Path of the work folder's disk on the host. The disk is created if it does not exist, is kept when the
    sandbox or the server ends, and is used by the next sandbox with the same path. None: a disk that is removed
    with the sandbox."""
    work_archive: Path | None = None
    """A tar archive (optionally compressed with zstd) with the initial content of the work folder."""
    hot_image: Path | None = None
    """A folder that `PersistentSandbox.checkpoint` of the same backend wrote. The sandbox starts with its
    memory, processes and files, and `work_archive` is ignored."""


@dataclass(frozen=True, slots=True)
class HashedBytes:
    """The SHA-256 of a file in hex and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """The outcome of a program in a persistent sandbox. `exit_code` is 128 + N after signal N."""

    exit_code: int
    stdout: Captured
    stderr: Captured
    wall_s: float
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a program has used: seconds of CPU time, and the most memory in bytes that it held."""

    cpu_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class SandboxUsage:
    """What a persistent sandbox uses now, in seconds and bytes; None where nothing counts it."""

    cpu_s: float | None = None
    memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    processes: int | None = None


class RunningProcess(Protocol):
    """A program in a persistent sandbox. It owns its descriptors: the host's ends, non-blocking."""

    terminal_fd: int | None
    """The master of its terminal, if it has one: read output, write input, set the window size."""
    stdin_fd: int | None
    stdout_fd: int | None
    stderr_fd: int | None
    """Its pipes, if it has no terminal."""

    async def wait(self) -> int:
        """Return its exit code; safe to call more than once."""

    def usage(self) -> ProcessUsage | None:
        """Return what it has used, with the children that it waited for; None if that is not known (yet)."""

    def kill(self, signal_number: int = 9) -> None:
        """Send a signal to its process group."""

    def kill_session(self) -> None:
        """Kill everything in the program's session, also jobs in the background."""

    def take(self, name: str) -> int:
        """Hand over a descriptor by its name; the caller closes it.

        Raises:
            SandboxError: The program does not have it.
        """

    def close(self) -> None:
        """Close the descriptors that are still open. The program continues."""


class PersistentSandbox(Protocol):
    """A persistent sandbox. It belongs to the event loop that created it."""

    frozen: bool
    backend: str
    """Name of its backend."""
    end_reason: str
    """Why it ended by itself, for people; empty if this is not known."""
    end_cause: str
    """The same for programs: `memory`, `disk`, `node` (the server's helper process ended) or `lost`."""
    lasting: RunningProcess | None
    """The program on pipes that a checkpoint includes: set it before `checkpoint`. After a start from a hot
    image it is the restored program with new pipes, if that still runs."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
        terminal: tuple[int, int] | None = None,
    ) -> RunningProcess:
        """Start a program with pipes, or on a terminal of (columns, rows).

        Raises:
            SandboxError: The sandbox has ended, or the program cannot be started.
        """

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
        stdin: bytes = b"",
        timeout_s: float | None = None,
        output_bytes: int = 10 * MIB,
    ) -> CommandOutcome:
        """Run a program to its end and return its output; at the timeout its process group is killed."""

    async def put_files(self, files: Sequence[SandboxFile]) -> None:
        """Write files as the sandbox's user; parent folders are created. Links never lead outside."""

    async def collect(self, folder: str = "/tmp/artifacts") -> tuple[list[Artifact], list[str]]:  # noqa: S108
        """Return the regular files below a folder, and the names that were skipped with the reasons."""

    async def freeze(self) -> None:
        """Suspend every process; return when they use no CPU any more. May be repeated."""

    async def unfreeze(self) -> None:
        """Resume every process."""

    async def set_limits(self, *, vcpu: float | None = None, memory_bytes: int | None = None) -> None:
        """Change limits of the running sandbox.

        Raises:
            SandboxUnavailable: This machine cannot enforce them, because it has no control groups.
        """

    async def archive_work(self, destination: Path) -> HashedBytes:
        """Write the work folder as a zstd-compressed tar archive; return its hash and size.

        The sandbox is frozen meanwhile. The archive is written to a temporary file beside `destination`,
        synced and renamed, so it is never incomplete.

        Raises:
            SandboxError: It could not be read.
            OSError: The disk is full or failed.
        """

    async def replace_work(self, archive: Path) -> None:
        """Replace the content of the work folder by an archive's; no entry is written outside the folder.

        Raises:
            InvalidArchiveError: The archive is damaged or has a forbidden entry; nothing has changed.
            SandboxError: It could not be unpacked; the work folder is incomplete.
            OSError: It does not fit (`EDQUOT`; the work folder is incomplete), or could not be read.
        """

    async def checkpoint(self, folder: Path) -> int:
        """Write files, memory and running processes into a new folder; return its size in bytes.

        The sandbox continues. The checkpoint is written beside `folder`, synced and renamed, so it is never
        incomplete.

        Raises:
            SandboxUnavailable: This backend cannot write checkpoints; the message names one that can.
        """

    def disk_used(self) -> int:
        """Return the bytes that the work folder occupies."""

    def usage(self) -> SandboxUsage:
        """Return what it uses now."""

    async def copy_work(self, targets: Sequence[PersistentSandbox]) -> None:
        """Copy the work folder into other sandboxes, replacing theirs; the tenants stand still meanwhile.

        Raises:
            SandboxError: A folder could not be read or written; the targets are incomplete.
            OSError: It does not fit into a target (`EDQUOT`).
        """

    async def start_unpacking(self) -> RunningProcess:
        """Start a program that replaces the work folder by the tar archive on its standard input."""

    def memory_kills(self) -> int:
        """Return how many of its processes were killed at the memory limit, as far as it is counted."""

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; None if nothing counts them."""

    async def connect(self, port: int) -> int:
        """Return a connected, non-blocking TCP socket descriptor to 127.0.0.1:port *inside* the sandbox.

        Raises:
            ConnectionError: Nothing listens there.
        """

    async def wait_ended(self) -> None:
        """Return when the sandbox has ended by itself or was closed."""

    async def close(self) -> None:
        """Kill every process in it, and release its disk and control groups. May be repeated."""
