"""What is stored of a session, made of a checked request, and what a client may see of it."""

from __future__ import annotations

import contextlib
import time

import msgspec

from unsandbox.engine.context import Context
from unsandbox.engine.environments.access import environment_root
from unsandbox.engine.errors import InvalidRequest
from unsandbox.engine.persistent.activity import steady_time
from unsandbox.engine.persistent.limits import PersistentRecord, persistent_limits
from unsandbox.engine.store.objects import container_name, epoch, new_id
from unsandbox.protocol.sessions import Session, SessionMetrics, SessionRequest
from unsandbox.sandbox.languages.shells import Shell, find_shell
from unsandbox.sandbox.languages.table import UnknownLanguageError
from unsandbox.sandbox.persistent_spec import SandboxUsage

_MULTIPLEXERS = ("tmux", "screen")
_DEFAULT_SHELL = "bash"


class SessionRecord(PersistentRecord, kw_only=True):
    """What is stored of a session."""

    shell: str
    base_vcpu: int
    ttl: int
    multiplexer: str | None = None
    name: str | None = None
    audit: bool = False
    env_name: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    ends_at: float | None = None
    """Its deadline, on the clock of `steady_time`; None: it ends when it was idle for its `ttl`."""
    reason: str | None = None
    """Why its sandbox ended last."""

    @property
    def due(self) -> float:
        """When it ends if it is not used, on the clock of `steady_time`."""
        return self.last_activity + self.ttl if self.ends_at is None else self.ends_at


def new_record(context: Context, owner: str, request: SessionRequest, object_id: str | None) -> SessionRecord:
    """Check the settings of a requested session and return its record.

    Args:
        context: What the parts of the engine share.
        owner: The key it belongs to.
        request: The settings.
        object_id: Its id; a new one when None.

    Raises:
        InvalidRequest: An unknown shell or multiplexer, or isolation that is not available to the key.
    """
    multiplexer = request.multiplexer or ("tmux" if request.tmux else "screen" if request.screen else None)
    if multiplexer not in (None, *_MULTIPLEXERS):
        raise InvalidRequest("multiplexer must be tmux or screen")
    environment_root(context, owner, request.env_name)
    return SessionRecord(
        object_id=object_id or new_id("session"),
        owner=owner,
        created_at=time.time(),
        container=container_name(),
        shell=shell_of(context, _shell_name(context, request)).name,
        network_mode=request.network_mode,
        vcpu=request.vcpu,
        base_vcpu=request.vcpu,
        ttl=request.ttl,
        last_activity=steady_time(),
        multiplexer=multiplexer,
        name=request.name,
        audit=request.audit,
        isolation=context.quotas.isolation(owner, request.isolation),
        env_name=request.env_name,
        metadata=dict(request.metadata or {}),
        ends_at=None if request.timeout is None else steady_time() + request.timeout,
    )


def as_request(record: SessionRecord) -> SessionRequest:
    """Return the request that makes a session like this one."""
    return SessionRequest(
        network_mode=record.network_mode,  # type: ignore[arg-type]
        ttl=record.ttl,
        shell=record.shell,
        multiplexer=record.multiplexer,
        vcpu=record.base_vcpu,
        audit=record.audit,
        name=record.name,
        isolation=record.isolation,  # type: ignore[arg-type]
        env_name=record.env_name,
        metadata=record.metadata or None,
    )


def describe(context: Context, record: SessionRecord, *, frozen: bool) -> Session:
    """Return what a client may see of a session."""
    return Session(
        session_id=record.object_id,
        container_name=record.container,
        name=record.name,
        shell=record.shell,
        status="frozen" if frozen else "running",
        remaining_ttl=max(0, int(record.due - steady_time())),
        network_mode=record.network_mode,
        vcpu=record.vcpu,
        memory_mb=persistent_limits(context, record.owner, record.vcpu).memory_bytes >> 20,
        boosted=record.vcpu > record.base_vcpu,
        created_at=epoch(record.created_at),
        last_activity=epoch(record.last_activity),
        isolation=record.isolation,
        env_name=record.env_name,
        metadata=record.metadata,
        ends_at=None if record.ends_at is None else round(record.ends_at, 3),
        reason=record.reason,
    )


def describe_usage(
    context: Context, record: SessionRecord, used: SandboxUsage, disk_bytes: int
) -> SessionMetrics:
    """Return what a session uses beside what it may use."""
    limits = persistent_limits(context, record.owner, record.vcpu)
    return SessionMetrics(
        session_id=record.object_id,
        at=round(time.time(), 3),
        cpu_time_ms=None if used.cpu_s is None else round(used.cpu_s * 1000, 3),
        vcpu=record.vcpu,
        memory_bytes=used.memory_bytes,
        peak_memory_bytes=used.peak_memory_bytes,
        memory_limit_bytes=limits.memory_bytes,
        disk_bytes=disk_bytes,
        disk_limit_bytes=limits.work_bytes,
        processes=used.processes,
        process_limit=limits.processes,
    )


def shell_of(context: Context, name: str) -> Shell:
    """Return a shell by name.

    Raises:
        InvalidRequest: There is no such shell here.
    """
    try:
        return find_shell(name, context.languages.system)
    except LookupError as error:
        raise InvalidRequest(str(error), code="unknown_shell") from error


def _shell_name(context: Context, request: SessionRequest) -> str:
    if request.shell or not request.language:
        return request.shell or _DEFAULT_SHELL
    # `golang`, `py` and the like; a language that is not in the table may still be a shell.
    with contextlib.suppress(UnknownLanguageError):
        return context.languages.resolve(request.language).name
    return request.language
