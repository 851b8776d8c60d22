"""The code interpreter: contexts that keep their state, and executions as lines of JSON."""

from __future__ import annotations

import asyncio
import base64
import functools
import secrets
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import msgspec
from aiohttp import web

from unsandbox.engine import Engine
from unsandbox.engine.errors import RequestError
from unsandbox.engine.workspace.kernel_program import EVENTS_AT_ONCE, MAX_LINE, parse_event
from unsandbox.protocol.processes import (
    MAX_WRITE_BYTES,
    OutputRequest,
    ProcessRequest,
    SignalRequest,
    StdinRequest,
)
from unsandbox.server.e2b.errors import E2bError, json_answer
from unsandbox.server.e2b.paths import inside, outside

_PYTHON = "python"
_LANGUAGES = {"": _PYTHON, "python": _PYTHON, "python3": _PYTHON}
_PROGRAM = ("/usr/bin/python3", "-c")
_OUTPUT_BYTES = 64 << 20
_KEEPALIVE_S = 5.0
_MOST_CONTEXTS = 64
_LONGEST_PATH = 4096
_END = "end_of_execution"


class ExecuteRequest(msgspec.Struct):
    """The body of an execution."""

    code: str = ""
    context_id: str | None = None
    language: str | None = None
    env_vars: dict[str, str] | None = None


class ContextRequest(msgspec.Struct):
    """The body of a new context."""

    language: str | None = None
    cwd: str | None = None


class Context:
    """A running interpreter.

    Args:
        engine: The engine.
        owner: The key.
        session_id: The session.
        cwd: Working directory, as the client named it.
        env: Environment variables.

    Attributes:
        context_id: Its id.
        language: Its language.
        lock: Held by the execution.
    """

    def __init__(self, engine: Engine, owner: str, session_id: str, cwd: str, env: dict[str, str]) -> None:
        self._workspaces, self._owner, self._session_id = engine.workspaces, owner, session_id
        self._env = env
        self._process_id: str | None = None
        self._offset = 0
        self.context_id = secrets.token_hex(16)
        self.language = _PYTHON
        self.cwd = cwd
        self.lock = asyncio.Lock()

    async def run(self, code: str, env: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        """Run code and yield its events; None-like events of silence are `keepalive`.

        Args:
            code: The code.
            env: Environment variables of this execution.
        """
        await self._ensure()
        await self._write(msgspec.json.encode({"code": code, "env": env}) + b"\n")
        ended = False
        try:
            async for event in self._events():
                ended = event.get("type") == _END
                yield event
                if ended:
                    return
        finally:
            if not ended:
                await self._interrupt()

    async def close(self) -> None:
        """End the interpreter."""
        if self._process_id is not None:
            name, self._process_id = self._process_id, None
            await self._workspaces.end(self._owner, self._session_id, name)

    async def _ensure(self) -> None:
        if self._process_id is not None:
            return
        process = await self._workspaces.start(
            self._owner,
            self._session_id,
            ProcessRequest(
                argv=[*_PROGRAM, _source()],
                cwd=inside(self.cwd),
                env=self._env,
                stdin_open=True,
                detach=True,
                output_bytes=_OUTPUT_BYTES,
            ),
        )
        self._process_id, self._offset = process.process_id, 0

    async def _write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_WRITE_BYTES):
            part = base64.b64encode(data[start : start + MAX_WRITE_BYTES]).decode()
            request = StdinRequest(data_base64=part)
            await self._workspaces.write(self._owner, self._session_id, self._process_id or "", request)

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        waiting = bytearray()
        while True:
            request = OutputRequest(stdout_offset=self._offset, wait=_KEEPALIVE_S)
            name = self._process_id or ""
            output = await self._workspaces.output(self._owner, self._session_id, name, request, lambda: True)
            data = output.stdout
            self._offset = (output.stdout_offset or 0) + len(data)
            waiting += data
            lines: list[bytearray] = []
            if b"\n" in data:
                *lines, waiting = waiting.split(b"\n")
            broken = len(waiting) > MAX_LINE
            for number, line in enumerate(lines):
                if number % EVENTS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                event = parse_event(line)
                if event is None:
                    # The tenant has replaced the interpreter, or writes into its channel.
                    broken = True
                    break
                yield event
            if output.ended or broken:
                await self.close()
                yield {"type": "error", "name": "ContextRestarting", "value": "", "traceback": ""}
                yield {"type": _END}
                return
            if not data:
                yield {"type": "keepalive"}

    async def _interrupt(self) -> None:
        """Interrupt the code, and read its end, so that the next execution begins in order."""
        if self._process_id is None:
            return
        try:
            request = SignalRequest(signal=int(signal.SIGINT))
            await self._workspaces.signal(self._owner, self._session_id, self._process_id, request)
            async with asyncio.timeout(_KEEPALIVE_S):
                async for event in self._events():
                    if event.get("type") == _END:
                        return
        except TimeoutError:
            await self.close()
        except RequestError:
            return  # The sandbox is gone.


