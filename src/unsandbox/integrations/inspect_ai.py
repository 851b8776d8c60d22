"""Inspect AI: sessions as the sandboxes of evaluations, by `sandbox="unsandbox"`.

    inspect eval task.py --sandbox unsandbox
    inspect eval task.py --sandbox unsandbox:gvisor

The embedded engine runs the sandboxes, or the server in `UNSANDBOX_API_BASE`.
"""

# ruff: noqa: A002, ARG002, ARG003, ASYNC109, D102 - Inspect gives names and meanings of its methods

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any, Literal, overload

from unsandbox.integrations._missing import missing

try:
    from inspect_ai.util import (
        ExecResult,
        OutputLimitExceededError,
        SandboxConnection,
        SandboxEnvironment,
        SandboxEnvironmentConfigType,
        SandboxEnvironmentLimits,
        SandboxUnavailableError,
        SandboxUserUnsupportedError,
        sandboxenv,
    )
    from pydantic import BaseModel, ConfigDict
except ImportError as error:
    raise missing(error, "inspect") from error

from unsandbox.errors import APIError, ConnectionFailedError
from unsandbox.integrations.workspace import AsyncWorkspace, is_gone
from unsandbox.protocol.models import IsolationName, NetworkModeName

SESSION_NAME = "inspect"
"""Start of the display names of sessions, by which `inspect sandbox cleanup` finds them."""
MOST_OUTPUT_BYTES = 64 << 20
"""Bytes of a stream that a server keeps at most."""


class UnsandboxConfig(BaseModel):
    """Options of a task's sandboxes, for `SandboxEnvironmentSpec("unsandbox", UnsandboxConfig(...))`.

    Attributes:
        isolation: `bubblewrap`, `gvisor`, or `hardened`.
        network_mode: `zerotrust` (no network, the default) or `semitrusted` (outbound network only).
        vcpu: Processors, 1 to 8, with 2 GiB of memory each.
        ttl: Idle seconds after which a sandbox is deleted.
        base_url: URL of a server. Default: `UNSANDBOX_API_BASE`, otherwise the embedded engine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    isolation: IsolationName | None = None
    network_mode: NetworkModeName | None = None
    vcpu: int | None = None
    ttl: int | None = None
    base_url: str | None = None


def config_of(config: SandboxEnvironmentConfigType | None) -> UnsandboxConfig:
    """Return the options of a task; a text names the isolation.

    Args:
        config: What the task says.
    """
    if config is None:
        return UnsandboxConfig()
    if isinstance(config, str):
        return UnsandboxConfig.model_validate({"isolation": PurePath(config).name})
    if not isinstance(config, UnsandboxConfig):
        raise TypeError(f"the sandbox 'unsandbox' takes an UnsandboxConfig, not a {type(config).__name__}")
    return config


@sandboxenv(name="unsandbox")
class UnsandboxEnvironment(SandboxEnvironment):
    """A session as the sandbox of a sample.

    Args:
        workspace: The session.
    """

    def __init__(self, workspace: AsyncWorkspace) -> None:
        super().__init__()
        self.workspace = workspace

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        options = config_of(config).model_dump(exclude_none=True)
        workspace = AsyncWorkspace(name=f"{SESSION_NAME} {task_name}"[:64], **options)
        try:
            await workspace.session()
        except BaseException:
            await workspace.close()
            raise
        return {"default": cls(workspace)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        for environment in environments.values():
            await environment.as_type(cls).workspace.delete()

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:
        workspace = AsyncWorkspace(id)
        if id is None:
            client = workspace.client()
            for session in await client.list_sessions():
                if session.session_id and (session.name or "").startswith(SESSION_NAME):
                    await client.delete_session(session.session_id)
        await workspace.delete()

    @classmethod
    def default_concurrency(cls) -> int | None:
        return 2 * (os.cpu_count() or 1)

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return UnsandboxConfig(**config)

    async def exec(  # noqa: PLR0913 - Inspect's signature
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        limit = min(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE, MOST_OUTPUT_BYTES)
        try:
            session = await self.workspace.session()
            result = await session.exec(
                cmd, cwd=cwd, env=env, stdin=input, user=user, timeout=timeout, output_bytes=limit
            )
        except APIError as error:
            raise translated(error) from error
        except ConnectionFailedError as error:
            raise SandboxUnavailableError(str(error)) from error
        if result.timed_out:
            raise TimeoutError(f"the command had not ended after {timeout} s")
        if result.reason == "session":
            raise SandboxUnavailableError("the sandbox was deleted while the command ran")
        if result.stdout_truncated or result.stderr_truncated:
            output = result.text if result.stdout_truncated else result.stderr
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, output)
        if result.error is not None and result.exit_code == 126:
            raise PermissionError(result.error)
        code = result.exit_code if result.exit_code is not None else -1
        return ExecResult(code == 0, code, result.stdout or "", result.stderr or "")

    async def write_file(self, file: str, contents: str | bytes) -> None:
        try:
            await (await self.workspace.session()).files.write(file, contents)
        except APIError as error:
            raise translated(error) from error

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        try:
            data = await (await self.workspace.session()).files.read(file, length=limit + 1)
        except APIError as error:
            raise translated(error) from error
        if len(data) > limit:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return data.decode() if text else data

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        session_id = self.workspace.session_id
        return SandboxConnection(
            type="unsandbox", command=f"un session attach {session_id}", container=session_id
        )

    def default_polling_interval(self) -> float:
        return 0.2


def translated(error: APIError) -> Exception:
    """Return the error that Inspect expects; one that it has no name for is returned unchanged.

    Args:
        error: The error of an operation on a session.
    """
    if error.code == "user_unsupported":
        return SandboxUserUnsupportedError(str(error))
    if error.code == "invalid_cwd":
        return FileNotFoundError(str(error))
    return SandboxUnavailableError(str(error)) if is_gone(error) else error
