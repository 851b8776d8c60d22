"""Functions for services: what they run, their output, names and vault."""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._async.functions.context import connect
from unsandbox._shared.bodies import bootstrap_members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unsandbox._shared.files import InputFiles
    from unsandbox._shared.results import (
        DomainsResult,
        JobResult,
        ServiceLogResult,
        ServiceResult,
        VaultExportResult,
        VaultResult,
    )

__all__ = [
    "delete_service_env",
    "execute_in_service",
    "export_service_env",
    "get_service_env",
    "get_service_logs",
    "redeploy_service",
    "set_service_domains",
    "set_service_env",
]


async def redeploy_service(
    service_id: str,
    bootstrap: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    input_files: InputFiles | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Run the bootstrap of a service again, or a new one, in the same sandbox.

    Args:
        service_id: Which service, by id or name.
        bootstrap: A script, or the http(s) URL of one. Without it, the one that it has.
        public_key: Public key.
        secret_key: Secret key.
        input_files: Files, found in `/tmp/input/` by name.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = bootstrap_members(bootstrap) | {"input_files": input_files}
    return cast("ServiceResult", await caller.call("redeploy_service", service_id, body=members))


async def get_service_logs(
    service_id: str,
    all_logs: bool = False,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    lines: int | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceLogResult:
    """Return what the program of a service wrote; the last 9000 lines when nothing is said.

    Args:
        service_id: Which service, by id or name.
        all_logs: Everything that is kept.
        public_key: Public key.
        secret_key: Secret key.
        lines: The last so many lines.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The text, in `log`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    query = {"all": True if all_logs else None, "lines": lines}
    return cast("ServiceLogResult", await caller.call("service_logs", service_id, query=query))


async def execute_in_service(
    service_id: str,
    command: str,
    timeout: int = 30000,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    input_files: InputFiles | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> JobResult:
    """Run one command beside the program of a service.

    Args:
        service_id: Which service, by id or name.
        command: The command.
        timeout: Milliseconds that it may run; 0 for no limit.
        public_key: Public key.
        secret_key: Secret key.
        input_files: Files for it, found in `/tmp/input/`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        A job: ended, with its output; or, on the hosted service, one to wait for with `wait_for_job`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    answer = await caller.command("service_command", service_id, command, timeout, input_files)
    return cast("JobResult", answer)


async def set_service_domains(
    service_id: str,
    domains: Sequence[str] | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    add: Sequence[str] | None = None,
    remove: Sequence[str] | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> DomainsResult:
    """Change the names under which a service is reachable: give exactly one of the three lists.

    Args:
        service_id: Which service, by id or name.
        domains: All of them.
        public_key: Public key.
        secret_key: Secret key.
        add: Names to add.
        remove: Names to remove.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        All names, in `custom_domains`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"custom_domains": domains, "add": add, "remove": remove}
    return cast("DomainsResult", await caller.call("service_domains", service_id, body=members))


async def get_service_env(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultResult:
    """Return how many variables the vault of a service holds; never their values.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("VaultResult", await caller.call("get_vault", service_id))


async def set_service_env(
    service_id: str,
    env_dict: Mapping[str, str] | str | bytes,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultResult:
    """Replace the vault of a service; its program gets the variables when it starts the next time.

    Args:
        service_id: Which service, by id or name.
        env_dict: Names and values, or lines `NAME=value` as an env file holds them; 64 KiB at most.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("VaultResult", await caller.set_vault(service_id, env_dict))


async def delete_service_env(
    service_id: str,
    keys: Sequence[str] | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultResult:
    """Delete variables from the vault of a service.

    Args:
        service_id: Which service, by id or name.
        keys: Names of those to delete; without them, all.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("VaultResult", await caller.call("delete_vault", service_id, body={"keys": keys}))


async def export_service_env(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultExportResult:
    """Return the whole vault of a service, as lines `NAME=value` in `env`.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("VaultExportResult", await caller.call("export_vault", service_id))
