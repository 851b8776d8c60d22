# Generated from src/unsandbox/_async/objects/process.py by scripts/unasync.py; change that one.
"""Processes of a session: programs beside its shell, one-shot or live."""

from __future__ import annotations

import base64
from collections.abc import Generator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from unsandbox._compat.blocking import Interrupted, ItemSource, Keeper, Stdin, in_thread, maybe_await
from unsandbox._shared.bodies import encode_members
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.events import OutputEvent
from unsandbox._shared.processes import Kept, OutputCallback, cut, with_text
from unsandbox._shared.request import Bounds, PreparedRequest
from unsandbox._sync.base import M, typed
from unsandbox._sync.connection import Connection
from unsandbox._sync.operations import CLEAN_UP_S
from unsandbox.errors import ConflictError, NotFoundError, WaitTimeoutError
from unsandbox.protocol.endpoints.jobs import BY_NAME
from unsandbox.protocol.processes import (
    LEASE_S,
    MAX_WRITE_BYTES,
    ExecResult,
    Process,
    ProcessOutput,
)

_WAIT_S = 60.0
_PATIENCE_S = 120.0
_RENEW_S = LEASE_S / 3


def ask(
    connection: Connection,
    name: str,
    model: type[M],
    params: Mapping[str, str],
    members: Mapping[str, Any] | None = None,
    *,
    query: Mapping[str, object] | None = None,
    urgent: bool = False,
) -> M:
    """Do one operation of a session's processes or files.

    Args:
        connection: The server.
        name: Name of the operation in the endpoint table.
        model: Type of the answer.
        params: Values for the placeholders of its path.
        members: Members of the body; those that are None are left out.
        query: Members of the query.
        urgent: Whether not to wait for a free connection.
    """
    request = None
    if members is not None:
        request = PreparedRequest(encode_members(BY_NAME[name], members), creates=False)
    bounds = Bounds(Deadline(CLEAN_UP_S), urgent=True) if urgent else Bounds(timeout=_PATIENCE_S)
    answer = connection.call(name, params=params, query=query, request=request, bounds=bounds)
    return typed(answer, model)


