"""Processes and files of the sessions of all keys, as the API offers them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from unsandbox.engine.background import run_large
from unsandbox.engine.context import Context
from unsandbox.engine.errors import Conflict, InvalidRequest
from unsandbox.engine.jobs.results import CONTROLS
from unsandbox.engine.sessions.record import describe_usage
from unsandbox.engine.sessions.sandboxes import OpenSession
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.engine.workspace.process import ProcessSettings, SessionProcess
from unsandbox.engine.workspace.waiting import Connected, wait_until
from unsandbox.protocol.files import FileEvents, FileUnwatchRequest, FileWatchRequest
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
from unsandbox.protocol.sessions import SessionMetrics
from unsandbox.sandbox.layout import WORK

_USERS = ("", "sandbox", "1000")
_SMALL_BYTES = 1 << 20
_SHELL = ("/bin/sh", "-c", 'if [ -x /bin/bash ]; then exec /bin/bash -c "$0"; else exec /bin/sh -c "$0"; fi')


class Workspaces:
    """Runs processes in sessions and works on their files.

    Args:
        context: What the parts of the engine share.
        sessions: The sessions.
    """

    def __init__(self, context: Context, sessions: Sessions) -> None:
        self._context = context
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
            return (await self._start(opened, request, keep_first=False)).describe()

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
                await wait_until(process.ended.is_set, process.ended.wait, hold_s, connected)
            return await self._result(opened, process)

    async def result(
        self, owner: str, session: str, process_id: str, wait_s: float, connected: Connected
    ) -> ExecResult:
        """Wait for a process; return its result, without output if it still runs."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            process = opened.processes.get(process_id)
            with process.in_use():
                await wait_until(process.ended.is_set, process.ended.wait, wait_s, connected)
            return await self._result(opened, process)

    async def _result(self, opened: OpenSession, process: SessionProcess) -> ExecResult:
        if process.running or not process.ended.is_set():
            return ExecResult(**process.members())
        if process.settings.keep_first:
            opened.processes.forget(process)
        # Read here: a child that was left behind may still write.
        kept = {
            name: (log.read(log.start, log.kept_bytes)[1], log.truncated)
            for name, log in process.outputs.items()
        }
        texts = await run_large(process.kept_bytes, _text_members, kept)
        return ExecResult(**process.members(), **texts)

    async def list(self, owner: str, session: str) -> ProcessList:
        """Return the processes of a session, oldest first."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            return ProcessList(processes=[process.describe() for process in opened.processes])

    async def metrics(self, owner: str, session: str) -> SessionMetrics:
        """Return the use of a session's resources now."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            record = self._sessions.record(owner, session)
            return describe_usage(self._context, record, opened.sandbox.usage(), opened.sandbox.disk_used())

    async def output(
        self, owner: str, session: str, process_id: str, request: OutputRequest, connected: Connected
    ) -> ProcessOutput:
        """Return output behind a position, or wait for some."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            process = opened.processes.get(process_id)
            logs = [process.outputs["stdout"], process.outputs["stderr"]]
            offsets = request.stdout_offset, request.stderr_offset

            def new() -> bool:
                return process.ended.is_set() or any(
                    log.end > offset for log, offset in zip(logs, offsets, strict=True)
                )

            with process.in_use():
                await wait_until(new, process.changed, request.wait, connected)
            pieces = [log.read(offset, MAX_READ_BYTES) for log, offset in zip(logs, offsets, strict=True)]
            (stdout_at, stdout), (stderr_at, stderr) = pieces
            behind = (stdout_at + len(stdout), stderr_at + len(stderr))
            return ProcessOutput(
                process=process.describe(),
                stdout_base64=base64.b64encode(stdout).decode(),
                stdout_offset=stdout_at,
                stderr_base64=base64.b64encode(stderr).decode(),
                stderr_offset=stderr_at,
                ended=process.ended.is_set()
                and all(at >= log.end for at, log in zip(behind, logs, strict=True)),
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
            with process.in_use(), opened.processes.shares.waiting_input(len(data)):
                try:
                    await process.stdin.write(data, request.offset, eof=request.eof)
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
        stdin = _stdin_of(request)
        with opened.processes.shares.waiting_input(len(stdin)):
            process, new = await opened.processes.start(settings, request.env or {})
        if new and process.running and (stdin or not request.stdin_open):
            # In the background, because the program may read slowly.
            opened.processes.feed(process, stdin, eof=not request.stdin_open)
        return process

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
                members[name] = absolute_path(name, value)
        async with self._sessions.in_use(owner, session) as opened:
            answer, payload = await opened.processes.guest.call(operation, data, **members)
        if operation == "read":
            answer["content_base64"] = base64.b64encode(payload).decode()
        return answer

    async def read_part(
        self, owner: str, session: str, path: str, offset: int, length: int, version: str | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Return a part of a file with its state.

        Args:
            owner: The key.
            session: Id or name of the session.
            path: The file.
            offset: Position of the first byte.
            length: Largest number of bytes.
            version: `version` of an earlier part; the file must not have changed since.
        """
        path = absolute_path("path", path)
        async with self._sessions.in_use(owner, session) as opened:
            return await opened.processes.guest.call(
                "read", path=path, offset=offset, length=length, version=version or ""
            )

    async def write_part(
        self, owner: str, session: str, path: str, data: bytes, *, upload: str, offset: int, final: bool
    ) -> dict[str, Any]:
        """Write a part of a file, which is put in place with the last one; return its state.

        Args:
            owner: The key.
            session: Id or name of the session.
            path: The file.
            data: The part.
            upload: `upload` of the answer before; empty for the first part.
            offset: Position of the part.
            final: Whether it is the last part.
        """
        path = absolute_path("path", path)
        async with self._sessions.in_use(owner, session) as opened:
            answer, _ = await opened.processes.guest.call(
                "write", data, path=path, upload=upload, offset=offset, final=final
            )
        return answer

    async def watch(
        self, owner: str, session: str, request: FileWatchRequest, connected: Connected
    ) -> FileEvents:
        """Return what changed in a directory behind a position, or wait for some; see `Watches.events`."""
        request = request.replace(path=absolute_path("path", request.path))
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            return await opened.processes.watches.events(request, connected)

    async def unwatch(self, owner: str, session: str, request: FileUnwatchRequest) -> FileEvents:
        """End a watch."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            opened.processes.watches.end(request.watch)
        return FileEvents(ended=True)


def _settings_of(request: ProcessRequest, new_id: str, *, keep_first: bool) -> ProcessSettings:
    if (request.argv is None) == (request.command is None):
        raise InvalidRequest("give either argv or command")
    if request.argv is not None and not (request.argv and request.argv[0]):
        raise InvalidRequest("argv must not be empty")
    if (request.user or "") not in _USERS:
        raise InvalidRequest("user: a session has one user, sandbox", code="user_unsupported")
    argv = tuple(request.argv) if request.argv is not None else (*_SHELL, request.command or "")
    digest = hashlib.sha256("\0".join(argv).encode("utf-8", "surrogateescape")).digest()
    terminal = request.terminal
    return ProcessSettings(
        process_id=request.process_id or new_id,
        argv=argv,
        argv_digest=digest,
        cwd=absolute_path("cwd", request.cwd or WORK),
        terminal=None if terminal is None else (terminal.columns, terminal.rows),
        timeout_s=request.timeout / 1000 if request.timeout else None,
        detach=request.detach,
        output_bytes=request.output_bytes,
        keep_first=keep_first,
    )


def _text_members(outputs: Mapping[str, tuple[bytes, bool]]) -> dict[str, Any]:
    """Return output streams as members of an answer; as base64 alone where JSON text would be much larger.

    Args:
        outputs: The bytes of each stream, and whether it was cut.
    """
    members: dict[str, Any] = {}
    for name, (data, truncated) in outputs.items():
        if len(data) <= _SMALL_BYTES or _is_plain(data):
            members[name], members[f"{name}_base64"] = text_and_exact(data)
        else:
            members[f"{name}_base64"] = base64.b64encode(data).decode()
        members[f"{name}_truncated"] = True if truncated else None
    return members


def _is_plain(data: bytes) -> bool:
    """Return whether bytes are UTF-8 with few control characters, each of which takes six bytes in JSON."""
    if len(data.translate(None, CONTROLS)) < len(data) * 7 // 8:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def absolute_path(name: str, path: str) -> str:
    """Return a path inside the session as an absolute one. `..` stays: a link before it may lead elsewhere."""
    if "\0" in path:
        raise InvalidRequest(f"{name} contains a NUL character")
    if not path:
        raise InvalidRequest(f"{name} is empty")
    if path == "~" or path.startswith("~/"):
        path = path[2:] or "."
    plain = str(PurePosixPath(WORK, path))
    # A slash at the end demands a directory.
    return f"{plain}/" if path.endswith("/") and plain != "/" else plain


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
