# Generated from src/unsandbox/_async/functions/services.py by scripts/unasync.py; change that one.
"""Functions for services: what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._shared.bodies import bootstrap_members
from unsandbox._sync.functions.context import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsandbox._compat.blocking import OneTimeCode
    from unsandbox._shared.files import InputFiles
    from unsandbox._shared.results import (
        ServiceResult,
    )
    from unsandbox.protocol.models import IsolationName, NetworkModeName

__all__ = [
    "create_service",
    "delete_service",
    "freeze_service",
    "get_service",
    "list_services",
    "lock_service",
    "resize_service",
    "set_show_freeze_page",
    "set_unfreeze_on_demand",
    "unfreeze_service",
    "unlock_service",
    "update_service",
]


def list_services(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[ServiceResult]:
    """Return the services of this key, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("list[ServiceResult]", caller.listed("list_services", "services"))


def create_service(
    name: str,
    ports: Sequence[int] | None = None,
    bootstrap: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    network_mode: NetworkModeName | None = None,
    custom_domains: Sequence[str] | None = None,
    vcpu: int = 1,
    service_type: str | None = None,
    unfreeze_on_demand: bool = False,
    *,
    bootstrap_content: str | None = None,
    bootstrap_url: str | None = None,
    golden_image: str | None = None,
    input_files: InputFiles | None = None,
    restart: str | None = None,
    shell: str | None = None,
    isolation: IsolationName | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Start a service: a sandbox that runs a bootstrap, keeps running, and is reachable under its name.

    Args:
        name: Its name, a DNS label.
        ports: Ports on which its program listens; its URL leads to the first one.
        bootstrap: A script, or the http(s) URL of one.
        public_key: Public key.
        secret_key: Secret key.
        network_mode: `semitrusted` for outbound connections (the server's default) or `zerotrust` for
            none.
        custom_domains: Further names under which it is reachable.
        vcpu: Processors, 1 to 8; memory goes with them.
        service_type: `minecraft`, `mumble`, `teamspeak`, `source`, `tcp` or `udp`.
        unfreeze_on_demand: Whether a request wakes it when it is frozen.
        bootstrap_content: The script, if it could be taken for a URL.
        bootstrap_url: The URL of a script.
        golden_image: Image to start from.
        input_files: Files, found in `/tmp/input/` by name.
        restart: On servers of this project: `always` (the default), `on-failure` or `never`.
        shell: Shell that runs the bootstrap.
        isolation: On servers of this project: `bubblewrap`, `gvisor` or `hardened`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The service, with its `service_id` and `url`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    members = bootstrap_members(bootstrap) | {
        "name": name,
        "ports": ports,
        "network_mode": network_mode,
        "custom_domains": custom_domains,
        "vcpu": vcpu,
        "service_type": service_type,
        "unfreeze_on_demand": unfreeze_on_demand or None,
        "golden_image": golden_image,
        "input_files": input_files,
        "restart": restart,
        "shell": shell,
        "isolation": isolation,
    }
    if bootstrap_content is not None:
        members["bootstrap_content"] = bootstrap_content
    if bootstrap_url is not None:
        members["bootstrap_url"] = bootstrap_url
    return cast("ServiceResult", caller.call("create_service", body=members))


def get_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Return a service as it is now.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("get_service", service_id))


def update_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    vcpu: int | None = None,
    *,
    unfreeze_on_demand: bool | None = None,
    show_freeze_page: bool | None = None,
    name: str | None = None,
    ports: Sequence[int] | None = None,
    custom_domains: Sequence[str] | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Change a service; what is not given stays.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        vcpu: Processors, 1 to 8.
        unfreeze_on_demand: Whether a request wakes it when it is frozen.
        show_freeze_page: Whether it answers with a page while it is frozen, rather than with JSON.
        name: A new name.
        ports: Ports on which its program listens.
        custom_domains: All further names under which it is reachable.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    members = {
        "vcpu": vcpu,
        "unfreeze_on_demand": unfreeze_on_demand,
        "show_freeze_page": show_freeze_page,
        "name": name,
        "ports": ports,
        "custom_domains": custom_domains,
    }
    return cast("ServiceResult", caller.call("update_service", service_id, body=members))


def resize_service(
    service_id: str,
    vcpu: int,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Give a service another number of processors, and the memory that goes with them.

    Args:
        service_id: Which service, by id or name.
        vcpu: Processors, 1 to 8.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("resize_service", service_id, body={"vcpu": vcpu}))


def delete_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """End a service for good, its files and vault with it.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or what returns it, where the server wants one.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("delete_service", service_id, otp=otp))


def freeze_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Stop all processes of a service where they are; their memory stays.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("freeze_service", service_id))


def unfreeze_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Let the processes of a service go on.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("unfreeze_service", service_id))


def lock_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Protect a service from deletion.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("lock_service", service_id))


def unlock_service(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Take the protection off a service.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or what returns it, where the server wants one.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("unlock_service", service_id, otp=otp))


def set_unfreeze_on_demand(
    service_id: str,
    enabled: bool,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Say whether a request wakes a service that is frozen.

    Args:
        service_id: Which service, by id or name.
        enabled: Yes or no.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast(
        "ServiceResult",
        caller.call("update_service", service_id, body={"unfreeze_on_demand": enabled}),
    )


def set_show_freeze_page(
    service_id: str,
    enabled: bool,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Say whether a frozen service answers with a page, rather than with JSON.

    Args:
        service_id: Which service, by id or name.
        enabled: Yes or no.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("update_service", service_id, body={"show_freeze_page": enabled}))