class LiveProcess:
    """A process in a session, started by `start` or found by `attach_process`.

    Iterating over it yields its output as `OutputEvent`s until it ends. A block kills it at its end. Unless it
    was started with `detach=True`, the server also ends it 15 seconds after its client is gone.

    Attributes:
        info: The last known state.
    """

    __module__ = "unsandbox"

    def __init__(self, connection: Connection, session_id: str, info: Process) -> None:
        self._connection = connection
        self._params = {"id": session_id, "process_id": info.process_id or ""}
        self._written = info.stdin_bytes or 0
        self._keeper: Keeper | None = None
        self.info = info

    @property
    def id(self) -> str:
        """The id of the process."""
        return self._params["process_id"]

    @property
    def exit_code(self) -> int | None:
        """The exit code as last known; None while the process runs."""
        return self.info.exit_code

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.info.status or ''}>"

    def __iter__(self) -> Generator[OutputEvent]:
        return self.output()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.kill()
        else:
            self._connection.clean_up(self._end, CLEAN_UP_S)

    def keep(self) -> None:
        """Renew the lease of the process as long as this object is in use."""
        self._keeper = Keeper(self._renew, _RENEW_S)

    def refresh(self) -> Process:
        """Return the current state of the process."""
        self._note(ask(self._connection, "get_process", ExecResult, self._params))
        return self.info

    def wait(self, timeout: float | None = None) -> Process:
        """Wait until the process has ended and return its last state.

        Args:
            timeout: Maximum seconds to wait; None means no limit. The process continues afterwards.

        Raises:
            WaitTimeoutError: It had not ended in time.
        """
        deadline = Deadline(timeout)
        while True:
            remaining = deadline.remaining()
            wait_s = _WAIT_S if remaining is None else min(_WAIT_S, remaining)
            query = {"wait": round(wait_s, 3)}
            self._note(ask(self._connection, "get_process", ExecResult, self._params, query=query))
            if self.info.status != "running":
                return self.info
            if deadline.passed:
                raise WaitTimeoutError(f"the process {self.id} had not ended after {timeout:g} s")

    def read(
        self, stdout_offset: int = 0, stderr_offset: int = 0, *, wait: float | None = None
    ) -> ProcessOutput:
        """Return output behind a position in each stream, at most 1 MiB of each.

        Args:
            stdout_offset: Bytes of standard output to skip.
            stderr_offset: Bytes of standard error to skip.
            wait: Seconds to wait if there is nothing new, at most 90.
        """
        members = {"stdout_offset": stdout_offset, "stderr_offset": stderr_offset, "wait": wait}
        output = ask(self._connection, "process_output", ProcessOutput, self._params, members)
        self._note(output.process)
        return output

    def output(self, stdout_offset: int = 0, stderr_offset: int = 0) -> Generator[OutputEvent]:
        """Yield output as it is written, until the process has ended.

        Args:
            stdout_offset: Bytes of standard output to skip, such as those seen by an earlier reader.
            stderr_offset: Bytes of standard error to skip.
        """
        seen = Kept(0, (stdout_offset, stderr_offset))
        while not seen.ended:
            for event in seen.take(self.read(*seen.offsets, wait=_WAIT_S)):
                yield event
        for rest in seen.decoder.rests():
            yield rest

    def write(self, data: bytes | str) -> None:
        """Write to the standard input; returns when the program has taken the bytes.

        Args:
            data: The bytes; text is sent as UTF-8.

        Raises:
            ConflictError: The program does not read its standard input any more.
        """
        for part in cut(data):
            self._write(part, eof=False)
            self._written += len(part)

    def close_stdin(self) -> None:
        """End the standard input."""
        self._write(b"", eof=True)

    def send_signal(self, signal: int) -> None:
        """Send a signal to the process and its process group.

        Args:
            signal: Number of the signal, such as `signal.SIGINT`.
        """
        members = {"signal": int(signal)}
        self._note(ask(self._connection, "signal_process", Process, self._params, members))

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of the terminal.

        Args:
            columns: Width in characters.
            rows: Height in lines.

        Raises:
            ConflictError: The process has no terminal.
        """
        ask(self._connection, "resize_process", Process, self._params, {"columns": columns, "rows": rows})

    def kill(self) -> Process:
        """Kill the process and all of its children, and return its last state. The server then forgets it."""
        try:
            ended = ask(self._connection, "end_process", Process, self._params)
        except NotFoundError:
            ended = Process()  # The session is gone, and the process with it.
        if ended.status is not None:
            self._note(ended)
        self._stop_keeping()
        return self.info

    def _end(self, connection: Connection) -> None:
        self._stop_keeping()
        end_process(connection, self._params)

    def _write(self, data: bytes, *, eof: bool) -> None:
        members = {"data_base64": base64.b64encode(data).decode(), "offset": self._written, "eof": eof}
        self._note(ask(self._connection, "write_process", Process, self._params, members))

    def _note(self, info: Process) -> None:
        self.info = info
        if info.status == "exited":
            self._stop_keeping()

    def _stop_keeping(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stop()

    def _renew(self) -> None:
        self._note(ask(self._connection, "get_process", Process, self._params))


def end_process(connection: Connection, params: Mapping[str, str]) -> None:
    """Kill a process, also one that the server does not know yet."""
    ask(connection, "end_process", Process, params, urgent=True)


def start(
    connection: Connection,
    session_id: str,
    members: Mapping[str, Any],
    stdin: bytes | str | None,
) -> LiveProcess:
    """Start a process; it is ended again if the call is interrupted.

    Args:
        connection: The server.
        session_id: The session.
        members: The body, of `ProgramOptions`.
        stdin: The whole standard input; None leaves it open for `AsyncLiveProcess.write`.
    """
    body = {**members, "stdin_open": True if stdin is None else None}
    small = stdin is not None and len(stdin) <= MAX_WRITE_BYTES // 4
    if stdin is not None and small:
        body |= stdin_members(stdin)
    elif stdin is not None:
        body["stdin_open"] = True
    params = {"id": session_id, "process_id": str(members["process_id"])}
    try:
        process = _begin(connection, session_id, body)
        if stdin is not None and not small:
            process.write(stdin)
            process.close_stdin()
    except (Exception, Interrupted):
        connection.clean_up(partial(end_process, params=params), CLEAN_UP_S)
        raise
    return process


def _begin(connection: Connection, session_id: str, body: Mapping[str, Any]) -> LiveProcess:
    info = ask(connection, "start_process", Process, {"id": session_id}, body)
    process = LiveProcess(connection, session_id, info)
    if info.status == "running" and not body.get("detach"):
        process.keep()
    return process


def stdin_members(stdin: bytes | str) -> dict[str, str]:
    """Return the members of a body for a small standard input."""
    if isinstance(stdin, str):
        return {"stdin": stdin}
    return {"stdin_base64": base64.b64encode(stdin).decode()}


def execute(
    connection: Connection,
    session_id: str,
    members: Mapping[str, Any],
    stdin: Stdin | None = None,
    on_stdout: OutputCallback | None = None,
    on_stderr: OutputCallback | None = None,
) -> ExecResult:
    """Run a process to its end; it is killed if the call is interrupted.

    Args:
        connection: The server.
        session_id: The session.
        members: The body, of `ProgramOptions`.
        stdin: The standard input.
        on_stdout: Called with each piece of standard output as text.
        on_stderr: Called with each piece of standard error as text.
    """
    params = {"id": session_id, "process_id": str(members["process_id"])}
    if isinstance(stdin, bytearray | memoryview):
        stdin = bytes(stdin)
    small = stdin is None or (isinstance(stdin, str | bytes) and len(stdin) <= MAX_WRITE_BYTES // 4)
    try:
        if on_stdout is None and on_stderr is None and small:
            body = {**members, **(stdin_members(stdin) if isinstance(stdin, str | bytes) else {})}
            result = ask(connection, "session_exec", ExecResult, {"id": session_id}, body)
            while result.status == "running":
                query = {"wait": _WAIT_S}
                result = ask(connection, "get_process", ExecResult, params, query=query)
            return with_text(result)
        return _followed(connection, session_id, members, stdin, (on_stdout, on_stderr))
    except (Exception, Interrupted):
        if not members.get("detach"):
            connection.clean_up(partial(end_process, params=params), CLEAN_UP_S)
        raise


def _followed(
    connection: Connection,
    session_id: str,
    members: Mapping[str, Any],
    stdin: Stdin | None,
    callbacks: tuple[OutputCallback | None, OutputCallback | None],
) -> ExecResult:
    """Run a process whose input is sent in pieces, or whose output is passed on as it comes."""
    body = {**members, "stdin_open": True if stdin is not None else None}
    process = _begin(connection, session_id, body)
    kept = Kept(members.get("output_bytes"))
    if stdin is not None:
        for piece in _pieces(stdin):
            if not _write_if_open(process, piece):
                break
            while _take(process, kept, callbacks, wait=None):
                pass
        _write_if_open(process, None)
    while not kept.ended:
        _take(process, kept, callbacks, wait=_WAIT_S)
    for event in kept.decoder.rests():
        _pass_on(event, callbacks)
    return kept.result(process.info)


def _write_if_open(process: LiveProcess, piece: bytes | None) -> bool:
    """Write a piece, or the end; return whether the program still reads."""
    try:
        if piece is None:
            process.close_stdin()
        else:
            process.write(piece)
    except ConflictError as error:
        if error.code != "stdin_closed":
            raise
        return False
    return True


def _take(
    process: LiveProcess,
    kept: Kept,
    callbacks: tuple[OutputCallback | None, OutputCallback | None],
    *,
    wait: float | None,
) -> bool:
    """Process the received output; return whether more may be available at once."""
    output = process.read(*kept.offsets, wait=wait)
    events = kept.take(output)
    for event in events:
        _pass_on(event, callbacks)
    return bool(events) and not kept.ended


def _pass_on(event: OutputEvent, callbacks: tuple[OutputCallback | None, OutputCallback | None]) -> None:
    callback = callbacks[event.stream == "stderr"]
    if callback is not None and event.text:
        maybe_await(callback(event.text))


def _pieces(stdin: Stdin) -> Generator[bytes]:
    """Yield a standard input in pieces that fit into a request."""
    if isinstance(stdin, str | bytes):
        for piece in cut(stdin):
            yield piece
    elif hasattr(stdin, "read"):
        while data := in_thread(stdin.read, MAX_WRITE_BYTES // 4):
            for piece in cut(data):
                yield piece
    else:
        source: ItemSource[str | bytes] = ItemSource(stdin)
        while True:
            item = source.pull(patient=True)
            if isinstance(item, str | bytes):
                for piece in cut(item):
                    yield piece
            elif source.exhausted:
                return
