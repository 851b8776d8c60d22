"""Types of processes: programs that run in a session beside its shell, each with separate streams."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import msgspec

from unsandbox.errors import JobFailedError
from unsandbox.protocol.bounds import Args, Code, Environment, FileName, WaitSeconds, Word
from unsandbox.protocol.models import WireModel, exact_bytes

LEASE_S = 15
"""Seconds after which the server ends a process that is not detached and that no request has named."""
MAX_WRITE_BYTES = 1 << 20
"""Bytes of standard input in one request."""
MAX_READ_BYTES = 1 << 20
"""Bytes of each stream in one answer."""

_WORDS = {
    "timeout": "killed at its time limit",
    "memory": "killed at the memory limit of the session",
}

PORT_SUBPROTOCOL = "unsandbox-port"
"""Subprotocol of a WebSocket to a port."""
PORT_END = "end"
"""Text frame of a side that sends no more bytes."""

PORT_COOKIE = "unsandbox_token"
"""Member of the query, and cookie, with the token of an exposed port."""
PORT_HEADER = "X-Unsandbox-Token"
"""Header with the token of an exposed port."""

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
ProcessId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?![\s\S])", max_length=64)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400_000)]
SignalNumber = Annotated[int, msgspec.Meta(ge=0, le=64)]
Cells = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Input = Annotated[str, msgspec.Meta(max_length=MAX_WRITE_BYTES)]
InputBase64 = Annotated[str, msgspec.Meta(max_length=MAX_WRITE_BYTES * 4 // 3 + 4)]
OutputBytes = Annotated[int, msgspec.Meta(ge=0, le=64 << 20)]


class TerminalSize(WireModel, frozen=True, kw_only=True):
    """The size of a terminal in characters."""

    columns: Cells = 80
    rows: Cells = 24


class ProcessRequest(WireModel, frozen=True, kw_only=True):
    """A program to start in a session: `argv` or `command`."""

    process_id: ProcessId | None = None
    """Id chosen by the client. The same id names the same process, so the request can be repeated safely."""
    argv: Args | None = None
    """Program and arguments. No shell reads them."""
    command: Code | None = None
    """A command line for `bash -c`, or for `sh -c` if the session's system has no bash."""
    cwd: FileName | None = None
    """Working directory. Default `/work`; a relative path starts there."""
    env: Environment | None = None
    """Further environment variables."""
    user: Word | None = None
    """User that runs the program. A session has one, `sandbox` (1000); any other name is refused."""
    stdin: Input | None = None
    """Standard input as text."""
    stdin_base64: InputBase64 | None = None
    """Standard input as bytes."""
    stdin_open: bool = False
    """Whether `write_process` may send more. Otherwise the standard input ends after `stdin`."""
    terminal: TerminalSize | None = None
    """Size of a terminal for the program, instead of pipes. All output is then in `stdout`."""
    timeout: Milliseconds = 0
    """Milliseconds until the process and all of its children are killed; 0 means no limit."""
    detach: bool = False
    """Whether the process goes on without its client. Otherwise the server ends it 15 seconds after the last
    request that named it."""
    output_bytes: OutputBytes = 10 << 20
    """Bytes of each stream to keep: the first ones for `exec`, the last ones for `start`."""


class Process(WireModel, frozen=True, kw_only=True):
    """A process of a session."""

    process_id: str | None = None
    """Id of the process."""
    argv: list[str] | None = None
    """Program and arguments; long ones are cut after 4,096 characters or 100 arguments together."""
    cwd: str | None = None
    """Working directory at the start."""
    status: Literal["running", "exited"] | None = None
    """`running` or `exited`."""
    exit_code: int | None = None
    """Exit code; 128 + N after a death by signal N; 124 at the time limit; 127 for a missing program and 126
    for one that cannot be run."""
    signal: str | None = None
    """Name of the signal that ended the process, such as `SIGSEGV`."""
    reason: str | None = None
    """Why the process was ended: `timeout`, `killed`, `lease`, `session` (the session or its sandbox ended), or
    `memory` (the kernel killed it at the session's memory limit). None: it ended by itself; see `exit_code` and
    `signal`."""
    error: str | None = None
    """Why the program could not be started, or why the sandbox of its session ended."""
    started_at: float | None = None
    """Unix time of the start in seconds."""
    wall_ms: int | None = None
    """Milliseconds since the start, up to the end."""
    cpu_time_ms: float | None = None
    """Processor time of the process and of the children that it has waited for. On gVisor only after the
    end."""
    peak_memory_bytes: int | None = None
    """The most memory that the process, or one of these children, held at a time; some megabytes of its start
    included. On gVisor only after the end."""
    terminal: bool | None = None
    """Whether the process has a terminal."""
    detached: bool | None = None
    """Whether the process goes on without its client."""
    stdin_bytes: int | None = None
    """Bytes of standard input that the server has accepted."""
    stdout_bytes_total: int | None = None
    """Bytes that the process has written to standard output."""
    stderr_bytes_total: int | None = None
    """Bytes that the process has written to standard error."""


