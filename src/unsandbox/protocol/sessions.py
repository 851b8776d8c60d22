"""Types of sessions: persistent sandboxes with a shell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Self

import msgspec

from unsandbox._presentation.display import command_html
from unsandbox._presentation.failure import failure_line
from unsandbox._presentation.times import as_datetime
from unsandbox.errors import JobFailedError
from unsandbox.protocol.bounds import Code, Metadata, Word
from unsandbox.protocol.models import (
    Artifact,
    DisplayName,
    EnvironmentName,
    InputFiles,
    IsolationName,
    NetworkModeName,
    Vcpu,
    WireModel,
    exact_bytes,
)

SessionTtl = Annotated[int, msgspec.Meta(ge=1, le=30 * 86400)]

ForkCount = Annotated[int, msgspec.Meta(ge=1, le=16)]

SHELL_SUBPROTOCOL = "unsandbox-shell"
"""Subprotocol of a terminal's WebSocket."""
DEFAULT_TTL_S = 3600
BOOST_VCPU = 2


class SessionRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /sessions`."""

    READ_ALIASES = {"network": "network_mode", "persistence": "multiplexer"}

    network_mode: NetworkModeName = "zerotrust"
    ttl: SessionTtl = DEFAULT_TTL_S
    """Idle seconds after which the session is deleted."""
    shell: Word | None = None
    """Name of a shell or REPL. Default: `bash`, or the REPL of `language`."""
    language: Word | None = None
    """Language whose REPL to start."""
    multiplexer: Word | None = None
    """`tmux` or `screen`: the shell survives a disconnect, and the terminal shows the missed output."""
    tmux: bool = False
    screen: bool = False
    vcpu: Vcpu = 1
    input_files: InputFiles | None = None
    audit: bool = False
    name: DisplayName | None = None
    isolation: IsolationName = "auto"
    """Hot snapshots require gVisor."""
    metadata: Metadata | None = None
    """Names and values of the client, by which `GET /sessions` finds the session."""
    timeout: SessionTtl | None = None
    """Seconds after which the session is deleted, in use or not. With it, `ttl` does not count."""
    env_name: EnvironmentName | None = None
    """Name of an environment of the server, whose packages the session sees at `/opt/env`."""


class Session(WireModel, frozen=True, kw_only=True):
    """A session. In lists it is flat, because historical clients search for braces."""

    READ_ALIASES = {"id": "session_id", "state": "status"}
    WRITE_ALIASES = {"session_id": ("id",), "status": ("state",)}

    session_id: str | None = None
    """Id of the session."""
    container_name: str | None = None
    """A second name, on the hosted service."""
    name: str | None = None
    """Display name."""
    shell: str | None = None
    """Shell or REPL of the session."""
    status: str | None = None
    """`running` or `frozen`."""
    remaining_ttl: int | None = None
    """Seconds until the session is deleted: at its deadline, or if it stays idle."""
    network_mode: str | None = None
    """`zerotrust` or `semitrusted`."""
    vcpu: int | None = None
    """Processors."""
    memory_mb: int | None = None
    """Memory in MiB."""
    boosted: bool | None = None
    """Whether the session is boosted."""
    created_at: str | int | float | None = None
    """Unix time in seconds, as a string or a number."""
    last_activity: str | int | float | None = None
    """Unix time of the last use."""
    websocket_url: str | None = None
    """URL of the terminal. When the session was created or got by its id, the URL has a ticket: it opens the
    terminal once, within five minutes, from anywhere. Treat it as a secret."""
    isolation: str | None = None
    """Name of the isolation backend."""
    metadata: dict[str, str] | None = None
    """Names and values given at the creation. In lists only where the request has `metadata`."""
    ends_at: float | None = None
    """Unix time at which the session is deleted, if it has a deadline; see `set_session_timeout`."""
    reason: str | None = None
    """Why the processes of the session ended last, though the session is still there: `memory` or `disk` (a
    limit), `node` (the server or its helper process ended) or `lost`. Of a deleted session: `deleted`."""
    env_name: str | None = None
    """Name of its environment."""
    message: str | None = None
    """A message about the object."""
    artifacts: list[Artifact] | None = None
    """Of a deleted session: the files of `/tmp/artifacts`, and the shell history if it was recorded."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)

    @property
    def active(self) -> datetime | None:
        """`last_activity` as a time in UTC."""
        return as_datetime(self.last_activity)


class SessionList(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /sessions`, newest first."""

    sessions: list[Session] = []
    """The sessions."""
    count: int | None = None
    """Length of the list."""

    def __iter__(self) -> Iterator[Session]:
        return iter(self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)


class CommandRequest(WireModel, frozen=True, kw_only=True):
    """A command for a session or service."""

    command: Code
    timeout: Annotated[int, msgspec.Meta(ge=0, le=900_000)] = 30_000
    """Milliseconds; 0 means no limit."""
    input_files: InputFiles | None = None


class CommandResult(WireModel, frozen=True, kw_only=True):
    """The result of a command; `exit_code` is 124 at its time limit."""

    READ_ALIASES = {"output": "stdout"}
    WRITE_ALIASES = {"stdout": ("output",)}

    stdout: str | None = None
    """Standard output as text; see `stdout_bytes`."""
    stderr: str | None = None
    """Standard error as text; see `stderr_bytes`."""
    exit_code: int | None = None
    """Exit code of the command; 124 at its time limit."""
    success: bool | None = None
    """The server's verdict; `ok` is computed by this library."""
    error: str | None = None
    """Why the program did not end by itself; None if it did."""
    stdout_base64: str | None = None
    """The exact bytes as base64, present only if `stdout` cannot represent them."""
    stderr_base64: str | None = None
    """See `stdout_base64`."""
    stdout_truncated: bool | None = None
    """Whether the output was cut at the limit."""
    stderr_truncated: bool | None = None
    """See `stdout_truncated`."""

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.exit_code == 0 and not self.error

    @property
    def text(self) -> str:
        """Standard output as text; empty if there is none."""
        return self.stdout or ""

    def check(self) -> Self:
        """Return the result if the command exited with 0.

        Raises:
            JobFailedError: The command failed; the error's `result` is this object.
        """
        if self.ok:
            return self
        raise JobFailedError(failure_line("the command", self.exit_code, self.error, self.stderr), self)

    def _repr_html_(self) -> str:
        return command_html(self)

    @property
    def stdout_bytes(self) -> bytes:
        """Standard output as bytes, as far as the server stored it."""
        return exact_bytes(self.stdout, self.stdout_base64)

    @property
    def stderr_bytes(self) -> bytes:
        """Standard error as bytes, as far as the server stored it."""
        return exact_bytes(self.stderr, self.stderr_base64)


