"""Pydantic AI: a session as the workspace of an agent.

A backend is any object with the members of Pydantic AI's protocols; `UnsandboxBackend` has those for commands,
files and the resolution of links. The embedded engine runs the session, or the server in `UNSANDBOX_API_BASE`.
"""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Unpack

from unsandbox.integrations._missing import missing

try:
    from pydantic_ai.workspaces import (
        CommandResult,
        FileEntry,
        WorkspaceCommand,
        WorkspaceOutputLimitError,
        WorkspaceRef,
        WorkspaceTimeoutError,
        WorkspaceUnavailableError,
    )
except ImportError as error:
    raise missing(error, "pydantic-ai") from error

from unsandbox._async.objects.session import AsyncLiveSession
from unsandbox.errors import APIError
from unsandbox.integrations.workspace import AsyncWorkspace, WorkspaceOptions, is_gone
from unsandbox.protocol.files import FileInfo

PROVIDER = "unsandbox"
MOST_OUTPUT_BYTES = 10 << 20
"""Bytes of each stream of a command; more is an error, never a cut output."""


class UnsandboxBackend:
    """A session as a workspace: created by the first operation, or the one that `ref` names.

    The end of an agent's run does not delete it: call `delete`, or let it expire after its `ttl`.

    Args:
        ref: Reference to an existing workspace, of an earlier backend's `ref`.
        options: See `unsandbox.integrations.workspace.WorkspaceOptions`.

    Example:
        ```python
        backend = UnsandboxBackend(isolation="gvisor")
        workspace = Workspace(backend)
        print((await workspace.run(["uname"])).stdout)
        await backend.delete()
        ```
    """

    def __init__(self, ref: WorkspaceRef | None = None, **options: Unpack[WorkspaceOptions]) -> None:
        if ref is not None and ref.provider != PROVIDER:
            raise ValueError(f"a workspace of {ref.provider!r} is not one of {PROVIDER!r}")
        self._workspace = AsyncWorkspace(None if ref is None else ref.id, **options)
        self._ref = ref
        self._working_dir: str | None = None

    @property
    def ref(self) -> WorkspaceRef | None:
        """The reference of the session; None until it exists."""
        if self._ref is None and self._workspace.session_id is not None:
            self._ref = WorkspaceRef(provider=PROVIDER, id=self._workspace.session_id)
        return self._ref

    async def working_dir(self) -> str:
        """Return the directory in which commands start."""
        async with self._session() as session:
            if self._working_dir is None:
                self._working_dir = await session.files.realpath(".")
            return self._working_dir

    async def run(
        self,
        command: WorkspaceCommand,
        *,
        shell: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        """Run a command and return its complete output.

        Args:
            command: Program and arguments, or with `shell` a command line.
            shell: Whether the command is a command line.
            env: Further environment variables.
            timeout: Seconds until the command and all of its children are killed.

        Raises:
            WorkspaceTimeoutError: It had not ended in time.
            WorkspaceOutputLimitError: It wrote more than 10 MiB to a stream.
            WorkspaceUnavailableError: The session does not exist any more.
        """
        if isinstance(command, str) != shell:
            raise TypeError("a text needs shell=True; a sequence of program and arguments needs shell=False")
        async with self._session() as session:
            result = await session.exec(command, env=env, timeout=timeout, output_bytes=MOST_OUTPUT_BYTES)
        stdout, stderr = result.stdout or "", result.stderr or ""
        if result.timed_out:
            raise WorkspaceTimeoutError(
                f"the command had not ended after {timeout:g} s", stdout=stdout, stderr=stderr
            )
        if result.reason == "session" or result.exit_code is None:
            raise WorkspaceUnavailableError("the session was deleted while the command ran")
        if result.stdout_truncated or result.stderr_truncated:
            raise WorkspaceOutputLimitError(
                f"the command wrote more than {MOST_OUTPUT_BYTES} bytes to a stream; let it write a file",
                limit=MOST_OUTPUT_BYTES,
                stdout=stdout,
                stderr=stderr,
            )
        return CommandResult(exit_code=result.exit_code, stdout=stdout, stderr=stderr)

    async def read_bytes(self, path: str) -> bytes:
        """Return the content of a file."""
        async with self._session() as session:
            return await session.files.read(path)

    async def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file; missing parents are created."""
        async with self._session() as session:
            await session.files.write(path, data)

    async def stat(self, path: str) -> FileEntry:
        """Return the state of a file, or of the target of a link."""
        async with self._session() as session:
            return _entry(posixpath.basename(path), path, await session.files.stat(path))

    async def list_dir(self, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory."""
        async with self._session() as session:
            found = []
            for info in await session.files.list(path):
                name = info.name or ""
                target = posixpath.join(path, name)
                state = await _followed(session, target, info) if info.type == "symlink" else info
                found.append(_entry(name, target, state))
            return found

    async def make_dir(self, path: str) -> None:
        """Create a directory and its missing parents."""
        async with self._session() as session:
            await session.files.make_dir(path)

    async def remove(self, path: str) -> None:
        """Remove a file, a link, or a directory with its content.

        Raises:
            ValueError: It is the working directory, or one above it.
        """
        working_dir = await self.working_dir()
        async with self._session() as session:
            folder, name = posixpath.split(path.rstrip("/"))
            if name in {"", ".", ".."}:
                real = await session.files.realpath(path)
            else:
                real = posixpath.join(await session.files.realpath(folder or "."), name)
            if f"{working_dir}/".startswith(f"{real.rstrip('/')}/"):
                raise ValueError(f"{path} is the working directory, or above it")
            await session.files.remove(real, recursive=True)

    async def exists(self, path: str) -> bool:
        """Return whether there is such a file."""
        async with self._session() as session:
            return await session.files.exists(path)

    async def realpath(self, path: str) -> str:
        """Return the absolute path with every link resolved."""
        async with self._session() as session:
            return await session.files.realpath(path)

    async def delete(self) -> None:
        """Delete the session, and close the connections of this event loop."""
        await self._workspace.delete()

    async def close(self) -> None:
        """Close the connections of this event loop. The session stays."""
        await self._workspace.close()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncLiveSession]:
        """Give the session to a block, and translate its errors."""
        try:
            yield await self._workspace.session()
        except APIError as error:
            if is_gone(error):
                raise WorkspaceUnavailableError(str(error)) from error
            raise


async def _followed(session: AsyncLiveSession, path: str, info: FileInfo) -> FileInfo:
    """Return the state of a link's target, or that of a link that leads nowhere."""
    try:
        return await session.files.stat(path)
    except APIError as error:
        if is_gone(error):
            raise
        return info


def _entry(name: str, path: str, info: FileInfo) -> FileEntry:
    return FileEntry(name=name, path=path, is_dir=info.is_dir, size=info.size if info.is_file else None)