class ProcessList(WireModel, frozen=True, kw_only=True):
    """The processes of a session, oldest first."""

    processes: list[Process] = []
    """The processes that run, and those that ended lately."""

    def __iter__(self) -> Iterator[Process]:
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.processes)


class ExecResult(Process, frozen=True, kw_only=True):
    """A process that has ended, with its output."""

    stdout: str | None = None
    """Standard output as text; absent if only `stdout_base64` is sent, which this client makes up for."""
    stderr: str | None = None
    """Standard error as text; see `stdout`."""
    stdout_base64: str | None = None
    """The exact bytes as base64, if text cannot represent them or would be much longer."""
    stderr_base64: str | None = None
    """See `stdout_base64`."""
    stdout_truncated: bool | None = None
    """Whether the output was cut at the limit."""
    stderr_truncated: bool | None = None
    """See `stdout_truncated`."""

    @property
    def ok(self) -> bool:
        """Whether the process exited with 0."""
        return self.exit_code == 0

    @property
    def timed_out(self) -> bool:
        """Whether the process was ended at its time limit."""
        return self.reason == "timeout"

    @property
    def text(self) -> str:
        """Standard output as text; empty if there is none."""
        return self.stdout or ""

    @property
    def stdout_bytes(self) -> bytes:
        """Standard output as bytes."""
        return exact_bytes(self.stdout, self.stdout_base64)

    @property
    def stderr_bytes(self) -> bytes:
        """Standard error as bytes."""
        return exact_bytes(self.stderr, self.stderr_base64)

    def check(self) -> Self:
        """Return the result if the process exited with 0.

        Raises:
            JobFailedError: It failed; the error's `result` is this object.
        """
        if self.ok:
            return self
        from unsandbox._presentation.failure import failure_line

        why = self.error or _WORDS.get(self.reason or "")
        raise JobFailedError(failure_line("the process", self.exit_code, why, self.stderr), self)


class OutputRequest(WireModel, frozen=True, kw_only=True):
    """Asks for output behind a position in each stream."""

    stdout_offset: Offset = 0
    """Bytes of standard output to skip: those received so far."""
    stderr_offset: Offset = 0
    """Bytes of standard error to skip."""
    wait: WaitSeconds = 0
    """Seconds to wait if there is nothing new and the process has not ended."""


class ProcessOutput(WireModel, frozen=True, kw_only=True):
    """Output behind the positions of a request. Offsets count bytes since the start of the process."""

    process: Process = Process()
    """The process."""
    stdout_base64: str | None = None
    """Bytes of standard output."""
    stdout_offset: int | None = None
    """Position of the first of these bytes. It is larger than the one asked for if older output was dropped."""
    stderr_base64: str | None = None
    """Bytes of standard error."""
    stderr_offset: int | None = None
    """See `stdout_offset`."""
    ended: bool | None = None
    """Whether no more output follows."""

    @property
    def stdout(self) -> bytes:
        """Standard output as bytes."""
        return base64.b64decode(self.stdout_base64 or "")

    @property
    def stderr(self) -> bytes:
        """Standard error as bytes."""
        return base64.b64decode(self.stderr_base64 or "")


class StdinRequest(WireModel, frozen=True, kw_only=True):
    """Standard input for a process. At most 1 MiB at a time."""

    data_base64: InputBase64 | None = None
    """The bytes."""
    offset: Offset | None = None
    """Position of the first byte: what was sent so far. Bytes that the server already has are skipped, so the
    request can be repeated safely."""
    eof: bool = False
    """Whether the standard input ends here."""


class SignalRequest(WireModel, frozen=True, kw_only=True):
    """A signal for a process and its process group."""

    signal: SignalNumber = 15
    """Number of the signal; 0 sends none."""


class PortRequest(WireModel, frozen=True, kw_only=True):
    """Lets visitors reach a port of a session."""

    port: PortNumber
    """The port, on the loopback interface of the session."""
    public: bool = False
    """Whether visitors need no token."""


class ExposedPort(WireModel, frozen=True, kw_only=True):
    """A port of a session that visitors reach."""

    port: int | None = None
    """The port."""
    url: str | None = None
    """Where visitors reach it."""
    public: bool | None = None
    """Whether visitors need no token."""
    token: str | None = None
    """The token that visitors need, in the header `X-Unsandbox-Token`, or in the cookie or the member of the
    query `unsandbox_token`."""

    @property
    def url_with_token(self) -> str:
        """The URL for a browser, which keeps the token as a cookie."""
        return f"{self.url}/" if self.public else f"{self.url}/?{PORT_COOKIE}={self.token}"


class ExposedPorts(WireModel, frozen=True, kw_only=True):
    """The ports of a session that visitors reach."""

    ports: list[ExposedPort] = []
    """The ports."""

    def __iter__(self) -> Iterator[ExposedPort]:
        return iter(self.ports)
