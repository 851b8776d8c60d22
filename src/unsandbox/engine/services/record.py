"""The stored record of a service, created from a checked request, and its form in the API."""

from __future__ import annotations

import time

import msgspec

from unsandbox.engine.context import Context
from unsandbox.engine.errors import Conflict, InvalidRequest
from unsandbox.engine.persistent.activity import steady_time
from unsandbox.engine.persistent.limits import PersistentRecord
from unsandbox.engine.store.objects import container_name, epoch, new_id
from unsandbox.protocol.services import Service, ServiceRequest
from unsandbox.sandbox.languages.shells import find_shell
from unsandbox.sandbox.spec import NetworkMode

RUNNING = "running"
FROZEN = "frozen"
STOPPED = "stopped"
"""Its program ended with 0 and is not restarted; there is no sandbox."""
FAILED = "failed"
"""Like `STOPPED`, but the program failed."""


class ServiceRecord(PersistentRecord, kw_only=True):
    """The stored record of a service. Its script is in a file beside its disk; see `deployment`."""

    name: str
    ports: list[int] = msgspec.field(default_factory=list)
    domains: list[str] = msgspec.field(default_factory=list)
    state: str = RUNNING
    deployment: str = ""
    """Name of the stored script and input files."""
    has_bootstrap: bool = False
    bootstrap_url: str | None = None
    restart: str = "always"
    restarts: int = 0
    last_end: str | None = None
    """How the program ended last, for people."""
    reason: str | None = None
    """Why it ended last, for programs."""
    shell: str | None = None
    service_type: str | None = None
    source_image: str | None = None
    locked: bool = False
    unfreeze_on_demand: bool = False
    show_freeze_page: bool = True
    vault: bytes | None = None
    """Encrypted."""
    vault_names: list[str] = msgspec.field(default_factory=list)
    vault_updated_at: float | None = None


def new_record(
    context: Context, owner: str, request: ServiceRequest, domains: list[str], object_id: str | None = None
) -> ServiceRecord:
    """Check the settings of a requested service and return its record.

    Args:
        context: What the parts of the engine share.
        owner: The key it belongs to.
        request: The settings.
        domains: Its domains, in one form.
        object_id: Its id; a new one when None.

    Raises:
        InvalidRequest: An unknown shell, or isolation that is not available to the key.
    """
    if request.shell is not None:
        try:
            find_shell(request.shell, context.languages.system)
        except LookupError as error:
            raise InvalidRequest(str(error), code="unknown_shell") from error
    return ServiceRecord(
        object_id=object_id or new_id("service"),
        owner=owner,
        created_at=time.time(),
        last_activity=steady_time(),
        container=container_name(),
        name=request.name,
        ports=list(dict.fromkeys(request.ports or [])),
        domains=domains,
        network_mode=request.network_mode or NetworkMode.SEMITRUSTED.value,
        vcpu=request.vcpu,
        isolation=context.quotas.isolation(owner, request.isolation),
        restart=request.restart,
        shell=request.shell,
        service_type=request.service_type,
        unfreeze_on_demand=request.unfreeze_on_demand,
    )


def describe(record: ServiceRecord, memory_mb: int, disk_used: int | None) -> Service:
    """Return a service in the format of the API.

    Args:
        record: The service.
        memory_mb: Its memory limit in MiB.
        disk_used: Bytes that its work folder takes, if known.
    """
    return Service(
        service_id=record.object_id,
        name=record.name,
        state=record.state,
        ports=record.ports,
        custom_domains=record.domains,
        network_mode=record.network_mode,
        vcpu=record.vcpu,
        memory_mb=memory_mb,
        locked=record.locked,
        unfreeze_on_demand=record.unfreeze_on_demand,
        show_freeze_page=record.show_freeze_page,
        disk_used=disk_used,
        container_name=record.container,
        source_image=record.source_image,
        service_type=record.service_type,
        restarts=record.restarts,
        reason=record.reason,
        isolation=record.isolation,
        created_at=epoch(record.created_at),
        last_activity=epoch(record.last_activity),
        message=_message(record),
    )


def as_request(record: ServiceRecord, script: bytes | None) -> ServiceRequest:
    """Return the request that creates a service like this one, without its input files and vault."""
    return ServiceRequest(
        name=record.name,
        ports=record.ports or None,
        custom_domains=record.domains or None,
        bootstrap_content=None if script is None else script.decode("utf-8", "surrogateescape"),
        network_mode=record.network_mode,  # type: ignore[arg-type]
        vcpu=record.vcpu,
        service_type=record.service_type,
        unfreeze_on_demand=record.unfreeze_on_demand,
        shell=record.shell,
        restart=record.restart,  # type: ignore[arg-type]
        isolation=record.isolation,  # type: ignore[arg-type]
    )


def _message(record: ServiceRecord) -> str | None:
    if record.last_end is None or record.state == FROZEN:
        return None
    if record.state == RUNNING:
        return f"{record.last_end}; it is started again, {record.restarts} times so far"
    return f"{record.last_end}; redeploy it to start it again"


def not_running(record: ServiceRecord) -> Conflict:
    """Return the refusal of a call that needs a running program, when it has ended."""
    return Conflict(
        f"the service does not run: {record.last_end or 'its program has ended'}; redeploy it first",
        code=f"service_{record.state}",
    )


def restarting() -> Conflict:
    """Return the refusal of a call that came between the end of a program and its next start."""
    return Conflict("the service is restarting; retry in a moment", code="service_restarting")
