"""Processes and files of the sessions of all keys, as the API offers them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import posixpath
import time
from collections.abc import Callable
from typing import Any

from unsandbox.engine.errors import Conflict, InvalidRequest
from unsandbox.engine.sessions.sandboxes import OpenSession
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.engine.workspace.output_log import OutputLog
from unsandbox.engine.workspace.process import ProcessSettings, SessionProcess
from unsandbox.protocol.models import text_and_exact
from unsandbox.protocol.processes import (
    MAX_READ_BYTES,
    MAX_WRITE_BYTES,
    ExecResult,
    OutputRequest,
    Process,
    ProcessList,
    ProcessOutput,
    ProcessRequest,
    SignalRequest,
    StdinRequest,
    TerminalSize,
)
from unsandbox.sandbox.layout import WORK

_USERS = ("", "sandbox", "1000")
_LOOK_S = 1.0
_SMALL_BYTES = 1 << 20
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\b\t\n\f\r") + b"\x7f"
_SHELL = ("/bin/sh", "-c", 'if [ -x /bin/bash ]; then exec /bin/bash -c "$0"; else exec /bin/sh -c "$0"; fi')
Connected = Callable[[], bool]
"""A function that returns whether the client of a request is still connected."""


class Workspaces:
    """Runs processes in sessions and works on their files.

    Args:
        sessions: The sessions.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # Processes

    async def start(self, owner: str, session: str, request: ProcessRequest) -> Process:
        """Start a process; it runs when this returns.

        Raises:
            InvalidRequest: The request makes no sense.
            Conflict: The session is frozen.
            LimitReached: The session runs too many processes, or the key has used up its CPU time.
        """
        async with self._sessions.in_use(owner, session) as opened:
            process = await self._start(opened, request, keep_first=False)
            if request.stdin_open:
                # Write the input in the background, because the program may read slowly.
                self._feed_later(opened, process, _stdin_of(request), eof=False)
            return process.describe()

    async def run(
        self, owner: str, session: str, request: ProcessRequest, hold_s: float, connected: Connected
    ) -> ExecResult:
        """Run a process to its end and return its output.

        Args:
            owner: The key.
            session: Id or name of the session.
            request: The program.
            hold_s: Seconds to wait at most.
            connected: Tells whether the client is still there.

        Returns:
            The result; without output if the process runs longer.
        """
        async with self._sessions.in_use(owner, session) as opened:
            process = await self._start(opened, request.replace(stdin_open=False), keep_first=True)
            with process.in_use():
                await _wait(process, hold_s, connected)
            return self._result(opened, process)

    async def result(
        self, owner: str, session: str, process_id: str, wait_s: float, connected: Connected
    ) -> ExecResult:
        """Wait for a process; return its result, without output if it still runs."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            process = opened.processes.get(process_id)
            with process.in_use():
                await _wait(process, wait_s, connected)
            return self._result(opened, process)

    def _result(self, opened: OpenSession, process: SessionProcess) -> ExecResult:
        if process.running or not process.ended.is_set():
            return ExecResult(**process.members())
        if process.settings.keep_first:
            opened.processes.forget(process)
        stdout, stderr = process.outputs["stdout"], process.outputs["stderr"]
        return ExecResult(
            **process.members(),
            **_text_members("stdout", stdout),
            **_text_members("stderr", stderr),
        )

    async def list(self, owner: str, session: str) -> ProcessList:
        """Return the processes of a session, oldest first."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            return ProcessList(processes=[process.describe() for process in opened.processes])

    async def output(
        self, owner: str, session: str, process_id: str, request: OutputRequest, connected: Connected
    ) -> ProcessOutput:
        """Return output behind a position, or wait for some."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            process = opened.processes.get(process_id)
            offsets = request.stdout_offset, request.stderr_offset
            ends = time.monotonic() + request.wait
            with process.in_use():
                while True:
                    pieces = [
                        log.read(offset, MAX_READ_BYTES)
                        for log, offset in zip(process.outputs.values(), offsets, strict=True)
                    ]
                    left = ends - time.monotonic()
                    if (
                        any(data for _, data in pieces)
                        or process.ended.is_set()
                        or left <= 0
                        or not connected()
                    ):
                        break
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(left, _LOOK_S)):
                            await process.changed()
            (stdout_at, stdout), (stderr_at, stderr) = pieces
            behind = (stdout_at + len(stdout), stderr_at + len(stderr))
            return ProcessOutput(
                process=process.describe(),
                stdout_base64=base64.b64encode(stdout).decode(),
                stdout_offset=stdout_at,
                stderr_base64=base64.b64encode(stderr).decode(),
                stderr_offset=stderr_at,
                ended=process.ended.is_set()
                and all(at >= log.end for at, log in zip(behind, process.outputs.values(), strict=True)),
            )

    async def write(self, owner: str, session: str, process_id: str, request: StdinRequest) -> Process:
        """Write to the standard input of a process.

        Raises:
            Conflict: The process reads no more, or bytes before the offset are missing.
        """
        data = _decoded(request.data_base64, "data_base64")
        if len(data) > MAX_WRITE_BYTES:
            raise InvalidRequest(
                f"data_base64 has {len(data)} bytes; at most {MAX_WRITE_BYTES} are allowed at a time"
            )
        async with self._sessions.in_use(owner, session) as opened:
            process = opened.processes.get(process_id)
            with process.in_use():
                try:
                    await process.write(data, request.offset, eof=request.eof)
                except ValueError as error:
                    raise Conflict(str(error), code="stdin_gap") from error
                except OSError as error:
                    raise Conflict(
                        "the process does not read its standard input any more", code="stdin_closed"
                    ) from error
            return process.describe()

    async def signal(self, owner: str, session: str, process_id: str, request: SignalRequest) -> Process:
        """Send a signal to a process and its group."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            process = opened.processes.get(process_id)
            with process.in_use():
                process.send_signal(request.signal)
            return process.describe()

    async def resize(self, owner: str, session: str, process_id: str, size: TerminalSize) -> Process:
        """Set the size of a process's terminal."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            process = opened.processes.get(process_id)
            try:
                process.resize(size.columns, size.rows)
            except ValueError as error:
                raise Conflict(str(error), code="no_terminal") from error
            return process.describe()

    async def end(self, owner: str, session: str, process_id: str) -> Process:
        """Kill a process and all of its children, and forget it.

        A process that does not exist is no error: its id is not started afterwards either.
        """
        async with self._sessions.in_use(owner, session) as opened:
            process = await opened.processes.end(process_id)
            return Process(process_id=process_id) if process is None else process.describe()

    async def _start(self, opened: OpenSession, request: ProcessRequest, *, keep_first: bool) -> SessionProcess:
        settings = _settings_of(request, opened.processes.new_id(), keep_first=keep_first)
        process, new = await opened.processes.start(settings, request.env or {})
        if new and not request.stdin_open:
            self._feed_later(opened, process, _stdin_of(request), eof=True)
        return process

    def _feed_later(self, opened: OpenSession, process: SessionProcess, data: bytes, *, eof: bool) -> None:
        if process.running and (data or eof):
            opened.processes.feed(process, data, eof=eof)

    # Files

    async def file(self, owner: str, session: str, operation: str, members: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operation on files inside a session.

        Args:
            owner: The key.
            session: Id or name of the session.
            operation: Name of the operation in the guest program.
            members: Its arguments. Relative paths start in `/work`.

        Returns:
            The members of the answer.

        Raises:
            RequestError: The file is missing, or is not what the operation needs.
        """
        data = _decoded(members.pop("content_base64", None), "content_base64")
        if (text := members.pop("content", None)) is not None:
            data = text.encode("utf-8", "surrogateescape")
        for name in ("path", "target"):
            if isinstance(value := members.get(name), str):
                members[name] = _absolute(name, value)
        async with self._sessions.in_use(owner, session) as opened:
            answer, payload = await opened.processes.guest.call(operation, data, **members)
        if operation == "read":
            answer["content_base64"] = base64.b64encode(payload).decode()
        return answer


