"""The request that creates a session or service from a snapshot or image."""

from __future__ import annotations

import re
import secrets
from typing import Any, TypeVar, cast

from unsandbox.engine.errors import InvalidRequest
from unsandbox.engine.saved.saved import SavedRecord
from unsandbox.protocol.images import SpawnRequest
from unsandbox.protocol.services import ServiceRequest
from unsandbox.protocol.sessions import SessionRequest
from unsandbox.protocol.snapshots import CloneRequest
from unsandbox.sandbox.spec import NetworkMode

R = TypeVar("R", bound=SessionRequest | ServiceRequest)

DEFAULT_BACKEND = "bubblewrap"


def same_request(record: SavedRecord) -> SessionRequest | ServiceRequest:
    """Return the request that creates the source again."""
    return _on_its_backend(record, record.request())


def clone_request(record: SavedRecord, kind: str, wanted: CloneRequest) -> SessionRequest | ServiceRequest:
    """Return the request for a clone: that of the source, with the caller's changes.

    Args:
        record: The saved state.
        kind: `session` or `service`, independent of the source.
        wanted: The caller's changes.
    """
    if kind == "session":
        session = _as_session(record.request())
        return _on_its_backend(record, session.replace(name=wanted.name, shell=wanted.shell or session.shell))
    return _new_service(record, name=wanted.name, ports=wanted.ports, shell=wanted.shell)


def spawn_request(record: SavedRecord, wanted: SpawnRequest) -> ServiceRequest:
    """Return the request that creates a service from an image.

    Raises:
        InvalidRequest: A session is asked for.
    """
    if wanted.type == "session":
        raise InvalidRequest("an image starts a service; to get a session, clone a snapshot")
    request = _new_service(
        record,
        name=wanted.name,
        ports=wanted.ports,
        shell=wanted.shell,
        network_mode=wanted.network_mode,
        vcpu=wanted.vcpu,
        service_type=None if wanted.type == "service" else wanted.type,
    )
    if wanted.bootstrap is None:
        return request
    return request.replace(bootstrap=wanted.bootstrap, bootstrap_content=None, bootstrap_url=None)


def free_name(base: str | None) -> str:
    """Return an unused name for a service that is created from another one.

    Example:
        >>> free_name("2 My web-1a2b3c").rpartition("-")[0]
        'my-web'
    """
    stem = re.sub(r"-[0-9a-f]{6}\Z", "", base or "")
    # `80-web` would mean port 80 of `web`.
    stem = re.sub(r"[^a-z0-9]+", "-", stem.lower()).lstrip("0123456789-")[:50].strip("-")
    return f"{stem or 'copy'}-{secrets.token_hex(3)}"


def _new_service(record: SavedRecord, *, name: str | None, **changes: Any) -> ServiceRequest:
    base = record.request()
    if isinstance(base, SessionRequest):
        base = ServiceRequest(
            name=record.name or base.name or "", network_mode=base.network_mode, vcpu=base.vcpu
        )
    given = {field: value for field, value in changes.items() if value is not None}
    # Domains lead to one service only.
    return _on_its_backend(
        record, base.replace(name=name or free_name(base.name), custom_domains=None, **given)
    )


def _as_session(request: SessionRequest | ServiceRequest) -> SessionRequest:
    if isinstance(request, SessionRequest):
        return request
    network = request.network_mode or NetworkMode.ZEROTRUST.value
    return SessionRequest(network_mode=network, vcpu=request.vcpu)


def _on_its_backend(record: SavedRecord, request: R) -> R:
    """Request the backend that can read a hot state, otherwise one that isolates at least like the source's."""
    free = not record.hot and record.isolation == DEFAULT_BACKEND
    return cast("R", request.replace(isolation="auto" if free else record.isolation))
