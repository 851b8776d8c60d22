"""`process.Process` of envd: processes of a session, known by numbers."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from unsandbox.engine.errors import Conflict, UnknownObject
from unsandbox.protocol.processes import (
    MAX_WRITE_BYTES,
    OutputRequest,
    Process,
    ProcessRequest,
    SignalRequest,
    StdinRequest,
    TerminalSize,
)
from unsandbox.server.e2b.connect import (
    Stream,
    empty,
    first_message,
    keepalive_s,
    stream_messages,
    timeout_ms,
    unary_message,
)
from unsandbox.server.e2b.errors import E2bError, json_answer
from unsandbox.server.e2b.paths import inside, outside
from unsandbox.server.e2b.sandboxes import E2bSandbox, E2bSandboxes

_PREFIX = "e2b-"
_SIGNALS = {"SIGNAL_SIGKILL": signal.SIGKILL, "SIGNAL_SIGTERM": signal.SIGTERM}
_WAIT_S = 60.0


class Size(msgspec.Struct):
    """Size of a terminal."""

    cols: int = 80
    rows: int = 24


class Pty(msgspec.Struct):
    """A terminal."""

    size: Size | None = None


class Config(msgspec.Struct):
    """A program."""

    cmd: str = ""
    args: list[str] = []
    envs: dict[str, str] = {}
    cwd: str | None = None


class StartRequest(msgspec.Struct):
    """The message of `Start`."""

    process: Config = msgspec.field(default_factory=Config)
    pty: Pty | None = None
    tag: str | None = None
    stdin: bool | None = None


class Selector(msgspec.Struct):
    """Names a process."""

    pid: int | None = None
    tag: str | None = None


class Input(msgspec.Struct):
    """Bytes for a process."""

    stdin: str | None = None
    pty: str | None = None


class Selected(msgspec.Struct):
    """The message of calls that name a process."""

    process: Selector = msgspec.field(default_factory=Selector)
    input: Input | None = None
    signal: str | int | None = None
    pty: Pty | None = None


class InputStream(msgspec.Struct):
    """A message of `StreamInput`."""

    start: Selected | None = None
    data: Selected | None = None


class Processes:
    """The calls.

    Args:
        sandboxes: The sandboxes.
    """

    def __init__(self, sandboxes: E2bSandboxes) -> None:
        self._workspaces = sandboxes.engine.workspaces

    async def start(self, request: web.Request, sandbox: E2bSandbox) -> web.StreamResponse:
        """Start a process and stream its events."""
        wanted = await first_message(request, StartRequest)
        pid = sandbox.new_pid()
        program, size = wanted.process, wanted.pty.size or Size() if wanted.pty else None
        cwd = inside(program.cwd or "")
        limit_ms = timeout_ms(request)
        try:
            process = await self._workspaces.start(
                sandbox.owner,
                sandbox.session_id,
                ProcessRequest(
                    process_id=f"{_PREFIX}{pid}",
                    argv=[program.cmd, *program.args],
                    cwd=cwd,
                    env={"PWD": outside(cwd), **sandbox.env, **program.envs},
                    stdin_open=wanted.stdin is not False or size is not None,
                    terminal=None if size is None else TerminalSize(columns=size.cols, rows=size.rows),
                    timeout=limit_ms or 0,
                    # A process of E2B goes on when its client is gone.
                    detach=True,
                ),
            )
        except Exception as error:
            if getattr(error, "code", "") == "invalid_cwd":
                raise E2bError("invalid_argument", f"cwd '{program.cwd}' does not exist") from error
            raise
        if process.error:
            raise E2bError("invalid_argument", process.error)
        if wanted.tag:
            sandbox.tags[pid] = wanted.tag
        return await self._follow(request, sandbox, process, (0, 0), limit_ms)

    async def connect(self, request: web.Request, sandbox: E2bSandbox) -> web.StreamResponse:
        """Stream the events of a process from now on."""
        wanted = await first_message(request, Selected)
        process = await self._find(sandbox, wanted.process)
        behind = process.stdout_bytes_total or 0, process.stderr_bytes_total or 0
        return await self._follow(request, sandbox, process, behind, timeout_ms(request))

    async def list(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """List the processes that run."""
        await unary_message(request, Selected)
        found = []
        for process in await self._workspaces.list(sandbox.owner, sandbox.session_id):
            pid = _pid_of(process)
            if pid is None or process.status != "running" or not process.argv:
                continue
            config = {"cmd": process.argv[0], "args": process.argv[1:], "cwd": outside(process.cwd or "")}
            found.append(
                {"config": config, "pid": pid, **({"tag": tag} if (tag := sandbox.tags.get(pid)) else {})}
            )
        return json_answer({"processes": found})

    async def send_input(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Write to a process."""
        wanted = await unary_message(request, Selected)
        await self._write(sandbox, wanted.process, wanted.input)
        return empty()

    async def stream_input(self, request: web.Request, sandbox: E2bSandbox) -> web.StreamResponse:
        """Write the messages of a stream to a process."""
        selector: Selector | None = None
        async for message in stream_messages(request, InputStream):
            if message.start is not None:
                selector = message.start.process
            elif message.data is not None and selector is not None:
                await self._write(sandbox, selector, message.data.input)
        stream = Stream(request)
        await stream.send({})
        return await stream.end()

    async def close_stdin(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """End the standard input of a process."""
        wanted = await unary_message(request, Selected)
        name = await self._name(sandbox, wanted.process)
        await self._workspaces.write(sandbox.owner, sandbox.session_id, name, StdinRequest(eof=True))
        return empty()

    async def send_signal(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Send a signal to a process; SIGKILL also ends its children."""
        wanted = await unary_message(request, Selected)
        number = wanted.signal if isinstance(wanted.signal, int) else _SIGNALS.get(wanted.signal or "")
        if number is None:
            raise E2bError("unimplemented", f"invalid signal: {wanted.signal}")
        process = await self._find(sandbox, wanted.process)
        if process.status != "running":
            raise E2bError("not_found", f"process with pid {_pid_of(process)} not found")
        name = process.process_id or ""
        await self._workspaces.signal(
            sandbox.owner, sandbox.session_id, name, SignalRequest(signal=int(number))
        )
        return empty()

    async def update(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Set the size of a terminal."""
        wanted = await unary_message(request, Selected)
        size = wanted.pty.size or Size() if wanted.pty else Size()
        name = await self._name(sandbox, wanted.process)
        await self._workspaces.resize(
            sandbox.owner, sandbox.session_id, name, TerminalSize(columns=size.cols, rows=size.rows)
        )
        return empty()

    async def _follow(
        self,
        request: web.Request,
        sandbox: E2bSandbox,
        process: Process,
        behind: tuple[int, int],
        limit_ms: int | None,
    ) -> web.StreamResponse:
        stream = Stream(request)
        transport = request.transport
        connected: Callable[[], bool] = lambda: transport is not None and not transport.is_closing()  # noqa: E731
        ends = time.monotonic() + limit_ms / 1000 if limit_ms else None
        try:
            await stream.send({"event": {"start": {"pid": _pid_of(process)}}})
            await self._send_events(stream, sandbox, process, behind, keepalive_s(request), ends, connected)
        except ConnectionError:
            return stream.response  # The client is gone; the process goes on.
        except Exception as error:  # noqa: BLE001 - sent to the client, and logged if it is unexpected
            return await stream.end(error, sandbox.sandbox_id)
        return await stream.end()

    async def _send_events(
        self,
        stream: Stream,
        sandbox: E2bSandbox,
        process: Process,
        behind: tuple[int, int],
        quiet_s: float,
        ends: float | None,
        connected: Callable[[], bool],
    ) -> None:
        name, names = process.process_id or "", ("pty",) if process.terminal else ("stdout", "stderr")
        stdout_at, stderr_at = behind
        while connected():
            left = _WAIT_S if ends is None else ends - time.monotonic()
            wait = max(0.0, min(quiet_s, _WAIT_S, left))
            wanted = OutputRequest(stdout_offset=stdout_at, stderr_offset=stderr_at, wait=wait)
            output = await self._workspaces.output(sandbox.owner, sandbox.session_id, name, wanted, connected)
            for event, data in zip(names, (output.stdout_base64, output.stderr_base64), strict=False):
                if data:
                    await stream.send({"event": {"data": {event: data}}})
            new = len(output.stdout) + len(output.stderr)
            stdout_at = (output.stdout_offset or 0) + len(output.stdout)
            stderr_at = (output.stderr_offset or 0) + len(output.stderr)
            if output.ended:
                if output.process.reason == "timeout":
                    raise E2bError("deadline_exceeded", "the process exceeded its time limit")
                sandbox.tags.pop(_pid_of(process) or 0, None)
                await stream.send({"event": {"end": _end_of(output.process)}})
                return
            if ends is not None and left <= 0:
                raise E2bError("deadline_exceeded", "the request exceeded its time limit")
            if not new:
                await stream.send({"event": {"keepalive": {}}})

    async def _write(self, sandbox: E2bSandbox, selector: Selector, given: Input | None) -> None:
        encoded = (given.stdin or given.pty or "") if given else ""
        name = await self._name(sandbox, selector)
        data = base64.b64decode(encoded)
        for start in range(0, len(data), MAX_WRITE_BYTES):
            part = base64.b64encode(data[start : start + MAX_WRITE_BYTES]).decode()
            try:
                await self._workspaces.write(
                    sandbox.owner, sandbox.session_id, name, StdinRequest(data_base64=part)
                )
            except Conflict as error:
                raise E2bError("not_found", error.message) from error

    async def _name(self, sandbox: E2bSandbox, selector: Selector) -> str:
        return (await self._find(sandbox, selector)).process_id or ""

    async def _find(self, sandbox: E2bSandbox, selector: Selector) -> Process:
        pid = selector.pid
        if pid is None:
            pid = next((pid for pid, tag in sandbox.tags.items() if tag == selector.tag), None)
        shown = f"tag {selector.tag}" if selector.pid is None else f"pid {pid}"
        if pid is not None:
            try:
                return await self._workspaces.result(
                    sandbox.owner, sandbox.session_id, f"{_PREFIX}{pid}", 0, lambda: True
                )
            except UnknownObject as error:
                if error.code != "process_not_found":
                    raise
        raise E2bError("not_found", f"process with {shown} not found")


METHODS = {
    "Start": "start",
    "Connect": "connect",
    "List": "list",
    "SendInput": "send_input",
    "StreamInput": "stream_input",
    "CloseStdin": "close_stdin",
    "SendSignal": "send_signal",
    "Update": "update",
}
"""Name of each method on the wire, and its function."""


def _pid_of(process: Process) -> int | None:
    number = (process.process_id or "").removeprefix(_PREFIX)
    return int(number) if number.isdigit() else None


def _end_of(process: Process) -> dict[str, Any]:
    """Return the event of an end, in the words of Go's `os.ProcessState`."""
    code = process.exit_code or 0
    if process.signal:
        words = f"signal: {_WORDS.get(process.signal, process.signal)}"
        return {"exitCode": -1, "exited": False, "status": words, "error": words}
    status = f"exit status {code}"
    return {"exitCode": code, "exited": True, "status": status, **({"error": status} if code else {})}


_WORDS = {"SIGKILL": "killed", "SIGTERM": "terminated", "SIGINT": "interrupt", "SIGHUP": "hangup"}
