"""Types of sessions: long-lived sandboxes with a shell (wire document, section 8)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Self

import msgspec

from unsandbox._presentation.display import command_html
from unsandbox._presentation.failure import failure_line
from unsandbox._presentation.times import as_datetime
from unsandbox.errors import JobFailedError
from unsandbox.protocol.bounds import Code, Word
from unsandbox.protocol.models import (
    Artifact,
    DisplayName,
    InputFiles,
    IsolationName,
    NetworkModeName,
    Vcpu,
    WireModel,
    exact_bytes,
)

SessionTtl = Annotated[int, msgspec.Meta(ge=1, le=30 * 86400)]

SHELL_SUBPROTOCOL = "unsandbox-shell"
"""What a terminal's WebSocket speaks (wire document, 8.6)."""
DEFAULT_TTL_S = 3600
BOOST_VCPU = 2


class SessionRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /sessions` takes."""

    READ_ALIASES = {"network": "network_mode", "persistence": "multiplexer"}

    network_mode: NetworkModeName = "zerotrust"
    ttl: SessionTtl = DEFAULT_TTL_S
    """Seconds without traffic after which the session is deleted."""
    shell: Word | None = None
    """Name of a shell or REPL; `bash` when neither this nor `language` is given."""
    language: Word | None = None
    """A language whose REPL is meant."""
    multiplexer: Word | None = None
    """`tmux` or `screen`: the terminal survives a disconnect and shows what was written meanwhile."""
    tmux: bool = False
    screen: bool = False
    vcpu: Vcpu = 1
    input_files: InputFiles | None = None
    audit: bool = False
    name: DisplayName | None = None
    isolation: IsolationName = "auto"
    """Only what runs on gVisor can be snapshotted hot."""


class Session(WireModel, frozen=True, kw_only=True):
    """A session as the server knows it. In lists it is flat: historical clients scan for braces."""

    READ_ALIASES = {"id": "session_id", "state": "status"}
    WRITE_ALIASES = {"session_id": ("id",), "status": ("state",)}

    session_id: str | None = None
    """By which it is used; whoever knows it can open its terminal."""
    container_name: str | None = None
    """Another name that the hosted service gives it."""
    name: str | None = None
    """A name for people."""
    shell: str | None = None
    """Shell or REPL that runs in it."""
    status: str | None = None
    """`running` or `frozen`."""
    remaining_ttl: int | None = None
    """Seconds left if nothing happens."""
    network_mode: str | None = None
    """`zerotrust` or `semitrusted`."""
    vcpu: int | None = None
    """Processors."""
    memory_mb: int | None = None
    """Memory in MiB."""
    boosted: bool | None = None
    """Whether it has more processors than it began with."""
    created_at: str | int | float | None = None
    """Unix seconds, as text or a number."""
    last_activity: str | int | float | None = None
    """Unix seconds of its last use."""
    websocket_url: str | None = None
    """Where its terminal is opened."""
    isolation: str | None = None
    """Name of the backend that it runs on."""
    message: str | None = None
    """A sentence for people."""
    artifacts: list[Artifact] | None = None
    """Of a deleted session: what lay in `/tmp/artifacts`, and the shell history when it was audited."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)

    @property
    def active(self) -> datetime | None:
        """`last_activity` as a time in UTC."""
        return as_datetime(self.last_activity)


class SessionList(WireModel, frozen=True, kw_only=True):
    """What `GET /sessions` answers, newest first."""

    sessions: list[Session] = []
    """The sessions."""
    count: int | None = None
    """How many there are."""

    def __iter__(self) -> Iterator[Session]:
        return iter(self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)


class CommandRequest(WireModel, frozen=True, kw_only=True):
    """A one-shot command in a live session or service."""

    command: Code
    timeout: Annotated[int, msgspec.Meta(ge=0, le=900_000)] = 30_000
    """Milliseconds; 0 means none."""
    input_files: InputFiles | None = None


class CommandResult(WireModel, frozen=True, kw_only=True):
    """What a command answers; `exit_code` is 124 when its time was up."""

    READ_ALIASES = {"output": "stdout"}
    WRITE_ALIASES = {"stdout": ("output",)}

    stdout: str | None = None
    """Standard output as text; see `stdout_bytes`."""
    stderr: str | None = None
    """Standard error as text; see `stderr_bytes`."""
    exit_code: int | None = None
    """Of the command; 124 when its time was up."""
    success: bool | None = None
    """What the server says of it; `ok` is what we make of it."""
    error: str | None = None
    """Why it did not end by itself; None when it did."""
    stdout_base64: str | None = None
    """The exact bytes, present only when `stdout` could not hold them."""
    stderr_base64: str | None = None
    """As `stdout_base64`."""
    stdout_truncated: bool | None = None
    """True when output was more than is kept."""
    stderr_truncated: bool | None = None
    """As `stdout_truncated`."""

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.exit_code == 0 and not self.error

    @property
    def text(self) -> str:
        """Standard output; empty when there is none."""
        return self.stdout or ""

    def check(self) -> Self:
        """Return the result if the command exited with 0.

        Raises:
            JobFailedError: It did not; the error holds the result.
        """
        if self.ok:
            return self
        raise JobFailedError(failure_line("the command", self.exit_code, self.error, self.stderr), self)

    def _repr_html_(self) -> str:
        return command_html(self)

    @property
    def stdout_bytes(self) -> bytes:
        """Standard output, byte for byte as far as the server kept it."""
        return exact_bytes(self.stdout, self.stdout_base64)

    @property
    def stderr_bytes(self) -> bytes:
        """Standard error, byte for byte as far as the server kept it."""
        return exact_bytes(self.stderr, self.stderr_base64)


class BoostRequest(WireModel, frozen=True, kw_only=True):
    """How many CPUs a session shall have."""

    vcpu: Vcpu = BOOST_VCPU
