"""The tools."""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Unpack

from unsandbox.integrations._missing import missing

try:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations
    from pydantic import Field
except ImportError as error:
    raise missing(error, "mcp") from error

from unsandbox._async.objects.session import AsyncLiveSession
from unsandbox._version import __version__
from unsandbox.errors import (
    APIError,
    AuthenticationError,
    ConnectionFailedError,
    CredentialsError,
    EngineError,
    RateLimitError,
    UnsandboxError,
)
from unsandbox.integrations.mcp.output import (
    MOST_CHARACTERS,
    Content,
    artifact_images,
    as_image,
    bounded,
    describe,
    new_images,
)
from unsandbox.integrations.mcp.sandboxes import IDLE_S, McpSession
from unsandbox.integrations.workspace import WorkspaceOptions, is_gone

SessionOf = Callable[[Context[Any, Any]], McpSession]

_INSTRUCTIONS = f"""\
Runs code in an isolated Linux sandbox. The sandbox starts with the first call and is kept until the session \
ends: files in /work and the variables of Python code stay. Pictures written to /work are returned. An unused \
sandbox ends after {IDLE_S // 60} minutes. It has no \
network unless start_sandbox is called with network=true."""
_PYTHON = frozenset({"python", "python3", "py"})
_SHELLS = frozenset({"bash", "sh", "shell"})
_MOST_ENTRIES = 500

Timeout = Annotated[float, Field(description="Seconds until the program is ended.", gt=0, le=900)]
Sandbox = Annotated[
    str | None, Field(description="Id of a sandbox from start_sandbox. Default: the sandbox of this session.")
]
Path = Annotated[str, Field(description="Path in the sandbox; a relative one starts in /work.")]

_REMEDIES: tuple[tuple[type[UnsandboxError], str], ...] = (
    (
        CredentialsError,
        "Set UNSANDBOX_PUBLIC_KEY and UNSANDBOX_SECRET_KEY where this MCP server is configured.",
    ),
    (AuthenticationError, "Check the keys where this MCP server is configured."),
    (RateLimitError, "Wait a moment, or end sandboxes that are not needed with stop_sandbox."),
    (ConnectionFailedError, "The server cannot be reached; check UNSANDBOX_API_BASE, or start it: un serve."),
    (EngineError, "Run `un doctor` on the machine of this MCP server; it says what is missing."),
)
_CODES = {
    "file_not_found": "Call list_files to see what exists.",
    "unknown_language": "Call languages to see which there are.",
    "session_frozen": "It was suspended elsewhere; call start_sandbox for another one.",
}


