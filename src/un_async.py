"""Run code in many languages, in sandboxes: the functions of the unsandbox SDK, for asyncio.

```python
import asyncio
from un_async import execute_code

async def main():
    result = await execute_code("python", "print('hello')")
    print(result["stdout"])

asyncio.run(main())
```

Keys are the arguments `public_key` and `secret_key`, else the account `account`, else the variables
`UNSANDBOX_PUBLIC_KEY` and `UNSANDBOX_SECRET_KEY`, else `~/.unsandbox/accounts.csv`, else `./accounts.csv` (row
`UNSANDBOX_ACCOUNT`, from 0).

The server is `API_BASE`, which may be assigned and which `UNSANDBOX_API_BASE` sets; `local` is the engine
inside this process, which needs no account. Connections are kept for as long as the event loop runs.

Every function raises `CredentialsError` when there are no keys, `aiohttp.ClientError` for network errors
and error answers (all of them are also errors of `unsandbox.errors`), and `ValueError` for answers that make
no sense and arguments that cannot be sent.
"""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, cast

from unsandbox._async.functions.context import connect, tell_base_url
from unsandbox.errors import CredentialsError
from unsandbox.protocol.languages import detect_language

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unsandbox._async.functions.images import (
        clone_image,
        delete_image,
        get_image,
        grant_image_access,
        image,
        list_image_trusted,
        list_images,
        lock_image,
        publish_image,
        revoke_image_access,
        set_image_visibility,
        spawn_from_image,
        transfer_image,
        unlock_image,
    )
    from unsandbox._async.functions.logs import fetch_logs, stream_logs
    from unsandbox._async.functions.service_work import (
        delete_service_env,
        execute_in_service,
        export_service_env,
        get_service_env,
        get_service_logs,
        redeploy_service,
        set_service_domains,
        set_service_env,
    )
    from unsandbox._async.functions.services import (
        create_service,
        delete_service,
        freeze_service,
        get_service,
        list_services,
        lock_service,
        resize_service,
        set_show_freeze_page,
        set_unfreeze_on_demand,
        unfreeze_service,
        unlock_service,
        update_service,
    )
    from unsandbox._async.functions.sessions import (
        boost_session,
        create_session,
        delete_session,
        freeze_session,
        get_session,
        list_sessions,
        shell_session,
        unboost_session,
        unfreeze_session,
    )
    from unsandbox._async.functions.snapshots import (
        clone_snapshot,
        create_snapshot,
        delete_snapshot,
        get_snapshot,
        list_snapshots,
        lock_snapshot,
        restore_snapshot,
        service_snapshot,
        session_snapshot,
        unlock_snapshot,
    )
    from unsandbox._shared.files import InputFiles
    from unsandbox._shared.results import (
        ArtifactResult,
        CloneResult,
        CommandOutcome,
        DomainsResult,
        ImageListResult,
        ImageResult,
        JobResult,
        KeyResult,
        LogLineResult,
        LogResult,
        PicturesResult,
        RestoredResult,
        ServiceLogResult,
        ServiceResult,
        SessionResult,
        SnapshotResult,
        TrustedResult,
        VaultExportResult,
        VaultResult,
    )
    from unsandbox.protocol.models import IsolationName, NetworkModeName

__all__ = [
    "API_BASE",
    "ArtifactResult",
    "CloneResult",
    "CommandOutcome",
    "CredentialsError",
    "DomainsResult",
    "ImageListResult",
    "ImageResult",
    "JobResult",
    "KeyResult",
    "LogLineResult",
    "LogResult",
    "PicturesResult",
    "RestoredResult",
    "ServiceLogResult",
    "ServiceResult",
    "SessionResult",
    "SnapshotResult",
    "TrustedResult",
    "VaultExportResult",
    "VaultResult",
    "boost_session",
    "cancel_job",
    "clone_image",
    "clone_snapshot",
    "create_service",
    "create_session",
    "create_snapshot",
    "delete_image",
    "delete_service",
    "delete_service_env",
    "delete_session",
    "delete_snapshot",
    "detect_language",
    "execute_async",
    "execute_code",
    "execute_in_service",
    "export_service_env",
    "fetch_logs",
    "freeze_service",
    "freeze_session",
    "get_image",
    "get_job",
    "get_languages",
    "get_service",
    "get_service_env",
    "get_service_logs",
    "get_session",
    "get_snapshot",
    "grant_image_access",
    "health_check",
    "image",
    "list_image_trusted",
    "list_images",
    "list_jobs",
    "list_services",
    "list_sessions",
    "list_snapshots",
    "lock_image",
    "lock_service",
    "lock_snapshot",
    "publish_image",
    "redeploy_service",
    "resize_service",
    "restore_snapshot",
    "revoke_image_access",
    "run_async",
    "run_code",
    "service_snapshot",
    "session_snapshot",
    "set_image_visibility",
    "set_service_domains",
    "set_service_env",
    "set_show_freeze_page",
    "set_unfreeze_on_demand",
    "shell_session",
    "spawn_from_image",
    "stream_logs",
    "transfer_image",
    "unboost_session",
    "unfreeze_service",
    "unfreeze_session",
    "unlock_image",
    "unlock_service",
    "unlock_snapshot",
    "update_service",
    "validate_keys",
    "wait_for_job",
    "wait_jobs",
]