def _settings_of(request: ProcessRequest, new_id: str, *, keep_first: bool) -> ProcessSettings:
    if (request.argv is None) == (request.command is None):
        raise InvalidRequest("give either argv or command")
    if request.argv is not None and not (request.argv and request.argv[0]):
        raise InvalidRequest("argv must not be empty")
    if (request.user or "") not in _USERS:
        raise InvalidRequest("user: a session has one user, sandbox", code="user_unsupported")
    argv = tuple(request.argv) if request.argv is not None else (*_SHELL, request.command or "")
    terminal = request.terminal
    return ProcessSettings(
        process_id=request.process_id or new_id,
        argv=argv,
        cwd=_absolute("cwd", request.cwd or WORK),
        terminal=None if terminal is None else (terminal.columns, terminal.rows),
        timeout_s=request.timeout / 1000 if request.timeout else None,
        detach=request.detach,
        output_bytes=request.output_bytes,
        keep_first=keep_first,
    )


def _text_members(name: str, log: OutputLog) -> dict[str, Any]:
    """Return an output stream as members of an answer; as base64 alone where JSON text would be much larger."""
    _, data = log.read(log.start, log.kept_bytes)
    text, exact = text_and_exact(data)
    if exact is None and len(data) > _SMALL_BYTES and len(data.translate(None, _CONTROLS)) < len(data) * 7 // 8:
        exact = base64.b64encode(data).decode()
    large = exact is not None and len(data) > _SMALL_BYTES
    return {
        name: None if large else text,
        f"{name}_base64": exact,
        f"{name}_truncated": True if log.truncated else None,
    }


def _absolute(name: str, path: str) -> str:
    """Return a path inside the session as an absolute one. `..` stays: a link before it may lead elsewhere."""
    if "\0" in path:
        raise InvalidRequest(f"{name} contains a NUL character")
    if not path:
        raise InvalidRequest(f"{name} is empty")
    if path == "~" or path.startswith("~/"):
        path = path[2:] or "."
    return posixpath.join(WORK, path)


def _stdin_of(request: ProcessRequest) -> bytes:
    if request.stdin is not None and request.stdin_base64 is not None:
        raise InvalidRequest("give either stdin or stdin_base64")
    if request.stdin is not None:
        return request.stdin.encode("utf-8", "surrogateescape")
    return _decoded(request.stdin_base64, "stdin_base64")


def _decoded(encoded: str | None, name: str) -> bytes:
    try:
        return base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{name} is not valid base64") from error


async def _wait(process: SessionProcess, seconds: float, connected: Connected) -> None:
    """Wait for the end of a process while its client is there."""
    ends = time.monotonic() + seconds
    while not process.ended.is_set() and (left := ends - time.monotonic()) > 0 and connected():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, _LOOK_S)):
                await process.ended.wait()
