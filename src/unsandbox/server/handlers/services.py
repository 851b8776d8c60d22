"""Services."""

from __future__ import annotations

from unsandbox.engine import InvalidRequest
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.services.vault import read_vault
from unsandbox.protocol.services import (
    LOG_TAIL_LINES,
    Domains,
    DomainsRequest,
    Redeploy,
    Service,
    ServiceJob,
    ServiceList,
    ServiceLog,
    ServiceRequest,
    ServiceResize,
    ServiceUpdate,
    VaultExport,
    VaultInfo,
    VaultKeys,
    vault_to_text,
)
from unsandbox.protocol.sessions import CommandRequest
from unsandbox.server.call import Call, read_body, read_flag, read_members

_MOST_DIGITS = 7


async def list_services(call: Call) -> ServiceList:
    """List services."""
    services = [_with_url(call, service) for service in call.engine.services.list_of(call.owner)]
    return ServiceList(services=services, count=len(services))


async def create_service(call: Call) -> Service:
    """Start a service."""
    request = read_body(call, ServiceRequest)
    return _with_url(call, await call.engine.services.create(call.owner, request, call.settings.services))


async def get_service(call: Call) -> Service:
    """Get one service."""
    return _with_url(call, call.engine.services.get(call.owner, call.params["id"]))


async def update_service(call: Call) -> Service:
    """Change a service."""
    change = read_body(call, ServiceUpdate)
    return _with_url(call, await call.engine.services.update(call.owner, call.params["id"], change))


async def resize_service(call: Call) -> Service:
    """Give it another number of CPUs."""
    change = ServiceUpdate(vcpu=read_body(call, ServiceResize).vcpu)
    return _with_url(call, await call.engine.services.update(call.owner, call.params["id"], change))


async def delete_service(call: Call) -> Service:
    """End a service."""
    service = await call.engine.services.delete(call.owner, call.params["id"])
    return service.replace(message="service deleted", state="deleted")


async def freeze_service(call: Call) -> Service:
    """Stop its processes."""
    return _with_url(call, await call.engine.services.freeze(call.owner, call.params["id"]))


async def unfreeze_service(call: Call) -> Service:
    """Resume the processes."""
    return _with_url(call, await call.engine.services.unfreeze(call.owner, call.params["id"]))


async def lock_service(call: Call) -> Service:
    """Protect it from deletion."""
    return _with_url(call, await call.engine.services.set_lock(call.owner, call.params["id"], locked=True))


async def unlock_service(call: Call) -> Service:
    """Take the protection off."""
    return _with_url(call, await call.engine.services.set_lock(call.owner, call.params["id"], locked=False))


async def redeploy_service(call: Call) -> Service:
    """Run its bootstrap again."""
    request = read_body(call, Redeploy)
    return _with_url(call, await call.engine.services.redeploy(call.owner, call.params["id"], request))


async def service_logs(call: Call) -> ServiceLog:
    """Read its log."""
    return await call.engine.services.log_text(call.owner, call.params["id"], log_lines(call))


async def service_command(call: Call) -> ServiceJob:
    """Run a command beside its program; the answer comes at its end, or says `running` when that takes long."""
    request = read_body(call, CommandRequest)
    services = call.engine.services
    record = services.find(call.owner, call.params["id"])
    services.lifecycle.check_running(record)
    files = input_files(request.input_files or [], call.engine.config)
    timeout_s = request.timeout / 1000 if request.timeout else None
    job = await call.engine.jobs.run_command(
        call.owner,
        services.lifecycle.command(record, request.command, timeout_s, files),
        network_mode=record.network_mode,
        concurrency=call.settings.concurrency,
    )
    ended = await call.engine.jobs.get(call.owner, job.job_id, call.hold_s)
    return ServiceJob(**{name: getattr(ended, name) for name in ended.__struct_fields__})


async def service_domains(call: Call) -> Domains:
    """Replace, add or remove its domains."""
    change = read_body(call, DomainsRequest)
    domains = await call.engine.services.change_domains(call.owner, call.params["id"], change)
    return Domains(custom_domains=domains)


async def get_vault(call: Call) -> VaultInfo | VaultExport:
    """Tell about its vault, or export it."""
    if call.query.get("format") == "export":
        return await export_vault(call)
    return call.engine.services.vaults.info(call.owner, call.params["id"])


async def set_vault(call: Call) -> VaultInfo:
    """Replace its vault."""
    pairs = read_vault(call.body)
    info = await call.engine.services.vaults.set(call.owner, call.params["id"], pairs)
    return info.replace(message=f"the vault holds {info.count} variables")


async def delete_vault(call: Call) -> VaultInfo:
    """Delete its vault, or some variables of it."""
    keys = read_body(call, VaultKeys).keys if read_members(call) else None
    info = await call.engine.services.vaults.delete(call.owner, call.params["id"], keys)
    return info.replace(message="vault deleted" if not info.count else f"{info.count} variables are left")


async def export_vault(call: Call) -> VaultExport:
    """Return its whole vault."""
    return VaultExport(env=vault_to_text(call.engine.services.vaults.open(call.owner, call.params["id"])))


def log_lines(call: Call) -> int | None:
    """Return how many lines are asked for; None means all.

    Raises:
        InvalidRequest: `lines` is not a number of lines.
    """
    if read_flag(call.query, "all"):
        return None
    text = call.query.get("lines", str(LOG_TAIL_LINES))
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidRequest("the query member 'lines' must be a whole number of lines")
    return int(text)


def _with_url(call: Call, service: Service) -> Service:
    """Say where it is reached, as seen by this caller."""
    return service.replace(url=call.service_url(service.name or ""))