class TimeoutRequest(WireModel, frozen=True, kw_only=True):
    """The request for a new end of a session's life."""

    timeout: SessionTtl | None = None
    """Seconds from now until the session is deleted, in use or not. Default: no deadline; the session is
    deleted when it was idle for its `ttl`."""


class ForkRequest(WireModel, frozen=True, kw_only=True):
    """The request for copies of a session."""

    count: ForkCount = 1
    """Number of copies."""
    hot: bool = False
    """Whether to copy memory and running processes too. Requires gVisor. Otherwise the files of `/work`."""
    name: DisplayName | None = None
    """Display name of the copies. Default: that of the session."""
    metadata: Metadata | None = None
    """Names and values of the copies. Default: those of the session."""
    timeout: SessionTtl | None = None
    """Seconds after which the copies are deleted. Default: at the deadline of the session, if it has one."""


class SessionMetrics(WireModel, frozen=True, kw_only=True):
    """The use of a session's resources now. A member that nothing counts on the server is missing."""

    session_id: str | None = None
    """Id of the session."""
    at: float | None = None
    """Unix time of these values."""
    cpu_time_ms: float | None = None
    """Processor time of all of its processes since its sandbox began."""
    vcpu: int | None = None
    """Processors."""
    memory_bytes: int | None = None
    """Memory in use, without files that the kernel can drop from memory. On gVisor with that of its kernel."""
    peak_memory_bytes: int | None = None
    """The most memory that was in use, with files."""
    memory_limit_bytes: int | None = None
    """Limit of the memory."""
    disk_bytes: int | None = None
    """Size of the work folder."""
    disk_limit_bytes: int | None = None
    """Limit of the work folder."""
    processes: int | None = None
    """Processes and threads. Not on gVisor."""
    process_limit: int | None = None
    """Limit of processes."""


class BoostRequest(WireModel, frozen=True, kw_only=True):
    """The request for more processors."""

    vcpu: Vcpu = BOOST_VCPU
