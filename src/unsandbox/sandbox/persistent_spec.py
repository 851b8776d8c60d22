"""Sandboxes that stay: what sessions and services are made of. The interface between engine and backend.

A live sandbox is made once, runs any number of programs one after another or side by side, can be frozen, and
ends when it is closed, when its first process dies, or with the server. Its work folder (`/work`, the home of
its user) lies on disk with a quota; everything else in it that can be written is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from unsandbox.sandbox.spec import GIB, MIB, Artifact, Captured, NetworkMode, SandboxFile


@dataclass(frozen=True, slots=True)
class PersistentLimits:
    """Bounds of a live sandbox. Sizes in bytes. `vcpu` and `memory_bytes` can be changed while it lives."""

    vcpu: float = 1.0
    memory_bytes: int = 2 * GIB
    processes: int = 512
    open_files: int = 4096
    tmpfs_bytes: int = 512 * MIB
    work_bytes: int = 2 * GIB
    """Quota of the work folder, on disk."""


@dataclass(frozen=True, slots=True)
class PersistentSpec:
    """What a live sandbox is made of."""

    limits: PersistentLimits = field(default_factory=PersistentLimits)
    network: NetworkMode = NetworkMode.ZEROTRUST
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every program started in it."""
    files: Sequence[SandboxFile] = ()
    low_ports: bool = False
    """Let its programs listen on ports below 1024, which elsewhere takes root."""
    system_paths: Sequence[str] = ()
    """As in `SandboxSpec`."""
    work_disk: Path | None = None
    """Where the work folder's disk lies on the host. It is made when it does not exist, kept when the sandbox
    closes or the server dies, and used again by the next sandbox that names it. None: a disk that goes with
    the sandbox."""
    work_archive: Path | None = None
    """A tar archive (optionally zstd) whose content the work folder has at the start."""
    hot_image: Path | None = None
    """A folder that `PersistentSandbox.checkpoint` of the same backend wrote: the sandbox starts with its
    memory, processes and files, and `work_archive` is ignored."""


@dataclass(frozen=True, slots=True)
class HashedBytes:
    """The SHA-256 of a file in hex, which names it, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What a program in a live sandbox did. `exit_code` is 128 + N for a death by signal N."""

    exit_code: int
    stdout: Captured
    stderr: Captured
    wall_s: float
    timed_out: bool = False


class RunningProcess(Protocol):
    """A program started in a live sandbox. It owns its descriptors: the host's ends, non-blocking."""

    terminal_fd: int | None
    """The master of its terminal, when it has one: read output, write input, set the window size."""
    stdin_fd: int | None
    stdout_fd: int | None
    stderr_fd: int | None
    """Its pipes, when it has no terminal."""

    async def wait(self) -> int:
        """Return its exit code; safe to call more than once."""

    def kill(self, signal_number: int = 9) -> None:
        """Send a signal to it and all of its process group."""

    def close(self) -> None:
        """Close the descriptors that are still open. The program itself goes on."""


class PersistentSandbox(Protocol):
    """A sandbox that stays until it is closed. Belongs to the event loop that made it."""

    frozen: bool
    backend: str
    """Name of the backend that made it."""
    lasting: RunningProcess | None
    """A program on pipes that a restored sandbox shall have again: set before `checkpoint`; after a start from
    a hot image it is the restored program with pipes of its own, if it still runs."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
        terminal: tuple[int, int] | None = None,
    ) -> RunningProcess:
        """Start a program, with pipes, or on a terminal of (columns, rows).

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
        """Run a program to its end and return what it wrote; at the timeout its process group is killed."""

    async def put_files(self, files: Sequence[SandboxFile]) -> None:
        """Write files into it, as its user; parent folders are made. Links inside are never followed out."""

    async def collect(self, folder: str = "/tmp/artifacts") -> tuple[list[Artifact], list[str]]:  # noqa: S108
        """Return the regular files below a folder, and the names that were left out with the reasons."""

    async def freeze(self) -> None:
        """Stop every process where it is; returns when they use no CPU any more. Repeating does no harm."""

    async def unfreeze(self) -> None:
        """Let every process go on."""

    async def set_limits(self, *, vcpu: float | None = None, memory_bytes: int | None = None) -> None:
        """Change limits of the living sandbox.

        Raises:
            SandboxUnavailable: Nothing on this machine can enforce them (no control groups).
        """

    async def archive_work(self, destination: Path) -> HashedBytes:
        """Write the work folder as a zstd-compressed tar archive, frozen while it is read; return what it is.

        Written to a temporary name beside `destination`, fsynced and renamed: never half there.
        """

    async def replace_work(self, archive: Path) -> None:
        """Replace the content of the work folder by an archive's. Nothing in it can escape the folder."""

    async def checkpoint(self, folder: Path) -> int:
        """Write files, memory and running processes into a new folder; return its bytes. The sandbox goes on.

        Written beside `folder`, fsynced and renamed: never half there.

        Raises:
            SandboxUnavailable: This backend cannot; the message says which can.
        """

    def disk_used(self) -> int:
        """Return the bytes that the work folder takes."""

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; None where nobody counts."""

    async def connect(self, port: int) -> int:
        """Return a connected, non-blocking TCP socket descriptor to 127.0.0.1:port *inside* the sandbox.

        Raises:
            ConnectionError: Nothing listens there.
        """

    async def wait_ended(self) -> None:
        """Return when the sandbox has ended by itself or was closed."""

    async def close(self) -> None:
        """Kill everything in it, release disk and groups. Repeating does no harm."""