class Contexts:
    """The contexts of a sandbox.

    Args:
        engine: The engine.
        owner: The key.
        session_id: The session.
    """

    def __init__(self, engine: Engine, owner: str, session_id: str) -> None:
        self._engine, self._owner, self._session_id = engine, owner, session_id
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}

    def __iter__(self) -> Any:
        return iter(self._contexts.values())

    def create(self, language: str | None, cwd: str | None, env: dict[str, str]) -> Context:
        """Create a context.

        Raises:
            E2bError: There is no kernel of the language.
        """
        name = _language(language)
        if len(self._contexts) >= _MOST_CONTEXTS:
            raise E2bError("resource_exhausted", f"a sandbox has at most {_MOST_CONTEXTS} contexts; remove one")
        if len(cwd or "") > _LONGEST_PATH:
            raise E2bError("invalid_argument", f"cwd is longer than {_LONGEST_PATH} characters")
        context = Context(self._engine, self._owner, self._session_id, cwd or outside(inside("")), env)
        context.language = name
        self._contexts[context.context_id] = context
        return context

    def get(self, context_id: str) -> Context:
        """Return a context.

        Raises:
            E2bError: There is none.
        """
        context = self._contexts.get(context_id)
        if context is None:
            raise E2bError("not_found", f"Context {context_id} not found")
        return context

    def default(self, language: str | None, env: dict[str, str]) -> Context:
        """Return the context of a language, made at its first use."""
        name = _language(language)
        context = self._defaults.get(name)
        if context is None or context.context_id not in self._contexts:
            context = self._defaults[name] = self.create(name, None, env)
        return context

    async def remove(self, context_id: str) -> None:
        """End a context."""
        context = self.get(context_id)
        del self._contexts[context_id]
        await context.close()

    async def close(self) -> None:
        """Forget all contexts; the caller ends the session."""
        self._contexts.clear()
        self._defaults.clear()


class Interpreter:
    """The calls."""

    async def execute(self, request: web.Request, sandbox: Any) -> web.StreamResponse:
        """Run code and stream its events."""
        wanted = await _body(request, ExecuteRequest)
        if wanted.context_id and wanted.language:
            raise E2bError("invalid_argument", "Only one of context_id or language can be provided")
        contexts: Contexts = sandbox.contexts
        context = (
            contexts.get(wanted.context_id)
            if wanted.context_id
            else contexts.default(wanted.language, sandbox.env)
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        async with context.lock:
            running = context.run(wanted.code, wanted.env_vars or {})
            try:
                async for event in running:
                    if event.get("type") in ("stdout", "stderr"):
                        event["timestamp"] = datetime.now(UTC).isoformat()
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(msgspec.json.encode(event) + b"\n")
                    if request.transport is None or request.transport.is_closing():
                        break
            except ConnectionError:
                pass  # The client is gone, and the code is interrupted.
            finally:
                await running.aclose()  # type: ignore[attr-defined] # an asynchronous generator
        return response

    async def create(self, request: web.Request, sandbox: Any) -> web.Response:
        """Create a context."""
        wanted = await _body(request, ContextRequest)
        return json_answer(_described(sandbox.contexts.create(wanted.language, wanted.cwd, sandbox.env)))

    async def list(self, _request: web.Request, sandbox: Any) -> web.Response:
        """List the contexts."""
        return json_answer([_described(context) for context in sandbox.contexts])

    async def remove(self, request: web.Request, sandbox: Any) -> web.Response:
        """End a context."""
        await sandbox.contexts.remove(request.match_info["id"])
        return json_answer(None)

    async def restart(self, request: web.Request, sandbox: Any) -> web.Response:
        """Empty a context."""
        await sandbox.contexts.get(request.match_info["id"]).close()
        return json_answer(None)


def _described(context: Context) -> dict[str, str]:
    return {"id": context.context_id, "language": context.language, "cwd": context.cwd}


def _language(name: str | None) -> str:
    known = _LANGUAGES.get((name or "").lower())
    if known is None:
        raise E2bError("invalid_argument", f"there is no kernel for {name!r}; run it as a command instead")
    return known


async def _body(request: web.Request, model: Any) -> Any:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise E2bError("invalid_argument", str(error)) from error


@functools.cache
def _source() -> str:
    return resources.files("unsandbox.sandbox.guest").joinpath("kernel.py").read_text("utf-8")
