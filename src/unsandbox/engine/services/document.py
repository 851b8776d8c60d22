"""What is stored of a service, and what a client may see of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from unsandbox.engine.persistent.limits import PersistentRecord
from unsandbox.engine.store.objects import epoch
from unsandbox.protocol.services import Service, ServiceRequest

RUNNING = "running"
FROZEN = "frozen"
STOPPED = "stopped"
"""Its program ended well and is not started again; there is no sandbox."""
FAILED = "failed"
"""As `STOPPED`, but the program ended badly."""


class ServiceRecord(PersistentRecord, kw_only=True):
    """What is stored of a service. What it runs lies in files beside its disk; see `bootstrap`."""

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


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a service runs: a script, where it was fetched from, and files for it."""

    script: bytes | None
    url: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def describe(document: ServiceRecord, memory_mb: int, disk_used: int | None) -> Service:
    """Return what a client may see; memory in MiB, what the work folder takes in bytes."""
    return Service(
        service_id=document.object_id,
        name=document.name,
        state=document.state,
        ports=document.ports,
        custom_domains=document.domains,
        network_mode=document.network_mode,
        vcpu=document.vcpu,
        memory_mb=memory_mb,
        locked=document.locked,
        unfreeze_on_demand=document.unfreeze_on_demand,
        show_freeze_page=document.show_freeze_page,
        disk_used=disk_used,
        container_name=document.container,
        source_image=document.source_image,
        service_type=document.service_type,
        restarts=document.restarts,
        isolation=document.isolation,
        created_at=epoch(document.created_at),
        last_activity=epoch(document.last_activity),
        message=_message(document),
    )


def as_request(document: ServiceRecord, script: bytes | None) -> ServiceRequest:
    """Return what would make a service like this one, without its input files and vault."""
    return ServiceRequest(
        name=document.name,
        ports=document.ports or None,
        custom_domains=document.domains or None,
        bootstrap_content=None if script is None else script.decode("utf-8", "surrogateescape"),
        network_mode=document.network_mode,  # type: ignore[arg-type]
        vcpu=document.vcpu,
        service_type=document.service_type,
        unfreeze_on_demand=document.unfreeze_on_demand,
        shell=document.shell,
        restart=document.restart,  # type: ignore[arg-type]
        isolation=document.isolation,  # type: ignore[arg-type]
    )


def _message(document: ServiceRecord) -> str | None:
    if document.last_end is None or document.state == FROZEN:
        return None
    if document.state == RUNNING:
        return f"{document.last_end}; it is started again, {document.restarts} times so far"
    return f"{document.last_end}; redeploy it to start it again"
