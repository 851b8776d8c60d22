"""Run code in sandboxes, in many languages: the functions of the unsandbox SDK, for asyncio.

```python
import asyncio
from un_async import execute_code

async def main():
    result = await execute_code("python", "print('hello')")
    print(result["stdout"])

asyncio.run(main())
```

The keys are the arguments `public_key` and `secret_key`, otherwise the row `account` of an accounts file, the
variables `UNSANDBOX_PUBLIC_KEY` and `UNSANDBOX_SECRET_KEY`, `~/.unsandbox/accounts.csv`, or `./accounts.csv`
(row `UNSANDBOX_ACCOUNT`, from 0).

`API_BASE` is the server. Set it with `UNSANDBOX_API_BASE` or assign another value; `local` selects the embedded
engine, which needs no account. Connections are kept open while the event loop runs.

All functions raise `CredentialsError` if no keys are found, `aiohttp.ClientError` for network errors and
error answers (which are also errors of `unsandbox.errors`), and `ValueError` for invalid arguments and answers.
"""

# ruff: noqa: ASYNC109 - `timeout` also cancels the job on the server, which `asyncio.timeout` cannot do

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
        fork_session,
        freeze_session,
        get_session,
        list_sessions,
        session_metrics,
        set_session_timeout,
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
        MetricsResult,
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
    "MetricsResult",
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
    "fork_session",
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
    "session_metrics",
    "session_snapshot",
    "set_image_visibility",
    "set_service_domains",
    "set_service_env",
    "set_session_timeout",
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
"""Modules with the names of `__all__` that are not defined here."""

_AT_IMPORT = os.environ.get("UNSANDBOX_API_BASE") or "https://api.unsandbox.com"

API_BASE = _AT_IMPORT
"""The base URL of the server, or `local`. Assign another value to change it for all functions."""


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
    """Run code and return the finished job.

    A non-zero exit code is a result, not an exception: check `exit_code`.

    Args:
        language: Name of the language, as listed by `get_languages`.
        code: The whole program.
        public_key: Public key.
        secret_key: Secret key; it is never sent.
        env: Environment variables of the program, at most 256.
        input_files: Files for `/tmp/input/`: a mapping from name to content, or a list of paths.
        network_mode: `zerotrust` for no network (the server's default) or `semitrusted` for outbound
            connections only.
        vcpu: Processors, 1 to 8.
        ttl: Seconds the program may run, 1 to 900. At the limit the job's status becomes `timeout`.
        return_artifacts: Whether to return the files in `/tmp/artifacts`, or the compiled binary.
        stdin: Standard input. Not available on the hosted service.
        args: Command-line arguments. Not available on the hosted service.
        isolation: `bubblewrap`, `gvisor`, or `hardened` (gVisor or a refusal). Not available on the hosted
            service.
        timeout: Deadline of the call in seconds. When it passes, the job is cancelled.
        account: Row of the accounts file, from 0.
        account_index: Another name for `account`.

    Returns:
        The job: `status`, `stdout`, `stderr`, `exit_code` and more.

    Raises:
        TimeoutError: The deadline passed; `partial` has the output so far.

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
        language: See `execute_code`.
        code: See `execute_code`.
        public_key: Public key.
        secret_key: Secret key.
        env: See `execute_code`.
        input_files: See `execute_code`.
        network_mode: See `execute_code`.
        vcpu: See `execute_code`.
        ttl: See `execute_code`.
        return_artifacts: See `execute_code`.
        stdin: See `execute_code`.
        args: See `execute_code`.
        isolation: See `execute_code`.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The job's id.

    Raises:
        ValueError: The server's answer has no id.

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
    """Run a script whose `#!` line names the language, and return the finished job.

    Args:
        source: The whole script.
        public_key: Public key.
        secret_key: Secret key.
        env: See `execute_code`.
        network_mode: See `execute_code`.
        ttl: See `execute_code`.
        timeout: See `execute_code`.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The job, like `execute_code`, with `detected_language`.
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
        env: See `execute_code`.
        network_mode: See `execute_code`.
        ttl: See `execute_code`.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Return the current state of a job without waiting.

    Args:
        job_id: Id of the job.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The job, with its output if it has ended.
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
    """Wait for a job and return it when it has ended.

    Args:
        job_id: Id of the job.
        public_key: Public key.
        secret_key: Secret key.
        timeout: Maximum seconds to wait; None means no limit.
        keep: Whether the job continues when the wait ends early. By default it is cancelled.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The job with its result.

    Raises:
        TimeoutError: The job did not end in time; `partial` has the output so far.
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
    """Wait until at least one of several jobs has ended, and return those that have.

    Call it again with the remaining ids.

    Args:
        job_ids: Ids of the jobs, at most 1000.
        public_key: Public key.
        secret_key: Secret key.
        timeout: Maximum seconds to wait for the first job.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Cancel a job. A job that has ended is not changed.

    Args:
        job_id: Id of the job.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The server's confirmation, with the output so far if available.
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
    """Return the key's jobs, newest first, without their output.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        limit: Maximum number of jobs.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        One dict per job, with `job_id`, `status` and `language`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("list[JobResult]", await caller.listed("list_jobs", "jobs", {"limit": limit}))


async def get_languages(public_key: str | None = None, secret_key: str | None = None) -> list[str]:  # noqa: ARG001
    """Return the names of the languages that the server can run.

    The list is cached for an hour in `~/.unsandbox/languages.json`. No keys are needed.

    Args:
        public_key: Ignored; for compatibility with the historical SDK.
        secret_key: Ignored; for compatibility with the historical SDK.

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
    """Return the validity and the limits of a key pair.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("KeyResult", await caller.call("validate_keys"))


async def health_check() -> bool:
    """Return whether the server is reachable and healthy. Needs no keys; an unhealthy server returns False."""
    from unsandbox._async.functions import caller as functions

    return await functions.healthy(_api_base())


def _api_base() -> str:
    if API_BASE != _AT_IMPORT:
        return API_BASE
    return os.environ.get("UNSANDBOX_API_BASE") or API_BASE


tell_base_url(_api_base)


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing all of them would double the import time of this module.
    if name in __all__:
        for part in _PARTS:
            module = importlib.import_module(part)
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