_PARTS = (
    "unsandbox._async.functions.sessions",
    "unsandbox._async.functions.services",
    "unsandbox._async.functions.service_work",
    "unsandbox._async.functions.snapshots",
    "unsandbox._async.functions.images",
    "unsandbox._async.functions.logs",
    "unsandbox._shared.results",
)
"""Where the names of `__all__` are that are not in this module."""

_AT_IMPORT = os.environ.get("UNSANDBOX_API_BASE") or "https://api.unsandbox.com"

API_BASE = _AT_IMPORT
"""The server; assign another base URL, or `local`, to change it for all functions."""


async def execute_code(
    language: str,
    code: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    input_files: InputFiles | None = None,
    network_mode: NetworkModeName | None = None,
    vcpu: int | None = None,
    ttl: int | None = None,
    return_artifacts: bool = False,
    stdin: str | bytes | None = None,
    args: Sequence[str] | None = None,
    isolation: IsolationName | None = None,
    timeout: float | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> JobResult:
    """Run code and return the result when it has ended.

    A program that exits with another code than 0 is no error: look at `exit_code`.

    Args:
        language: Name of the language, as `get_languages` lists them.
        code: The whole program.
        public_key: Public key.
        secret_key: Secret key; it is never sent.
        env: Environment variables for the program, at most 256.
        input_files: Files for the program, found in `/tmp/input/` by name: a mapping from name to content,
            or a list of paths.
        network_mode: `zerotrust` for no network (the server's default) or `semitrusted` for outbound only.
        vcpu: Processors, 1 to 8.
        ttl: Seconds that the program may run, 1 to 900; beyond them it ends in status `timeout`.
        return_artifacts: Whether to return what the program leaves in `/tmp/artifacts`, or its binary.
        stdin: Standard input, on servers that take one.
        args: Command-line arguments, on servers that take them.
        isolation: On servers of this project: `bubblewrap`, `gvisor`, or `hardened` for gVisor or nothing.
        timeout: Your deadline in seconds, for all of it. When it passes, the job is cancelled.
        account: Row of the accounts file, from 0.
        account_index: Another name for `account`.

    Returns:
        The server's answer: `status`, `stdout`, `stderr`, `exit_code` and more.

    Raises:
        TimeoutError: The deadline passed; its `partial` holds the output so far.

    Example:
        ```python
        result = await execute_code("python", "print(6 * 7)")
        assert result["stdout"] == "42" + chr(10)
        ```
    """
    from unsandbox._shared.options import ExecuteOptions

    caller = await connect(public_key, secret_key, account, account_index)
    options = ExecuteOptions(
        language=language,
        code=code,
        env=env,
        input_files=input_files,
        network_mode=network_mode,
        vcpu=vcpu,
        ttl=ttl,
        return_artifacts=return_artifacts,
        stdin=stdin,
        args=args,
        isolation=isolation,
    )
    return cast("JobResult", await caller.execute(options, timeout))


async def execute_async(
    language: str,
    code: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    input_files: InputFiles | None = None,
    network_mode: NetworkModeName | None = None,
    vcpu: int | None = None,
    ttl: int | None = None,
    return_artifacts: bool = False,
    stdin: str | bytes | None = None,
    args: Sequence[str] | None = None,
    isolation: IsolationName | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> str:
    """Start a job and return its id at once; `wait_for_job` returns its result.

    Args:
        language: As for `execute_code`.
        code: As for `execute_code`.
        public_key: Public key.
        secret_key: Secret key.
        env: As for `execute_code`.
        input_files: As for `execute_code`.
        network_mode: As for `execute_code`.
        vcpu: As for `execute_code`.
        ttl: As for `execute_code`.
        return_artifacts: As for `execute_code`.
        stdin: As for `execute_code`.
        args: As for `execute_code`.
        isolation: As for `execute_code`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The job's id.

    Raises:
        ValueError: The server's answer holds no id.

    Example:
        ```python
        job_id = await execute_async("python", "print(1)")
        result = await wait_for_job(job_id)
        ```
    """
    from unsandbox._shared.options import ExecuteOptions

    caller = await connect(public_key, secret_key, account, account_index)
    options = ExecuteOptions(
        language=language,
        code=code,
        env=env,
        input_files=input_files,
        network_mode=network_mode,
        vcpu=vcpu,
        ttl=ttl,
        return_artifacts=return_artifacts,
        stdin=stdin,
        args=args,
        isolation=isolation,
    )
    return await caller.submit(options)


async def run_code(
    source: str | bytes,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    network_mode: NetworkModeName | None = None,
    ttl: int | None = None,
    timeout: float | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> JobResult:
    """Run a script whose `#!` line names the language, and return the result when it has ended.

    Args:
        source: The whole script.
        public_key: Public key.
        secret_key: Secret key.
        env: As for `execute_code`.
        network_mode: As for `execute_code`.
        ttl: As for `execute_code`.
        timeout: As for `execute_code`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        As `execute_code`, with `detected_language`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("JobResult", await caller.run(source, env, network_mode, ttl, timeout))


async def run_async(
    source: str | bytes,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    network_mode: NetworkModeName | None = None,
    ttl: int | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> str:
    """Start a script whose `#!` line names the language, and return the job's id at once.

    Args:
        source: The whole script.
        public_key: Public key.
        secret_key: Secret key.
        env: As for `execute_code`.
        network_mode: As for `execute_code`.
        ttl: As for `execute_code`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return await caller.submit_run(source, env, network_mode, ttl)


async def get_job(
    job_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> JobResult:
    """Return a job as it is now, without waiting.

    Args:
        job_id: Which job.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The job; with its output once it has ended.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("JobResult", await caller.call("get_job", job_id))


async def wait_for_job(
    job_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    timeout: float | None = None,
    *,
    keep: bool = False,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> JobResult:
    """Return a job when it has ended.

    Args:
        job_id: Which job.
        public_key: Public key.
        secret_key: Secret key.
        timeout: Seconds to wait at most; None waits as long as it takes.
        keep: Whether the job goes on when the waiting ends early; without it the job is then cancelled.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The job with its result.

    Raises:
        TimeoutError: The job had not ended in time; its `partial` holds the output so far.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("JobResult", await caller.wait(job_id, timeout, keep=keep))


async def wait_jobs(
    job_ids: Sequence[str],
    public_key: str | None = None,
    secret_key: str | None = None,
    timeout: float = 20.0,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[JobResult]:
    """Return those of several jobs that have ended, as soon as there is one; then ask for the others again.

    Args:
        job_ids: Which jobs, at most 1000.
        public_key: Public key.
        secret_key: Secret key.
        timeout: Seconds to wait while none has ended.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("list[JobResult]", await caller.wait_jobs(job_ids, timeout))


async def cancel_job(
    job_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> JobResult:
    """End a job; one that has ended stays as it is.

    Args:
        job_id: Which job.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The server's confirmation, with the output so far where it gives one.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("JobResult", await caller.cancel(job_id))


async def list_jobs(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    limit: int | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[JobResult]:
    """Return the jobs of this key, newest first, without their output.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        limit: At most so many.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        One dict per job, with `job_id`, `status` and `language`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("list[JobResult]", await caller.listed("list_jobs", "jobs", {"limit": limit}))


async def get_languages(public_key: str | None = None, secret_key: str | None = None) -> list[str]:  # noqa: ARG001
    """Return the names of the languages that the server can run.

    The list is kept for an hour in `~/.unsandbox/languages.json`. No keys are needed.

    Args:
        public_key: Not used; historical.
        secret_key: Not used; historical.

    Example:
        ```python
        assert "python" in await get_languages()
        ```
    """
    from unsandbox._async.functions import caller as functions

    return await functions.languages(_api_base())


async def validate_keys(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> KeyResult:
    """Return what the server knows about a key pair: whether it is valid, and its limits.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("KeyResult", await caller.call("validate_keys"))


async def health_check() -> bool:
    """Tell whether the server can be reached and is well. Needs no keys; an unwell server is no error."""
    from unsandbox._async.functions import caller as functions

    return await functions.healthy(_api_base())


def _api_base() -> str:
    if API_BASE != _AT_IMPORT:
        return API_BASE
    return os.environ.get("UNSANDBOX_API_BASE") or API_BASE


tell_base_url(_api_base)


def __getattr__(name: str) -> Any:
    # Loaded when used first: all of them together would double the time that importing this module takes.
    if name in __all__:
        for part in _PARTS:
            module = importlib.import_module(part)
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
