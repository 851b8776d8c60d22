# Generated from src/unsandbox/_async/functions/service_work.py by scripts/unasync.py; change that one.
"""Functions for the programs, logs, host names and vaults of services."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._shared.bodies import bootstrap_members
from unsandbox._sync.functions.context import connect

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


def redeploy_service(
    service_id: str,
    bootstrap: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    input_files: InputFiles | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Restart a service with its bootstrap or a new one. Files in `/work` are kept.

    Args:
        service_id: Id or name of the service.
        bootstrap: A script, or the http(s) URL of one. Default: the current one.
        public_key: Public key.
        secret_key: Secret key.
        input_files: Files for `/tmp/input/`.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    members = bootstrap_members(bootstrap) | {"input_files": input_files}
    return cast("ServiceResult", caller.call("redeploy_service", service_id, body=members))


def get_service_logs(
    service_id: str,
    all_logs: bool = False,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    lines: int | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceLogResult:
    """Return the log of a service, by default the last 9000 lines.

    Args:
        service_id: Id or name of the service.
        all_logs: Whether to return the whole stored log.
        public_key: Public key.
        secret_key: Secret key.
        lines: Number of last lines.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The text, in `log`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    query = {"all": True if all_logs else None, "lines": lines}
    return cast("ServiceLogResult", caller.call("service_logs", service_id, query=query))


def execute_in_service(
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
    """Run one command in a service's sandbox.

    Args:
        service_id: Id or name of the service.
        command: The command.
        timeout: Milliseconds the command may run; 0 means no limit.
        public_key: Public key.
        secret_key: Secret key.
        input_files: Files for `/tmp/input/`.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        A job: ended, with its output; or, on the hosted service, one to wait for with `wait_for_job`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    answer = caller.command("service_command", service_id, command, timeout, input_files)
    return cast("JobResult", answer)


def set_service_domains(
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
    """Change the custom domains of a service. Pass exactly one of the three lists.

    Args:
        service_id: Id or name of the service.
        domains: The complete list.
        public_key: Public key.
        secret_key: Secret key.
        add: Domains to add.
        remove: Domains to remove.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        All domains, in `custom_domains`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    members = {"custom_domains": domains, "add": add, "remove": remove}
    return cast("DomainsResult", caller.call("service_domains", service_id, body=members))


def get_service_env(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultResult:
    """Return the number of variables in a service's vault, without their values.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("VaultResult", caller.call("get_vault", service_id))


def set_service_env(
    service_id: str,
    env_dict: Mapping[str, str] | str | bytes,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultResult:
    """Replace a service's vault. A running program is restarted with the new variables.

    Args:
        service_id: Id or name of the service.
        env_dict: A mapping, or text with one `NAME=value` per line; at most 64 KiB.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("VaultResult", caller.set_vault(service_id, env_dict))


def delete_service_env(
    service_id: str,
    keys: Sequence[str] | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultResult:
    """Delete variables from a service's vault.

    Args:
        service_id: Id or name of the service.
        keys: Names of the variables. Default: all.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("VaultResult", caller.call("delete_vault", service_id, body={"keys": keys}))


def export_service_env(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> VaultExportResult:
    """Return a service's vault as text with one `NAME=value` per line in `env`.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("VaultExportResult", caller.call("export_vault", service_id))