def create_server(
    session_of: SessionOf | None = None, **options: Unpack[WorkspaceOptions]
) -> MCPServer[dict[str, Any]]:
    """Return the MCP server with its tools.

    Args:
        session_of: Returns the MCP session of a call. By default all calls are of one session, whose sandboxes
            end with the server.
        options: See `unsandbox.integrations.workspace.WorkspaceOptions`.

    Example:
        ```python
        create_server(isolation="gvisor").run("stdio")
        ```
    """
    only = McpSession(options) if session_of is None else None

    @contextlib.asynccontextmanager
    async def lifespan(_server: MCPServer[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {}
        finally:
            if only is not None:
                await only.close()

    server = MCPServer(
        "unsandbox",
        version=__version__,
        instructions=_INSTRUCTIONS,
        lifespan=lifespan,
        log_level="WARNING",
        subscriptions=False,
    )
    tools = _Tools(session_of or (lambda _context: only))  # type: ignore[arg-type,return-value] # not None then
    for function, reads, destroys in (
        (tools.run_code, False, True),
        (tools.run_command, False, True),
        (tools.read_file, True, False),
        (tools.write_file, False, True),
        (tools.list_files, True, False),
        (tools.start_sandbox, False, False),
        (tools.stop_sandbox, False, True),
        (tools.languages, True, False),
    ):
        hints = ToolAnnotations(read_only_hint=reads, destructive_hint=destroys, open_world_hint=False)
        server.add_tool(function, annotations=hints, structured_output=False)
    return server


class _Tools:
    """The tools of a server. Their docstrings are what models read."""

    def __init__(self, session_of: SessionOf) -> None:
        self._session_of = session_of

    async def run_code(
        self,
        ctx: Context[Any, Any],
        code: Annotated[str, Field(description="The program.")],
        language: Annotated[str, Field(description="Name of its language.")] = "python",
        timeout: Timeout = 60.0,
        sandbox: Sandbox = None,
    ) -> list[Content]:
        """Run a program and return its output and the pictures that it writes.

        Python keeps its variables and imports between calls; the value of a last expression is shown. Programs
        in other languages run in a fresh sandbox each, without the files of this session; bash runs in it.
        """
        async with self._using(ctx, sandbox) as mcp:
            if language.lower() in _SHELLS:
                return await self._run_command(mcp, code, sandbox, timeout)
            if language.lower() not in _PYTHON:
                job = await mcp.client().execute(language, code, timeout=timeout, return_artifacts=True)
                text = describe(job.stdout or "", job.stderr or "", job.exit_code, job.error)
                return [await bounded(mcp, None, text), *artifact_images(job.artifacts or [])]
            session = await mcp.sandbox(sandbox)
            result = await session.run(code, timeout=timeout)
            text = describe(result.stdout or "", result.stderr or "", result.exit_code, result.error)
            return [await bounded(mcp, session, text), *await new_images(mcp, session)]

    async def run_command(
        self,
        ctx: Context[Any, Any],
        command: Annotated[str, Field(description="Command line for bash.")],
        timeout: Timeout = 60.0,
        sandbox: Sandbox = None,
    ) -> list[Content]:
        """Run a command line in the sandbox and return its output. Each call is a new shell in /work."""
        async with self._using(ctx, sandbox) as mcp:
            return await self._run_command(mcp, command, sandbox, timeout)

    async def read_file(
        self,
        ctx: Context[Any, Any],
        path: Path,
        offset: Annotated[int, Field(description="Position of the first byte.", ge=0)] = 0,
        length: Annotated[int, Field(description="Bytes to read.", ge=1, le=MOST_CHARACTERS)] = MOST_CHARACTERS,
        sandbox: Sandbox = None,
    ) -> list[Content]:
        """Read a file of the sandbox: text, or a picture."""
        async with self._using(ctx, sandbox) as mcp:
            session = await mcp.sandbox(sandbox)
            return await _read_file(session, path, offset, length)

    async def write_file(
        self,
        ctx: Context[Any, Any],
        path: Path,
        content: Annotated[str, Field(description="The text, or the bytes as base64.")],
        base64_encoded: Annotated[bool, Field(description="Whether content is base64.")] = False,
        sandbox: Sandbox = None,
    ) -> str:
        """Write a file in the sandbox; missing directories are created."""
        async with self._using(ctx, sandbox) as mcp:
            try:
                data = base64.b64decode(content, validate=True) if base64_encoded else content.encode()
            except (binascii.Error, ValueError) as error:
                raise ToolError("content is not valid base64; set base64_encoded to false for text") from error
            session = await mcp.sandbox(sandbox)
            written = await session.files.write(path, data)
            return f"wrote {len(data)} bytes to {written.path}"

    async def list_files(
        self,
        ctx: Context[Any, Any],
        path: Path = ".",
        depth: Annotated[int, Field(description="Levels to descend.", ge=1, le=10)] = 1,
        sandbox: Sandbox = None,
    ) -> str:
        """List a directory of the sandbox with sizes in bytes."""
        async with self._using(ctx, sandbox) as mcp:
            session = await mcp.sandbox(sandbox)
            entries = await session.files.list(path, depth=depth)
            lines = [
                f"{entry.name}/" if entry.is_dir else f"{entry.name} ({entry.size} bytes)"
                for entry in entries[:_MOST_ENTRIES]
            ]
            if len(entries) > _MOST_ENTRIES:
                lines.append(
                    f"[{len(entries) - _MOST_ENTRIES} more; list a subdirectory, or use a smaller depth]"
                )
            return "\n".join(lines) or "[empty]"

    async def start_sandbox(
        self,
        ctx: Context[Any, Any],
        network: Annotated[bool, Field(description="Whether it has outbound network.")] = False,
        vcpu: Annotated[int, Field(description="Processors, with 2 GiB of memory each.", ge=1, le=8)] = 1,
    ) -> str:
        """Start a new sandbox, use it for the following calls, and return its id.

        Only needed for network access, more processors, or several sandboxes side by side.
        """
        async with self._using(ctx, None) as mcp:
            mode: WorkspaceOptions = {"network_mode": "semitrusted"} if network else {}
            session = await mcp.start({**mode, "vcpu": vcpu})
            return session.id

    async def stop_sandbox(self, ctx: Context[Any, Any], sandbox: Sandbox = None) -> str:
        """End a sandbox; its files and variables are gone. The next call starts a new one."""
        async with self._using(ctx, sandbox) as mcp:
            stopped = await mcp.stop(sandbox)
            return "there is no sandbox" if stopped is None else f"ended sandbox {stopped}"

    async def languages(self, ctx: Context[Any, Any]) -> str:
        """List the languages that run_code accepts."""
        async with self._using(ctx, None) as mcp:
            return ", ".join((await mcp.client().languages()).languages)

    @contextlib.asynccontextmanager
    async def _using(self, ctx: Context[Any, Any], sandbox: str | None) -> AsyncIterator[McpSession]:
        """Give the MCP session of a call. Errors of the client become results that a model can act on."""
        mcp = self._session_of(ctx)
        try:
            yield mcp
        except APIError as error:
            if is_gone(error) and error.code == "session_not_found":
                mcp.forget(sandbox)
                raise ToolError(
                    "The sandbox has ended, and its files and variables are gone. Call the tool again without "
                    "an id for a new sandbox."
                ) from error
            raise ToolError(_with_remedy(error, _CODES.get(error.code or "", ""))) from error
        except UnsandboxError as error:
            raise ToolError(_with_remedy(error)) from error

    @staticmethod
    async def _run_command(mcp: McpSession, command: str, sandbox: str | None, timeout: float) -> list[Content]:
        session = await mcp.sandbox(sandbox)
        result = await session.exec(command, timeout=timeout)
        reason = (
            f"time limit of {timeout:g} s; pass a larger timeout"
            if result.reason == "timeout"
            else result.error
        )
        text = describe(result.stdout or "", result.stderr or "", result.exit_code, reason)
        return [await bounded(mcp, session, text), *await new_images(mcp, session)]


async def _read_file(session: AsyncLiveSession, path: str, offset: int, length: int) -> list[Content]:
    info = await session.files.stat(path)
    size = info.size or 0
    head = await session.files.read(path, length=16) if offset == 0 else b""
    if head and (image := as_image(head)) is not None:
        image = as_image(await session.files.read(path))
        return [
            image if image is not None else f"[a picture of {size} bytes, too large to return; scale it down]"
        ]
    data = await session.files.read(path, offset=offset, length=length)
    if b"\0" in data:
        return [f"[a binary file of {size} bytes; look at it with run_command or run_code]"]
    # A character may be cut at the end.
    text = data.decode("utf-8", "replace") if offset + len(data) >= size else _whole_characters(data)
    end = offset + len(text.encode())
    if end < size and data:
        text += f"\n[bytes {offset} to {end} of {size}; continue with offset={end}]"
    return [text or "[empty]"]


def _whole_characters(data: bytes) -> str:
    for cut in range(min(4, len(data))):
        with contextlib.suppress(UnicodeDecodeError):
            return data[: len(data) - cut].decode()
    return data.decode("utf-8", "replace")


def _with_remedy(error: UnsandboxError, remedy: str = "") -> str:
    remedy = remedy or next((text for kind, text in _REMEDIES if isinstance(error, kind)), "")
    return f"{error}. {remedy}" if remedy else str(error)
