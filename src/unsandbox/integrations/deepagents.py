"""deepagents (LangChain): a session as the sandbox backend of an agent.

    agent = create_deep_agent(model, backend=UnsandboxBackend())

The embedded engine runs the session, or the server in `UNSANDBOX_API_BASE`.
"""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self, Unpack

from unsandbox.integrations._missing import missing

try:
    from deepagents.backends.protocol import (
        ExecuteResponse,
        FileDownloadResponse,
        FileOperationError,
        FileUploadResponse,
    )
    from deepagents.backends.sandbox import BaseSandbox
except ImportError as error:
    raise missing(error, "deepagents") from error

from unsandbox._async.objects.session import AsyncLiveSession
from unsandbox._sync.client import Client
from unsandbox._sync.objects.session import LiveSession
from unsandbox.errors import APIError, BadRequestError, InvalidRequestError, NotFoundError
from unsandbox.integrations.workspace import AsyncWorkspace, WorkspaceOptions, split_options
from unsandbox.protocol.processes import ExecResult

DEFAULT_TIMEOUT_S = 1800
"""Seconds that a command may run when the agent does not say."""


class UnsandboxBackend(BaseSandbox):
    """A session as a sandbox backend, for blocking and for asynchronous agents.

    A block deletes the session at its end. Without a block, call `close`, or let it expire after its `ttl`.

    Args:
        session_id: Id of an existing session. Default: a new one.
        timeout: Seconds that a command may run by default.
        options: See `unsandbox.integrations.workspace.WorkspaceOptions`.

    Example:
        ```python
        with UnsandboxBackend(isolation="gvisor") as backend:
            agent = create_deep_agent(model, backend=backend)
        ```
    """

    def __init__(
        self,
        session_id: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        **options: Unpack[WorkspaceOptions],
    ) -> None:
        server, self._members = split_options(options)
        self._client = Client(**server)
        self._timeout = timeout
        self._session_id = session_id
        self._lock = threading.Lock()
        self._workspace: AsyncWorkspace | None = None
        self._options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The id of the session, which is created if there is none."""
        with self._lock:
            if self._session_id is None:
                self._session_id = self._client.create_session(**self._members).session_id or ""
            return self._session_id

    def close(self) -> None:
        """Delete the session, and close the connections of blocking calls."""
        if self._session_id is not None:
            # It may have been deleted elsewhere, or was idle for too long.
            with contextlib.suppress(NotFoundError):
                self._client.delete_session(self._session_id)
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop. The session stays."""
        if self._workspace is not None:
            await self._workspace.close()

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a command line.

        Args:
            command: The command line.
            timeout: Seconds it may run; 0 means no limit.
        """
        return _response(self._session().exec(_merged(command), timeout=self._limit(timeout)))

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a command line; it is killed if the call is cancelled.

        Args:
            command: The command line.
            timeout: Seconds it may run; 0 means no limit.
        """
        session = await self._async_session()
        return _response(await session.exec(_merged(command), timeout=self._limit(timeout)))

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files; a failure is in the answer of its file.

        Args:
            files: Absolute paths and contents.
        """
        target, answers = self._session().files, []
        for path, data in files:
            problem = _path_problem(path)
            if problem is None:
                try:
                    target.write(path, data)
                except (APIError, InvalidRequestError) as error:
                    problem = _problem(error)
            answers.append(FileUploadResponse(path=path, error=problem))
        return answers

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files; a failure is in the answer of its file.

        Args:
            files: Absolute paths and contents.
        """
        target, answers = (await self._async_session()).files, []
        for path, data in files:
            problem = _path_problem(path)
            if problem is None:
                try:
                    await target.write(path, data)
                except (APIError, InvalidRequestError) as error:
                    problem = _problem(error)
            answers.append(FileUploadResponse(path=path, error=problem))
        return answers

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files; a failure is in the answer of its file.

        Args:
            paths: Absolute paths.
        """
        source, answers = self._session().files, []
        for path in paths:
            data, problem = None, _path_problem(path)
            if problem is None:
                try:
                    data = source.read(path)
                except (APIError, InvalidRequestError) as error:
                    problem = _problem(error)
            answers.append(FileDownloadResponse(path=path, content=data, error=problem))
        return answers

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files; a failure is in the answer of its file.

        Args:
            paths: Absolute paths.
        """
        source, answers = (await self._async_session()).files, []
        for path in paths:
            data, problem = None, _path_problem(path)
            if problem is None:
                try:
                    data = await source.read(path)
                except (APIError, InvalidRequestError) as error:
                    problem = _problem(error)
            answers.append(FileDownloadResponse(path=path, content=data, error=problem))
        return answers

    def _limit(self, timeout: int | None) -> float | None:
        return (self._timeout if timeout is None else timeout) or None

    def _session(self) -> LiveSession:
        return self._client.attach_session(self.id)

    async def _async_session(self) -> AsyncLiveSession:
        if self._workspace is None:
            session_id = await asyncio.to_thread(lambda: self.id)
            self._workspace = AsyncWorkspace(session_id, **self._options)
        return await self._workspace.session()


def _merged(command: str) -> str:
    """Return a command line for an agent: both streams are one, and `python` is there.

    Debian calls it `python3` alone, and models write `python`.
    """
    return f'exec 2>&1\ncommand -v python >/dev/null || python() {{ python3 "$@"; }}\n{command}'


def _response(result: ExecResult) -> ExecuteResponse:
    output = (result.stdout or "") + (result.stderr or "")
    return ExecuteResponse(output, result.exit_code, bool(result.stdout_truncated))


def _path_problem(path: str) -> FileOperationError | None:
    return None if path.startswith("/") else "invalid_path"


def _problem(error: APIError | InvalidRequestError) -> FileOperationError:
    """Return deepagents' name of a failure.

    Raises:
        APIError: The file is not the cause.
    """
    if isinstance(error, FileNotFoundError):
        return "file_not_found"
    if isinstance(error, IsADirectoryError):
        return "is_directory"
    if isinstance(error, PermissionError):
        return "permission_denied"
    if isinstance(error, InvalidRequestError | BadRequestError | OSError):
        return "invalid_path"
    raise error
