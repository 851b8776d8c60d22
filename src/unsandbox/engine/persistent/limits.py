"""The limits of sessions and services, and the opening of their persistent sandboxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from unsandbox.engine.accounts.quotas import Reservation
from unsandbox.engine.backends import check_network
from unsandbox.engine.context import Context
from unsandbox.engine.errors import InvalidRequest, LimitReached
from unsandbox.engine.store.objects import Record
from unsandbox.protocol.contents import Content
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.layout import INPUT_FOLDER
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import SandboxFile


class PersistentRecord(Record, kw_only=True):
    """The stored fields that sessions and services share."""

    container: str
    network_mode: str
    vcpu: int
    last_activity: float
    isolation: str = "auto"


def check_room(kind: str, mine: int, limit: int) -> None:
    """Check that a key may have one more object of a kind.

    Raises:
        LimitReached: The key has reached its limit.
    """
    if mine >= limit:
        raise LimitReached(
            f"this key already has {mine} {kind}s; delete one", active_executions=mine, concurrency_limit=limit
        )


def persistent_limits(context: Context, owner: str, vcpu: int) -> PersistentLimits:
    """Return the limits of a key's sandbox with `vcpu` CPUs."""
    return PersistentLimits(
        vcpu=float(vcpu),
        memory_bytes=context.quotas.memory_bytes(owner, vcpu),
        work_bytes=context.config.work_bytes,
    )


def reserved_by_one(context: Context, owner: str, vcpu: int) -> Reservation:
    """Return how much memory and disk a session or service with `vcpu` CPUs reserves."""
    limits = persistent_limits(context, owner, vcpu)
    return Reservation(limits.memory_bytes, limits.work_bytes)


def reserved_by_all(context: Context, owner: str, records: Iterable[PersistentRecord]) -> Reservation:
    """Return how much the sessions or services of a key reserve, open or not."""
    return sum((reserved_by_one(context, owner, record.vcpu) for record in records), Reservation())


def sandbox_files(files: Mapping[str, bytes | Content]) -> list[SandboxFile]:
    """Convert input files for a sandbox."""
    return [SandboxFile(f"{INPUT_FOLDER}/{name}", data) for name, data in files.items()]


async def open_persistent(context: Context, isolation: str, spec: PersistentSpec) -> PersistentSandbox:
    """Open a persistent sandbox, with the paths outside /usr that the toolchains of all languages read.

    Raises:
        InvalidRequest: The isolation or network is not available here, or a file's path is not usable.
    """
    if spec.work_disk is not None:
        spec.work_disk.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        backend = context.backends.for_persistent(isolation)
        check_network(backend, spec.network)
        sandbox = await backend.open_persistent(replace(spec, system_paths=context.languages.system_paths()))
    except SandboxUnavailable as error:
        raise InvalidRequest(str(error), code="isolation_unavailable") from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    context.quotas.activity.set()
    return sandbox


async def set_vcpu(context: Context, record: PersistentRecord, sandbox: PersistentSandbox, vcpu: int) -> None:
    """Give a running sandbox `vcpu` CPUs and their memory.

    Raises:
        InvalidRequest: This machine cannot enforce it, or the kernel refuses.
        LimitReached: Its key has too little memory left.
    """
    limits = persistent_limits(context, record.owner, vcpu)
    more = limits.memory_bytes - persistent_limits(context, record.owner, record.vcpu).memory_bytes
    context.quotas.check_room(record.owner, Reservation(max(0, more)))
    try:
        await sandbox.set_limits(vcpu=limits.vcpu, memory_bytes=limits.memory_bytes)
    except SandboxError as error:
        raise InvalidRequest(str(error), code="limits_unavailable") from error
