"""Types of snapshots: the saved state of a session or service (wire document, section 10)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from unsandbox._presentation.times import as_datetime
from unsandbox.protocol.bounds import Identifier, Word
from unsandbox.protocol.models import DisplayName, WireModel
from unsandbox.protocol.services import Ports, ServiceName, ports_from_wire

SourceType = Literal["session", "service"]


class SnapshotRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /snapshots` takes in either shape, and `POST /…/{id}/snapshot`, which names no source."""

    session_id: Identifier | None = None
    service_id: Identifier | None = None
    source_type: SourceType | None = None
    source_id: Identifier | None = None
    name: DisplayName | None = None
    hot: bool = False
    """With memory and running processes."""
    ephemeral: bool = False


class Snapshot(WireModel, frozen=True, kw_only=True):
    """A snapshot as the server knows it."""

    READ_ALIASES = {"id": "snapshot_id", "size": "size_bytes"}
    WRITE_ALIASES = {"snapshot_id": ("id",), "size_bytes": ("size",), "source_type": ("type",)}

    snapshot_id: str | None = None
    """By which it is used."""
    name: str | None = None
    """A name for people."""
    source_type: str | None = None
    """`session` or `service`."""
    source_id: str | None = None
    """What was saved."""
    size_bytes: int | None = None
    """Size as it is stored."""
    sha256: str | None = None
    """Of its bytes."""
    hot: bool | None = None
    """Whether it holds memory and running processes."""
    isolation: str | None = None
    """Name of the backend of its source; a hot snapshot can only be restored on that one."""
    locked: bool | None = None
    """Whether it is protected against deletion."""
    status: str | None = None
    """How far it is, on the hosted service."""
    container_name: str | None = None
    """Another name that the hosted service gives it."""
    created_at: str | int | float | None = None
    """Unix seconds, as text or a number."""
    message: str | None = None
    """A sentence for people."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)


class SnapshotList(WireModel, frozen=True, kw_only=True):
    """What `GET /snapshots` answers, newest first."""

    snapshots: list[Snapshot] = []
    """The snapshots."""
    count: int | None = None
    """How many there are."""

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)


class Restored(WireModel, frozen=True, kw_only=True):
    """What a restore answers."""

    id: str | None = None
    """The snapshot."""
    type: str | None = None
    """`session` or `service`."""
    status: str | None = None
    """How far it is, on the hosted service."""
    restored_id: str | None = None
    """The session or service that was restored."""
    message: str | None = None
    """A sentence for people."""


class CloneRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /snapshots/{id}/clone` takes."""

    READ_ALIASES = {"clone_type": "type"}
    COERCERS = {"ports": ports_from_wire}

    type: SourceType | None = None
    name: ServiceName | None = None
    shell: Word | None = None
    ports: Ports | None = None


class Cloned(WireModel, frozen=True, kw_only=True):
    """What a clone answers: the id of the new session or service."""

    id: str | None = None
    """The new session or service."""
    session_id: str | None = None
    """The new session, if it is one."""
    service_id: str | None = None
    """The new service, if it is one."""
    name: str | None = None
    """A name for people."""
    url: str | None = None
    """Where a new service is reached."""
    type: str | None = None
    """`session` or `service`."""
