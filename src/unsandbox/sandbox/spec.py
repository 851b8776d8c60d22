"""Specifications and outcomes of jobs: the interface between engine and isolation backends.

A backend takes a `SandboxSpec`, runs it in a fresh sandbox and returns an `Outcome`. Failures of the program
(crash, flood, fork bomb) are outcomes, not exceptions. A backend raises `SandboxUnavailable` if the machine
cannot provide the requested isolation, and `SandboxError` if the backend itself failed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from unsandbox.protocol.contents import Content

MIB = 1 << 20
EXIT_KILLED = 137
"""Exit code of a killed program, as in shells: 128 and the number of SIGKILL."""
GIB = 1 << 30


class NetworkMode(enum.StrEnum):
    """The network of a sandbox: `zerotrust` has the loopback interface only, `semitrusted` is outbound only."""

    ZEROTRUST = "zerotrust"
    SEMITRUSTED = "semitrusted"


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one sandbox. Sizes in bytes, times in seconds."""

    wall_s: float = 60.0
    vcpu: float = 1.0
    memory_bytes: int = 2 * GIB
    processes: int = 256
    open_files: int = 1024
    tmpfs_bytes: int = 1 * GIB
    """Size of each writable in-memory file system (/work and /tmp; /dev/shm gets a quarter)."""
    output_bytes: int = 10 * MIB
    """Stored bytes per stream; the rest is counted and dropped."""
    flood_bytes: int = 1 * GIB
    """A program that writes more than this to one stream is killed."""
    artifact_bytes: int = 128 * MIB
    """All artifacts of one job together."""
    artifact_files: int = 1000
    compile_s: float | None = None
    """Of the compile step; `wall_s` then counts from its end. None: `wall_s` bounds both together."""
    cpu_s: float | None = None
    """CPU time of the program; None for no bound but that of the clock."""


@dataclass(frozen=True, slots=True)
class SandboxFile:
    """A file that exists before the program starts, as bytes or as a place in a file.

    `path` is absolute inside the sandbox.
    """

    path: str
    data: bytes | Content
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One job: its files, an optional compile step, the program, its input and its limits."""

    run: Sequence[str]
    compile: Sequence[str] | None = None
    """Runs first, in the same sandbox; its stdout goes to stderr. A non-zero exit ends the job."""
    files: Sequence[SandboxFile] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of the program, beyond the defaults."""
    compile_env: Mapping[str, str] = field(default_factory=dict)
    """Variables of the compile step, beyond the defaults; it sees none of `env`."""
    stdin: bytes = b""
    network: NetworkMode = NetworkMode.ZEROTRUST
    limits: Limits = field(default_factory=Limits)
    collect_artifacts: bool = False
    """Return the files in /tmp/artifacts after the program has ended."""
    artifact_paths: Sequence[str] = ()
    """Further absolute paths to return if they exist (a compiled binary)."""
    folders: Sequence[str] = ()
    """Absolute paths of folders that exist before the program starts, empty except for `files`."""
    compile_apart: bool = False
    """Return the output of the compile step separately from the program's stderr."""
    compiled: str | None = None
    """Absolute path of the file that `compile` writes and `run` needs, if it is a single file."""
    cache_scope: str = ""
    """Owner of the job, whose later jobs may use the compiled program; empty to compile each time."""
    system_paths: Sequence[str] = ()
    """Paths outside /usr that the toolchain reads: patterns below /etc or /var/lib (`/etc/java-*-openjdk`)."""
    environment: Path | None = None
    """Host folder that the sandbox sees at `/opt/env`, read-only."""


class EndReason(enum.StrEnum):
    """Why a job ended."""

    EXITED = "exited"
    """The program exited or was killed by a signal from inside the sandbox; also a failed compile step."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    CPU_TIME = "cpu_time"
    """The program used more CPU time than it may."""
    MEMORY = "memory"
    """The memory limit killed it."""
    OUTPUT_FLOOD = "output_flood"


@dataclass(frozen=True, slots=True)
class Captured:
    """One output stream: its first `output_bytes` bytes, and its total size."""

    data: bytes = b""
    total_bytes: int = 0

    @property
    def dropped_bytes(self) -> int:
        """Number of bytes that were written but not stored."""
        return self.total_bytes - len(self.data)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A regular file that the program left: name, bytes or their place in a file, permission bits."""

    filename: str
    data: bytes | Content
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job, times in seconds.

    `exit_code` is 128 + N after signal N, and None if the engine killed the program.
    """

    reason: EndReason
    exit_code: int | None
    stdout: Captured
    stderr: Captured
    wall_s: float
    """Time from the start of the first step (compile or run) to the end, without the set-up of the sandbox."""
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    compile_failed: bool = False
    compiling: bool = False
    """Whether the job ended during its compile step, for any reason."""
    compile_output: Captured | None = None
    """The output of the compile step, if the specification has `compile_apart`."""
    artifacts: Sequence[Artifact] = ()
    artifacts_skipped: Sequence[str] = ()
    """Names that were skipped, each with its reason: `name: symbolic link`."""
    output_cut: bool = False
    """Whether processes that outlived the program were killed while they held its output."""


class OutputSink(Protocol):
    """Receives the stored part of the output as it is written; called on the event loop, must not block."""

    def __call__(self, stream: str, data: bytes) -> None:
        """`stream` is `stdout` or `stderr`; `data` is never empty."""


@runtime_checkable
class SharingSink(OutputSink, Protocol):
    """A sink that reads the bytes where the sandbox keeps them, so that they are in memory once."""

    def share(self, stream: str, kept: bytearray) -> None:
        """Receive the stored part of a stream, which only grows; the sink is called each time."""


@runtime_checkable
class RunningJob(Protocol):
    """A started job: awaitable through `wait`, ended early through `cancel`."""

    async def wait(self) -> Outcome:
        """Return the outcome; safe to call more than once and from several tasks."""

    def cancel(self) -> None:
        """Kill the whole process tree now; `wait` then returns with reason `cancelled` and partial output."""

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; None if nothing counts them while the job runs."""


@dataclass(frozen=True, slots=True)
class Check:
    """One result of a probe: a protection, whether it is enforced here, and by which means.

    Attributes:
        name: The protection.
        ok: Whether it is enforced.
        enforced_by: The means.
        detail: The reason why it is missing or weaker.
        remedy: The command that brings it on this machine; empty if nothing does.
    """

    name: str
    ok: bool
    enforced_by: str
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a backend can enforce on this machine; the data behind `un doctor` and `/health`."""

    backend: str
    usable: bool
    checks: Sequence[Check]
    reason: str = ""
    """Why it is not usable and what to do about it; empty when usable."""
