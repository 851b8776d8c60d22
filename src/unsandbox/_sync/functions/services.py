# Generated from src/unsandbox/_async/functions/services.py by scripts/unasync.py; change that one.
"""Functions that create, list, change and delete services."""

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
    """Return the key's services, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Create and start a service: a persistent sandbox that runs a program under a name.

    Args:
        name: Name of the service, a DNS label.
        ports: Ports the program listens on; the URL leads to the first one.
        bootstrap: A script, or the http(s) URL of one.
        public_key: Public key.
        secret_key: Secret key.
        network_mode: `semitrusted` (outbound network, the default) or `zerotrust` (no network).
        custom_domains: Custom domains of the service.
        vcpu: Processors, 1 to 8, with 2 GiB of memory each.
        service_type: `minecraft`, `mumble`, `teamspeak`, `source`, `tcp` or `udp`.
        unfreeze_on_demand: Whether a request unfreezes the service.
        bootstrap_content: The script; for scripts that look like a URL.
        bootstrap_url: The URL of a script.
        golden_image: Image to start from.
        input_files: Files for `/tmp/input/`.
        restart: When to restart the program: `always` (default), `on-failure` or `never`. Not on the hosted
            service.
        shell: Shell that runs the bootstrap.
        isolation: `bubblewrap`, `gvisor`, or `hardened` (gVisor or a refusal). Not on the hosted service.
        account: See `execute_code`.
        account_index: See `execute_code`.

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
    """Return the current state of a service.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Change settings of a service. Arguments that are not passed stay as they are.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        vcpu: Processors, 1 to 8.
        unfreeze_on_demand: Whether a request unfreezes the service.
        show_freeze_page: Whether a frozen service answers with a page instead of JSON.
        name: A new name.
        ports: Ports the program listens on.
        custom_domains: All custom domains of the service.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Change the processors and memory of a service.

    Args:
        service_id: Id or name of the service.
        vcpu: Processors, 1 to 8.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Delete a service with its files and vault.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Suspend all processes of a service. Their memory is kept.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Resume the processes of a frozen service.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Allow a service to be deleted again.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Set whether a request unfreezes a service.

    Args:
        service_id: Id or name of the service.
        enabled: Whether it does.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
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
    """Set whether a frozen service answers with a page or with JSON.

    Args:
        service_id: Id or name of the service.
        enabled: Whether it does.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("ServiceResult", caller.call("update_service", service_id, body={"show_freeze_page": enabled}))
