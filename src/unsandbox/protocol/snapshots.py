"""Types of snapshots: saved states of sessions and services."""

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
    """The request of `POST /snapshots` and of `POST /…/{id}/snapshot`, which names no source."""

    session_id: Identifier | None = None
    service_id: Identifier | None = None
    source_type: SourceType | None = None
    source_id: Identifier | None = None
    name: DisplayName | None = None
    hot: bool = False
    """Whether to include memory and running processes."""
    ephemeral: bool = False


class Snapshot(WireModel, frozen=True, kw_only=True):
    """A snapshot."""

    READ_ALIASES = {"id": "snapshot_id", "size": "size_bytes"}
    WRITE_ALIASES = {"snapshot_id": ("id",), "size_bytes": ("size",), "source_type": ("type",)}

    snapshot_id: str | None = None
    """Id of the object."""
    name: str | None = None
    """Display name."""
    source_type: str | None = None
    """`session` or `service`."""
    source_id: str | None = None
    """Id of the source."""
    size_bytes: int | None = None
    """Stored size in bytes."""
    sha256: str | None = None
    """SHA-256 of the stored bytes."""
    hot: bool | None = None
    """Whether it includes memory and running processes."""
    isolation: str | None = None
    """Isolation backend of the source. A hot snapshot can only be restored on the same backend."""
    locked: bool | None = None
    """Whether the object is protected from deletion."""
    status: str | None = None
    """Progress, on the hosted service."""
    container_name: str | None = None
    """A second name, on the hosted service."""
    created_at: str | int | float | None = None
    """Unix time in seconds, as a string or a number."""
    message: str | None = None
    """A message about the object."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)


class SnapshotList(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /snapshots`, newest first."""

    snapshots: list[Snapshot] = []
    """The snapshots."""
    count: int | None = None
    """Length of the list."""

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)


class Restored(WireModel, frozen=True, kw_only=True):
    """The answer of a restore."""

    id: str | None = None
    """Id of the snapshot."""
    type: str | None = None
    """`session` or `service`."""
    status: str | None = None
    """Progress, on the hosted service."""
    restored_id: str | None = None
    """Id of the restored session or service."""
    message: str | None = None
    """A message about the object."""


class CloneRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /snapshots/{id}/clone`."""

    READ_ALIASES = {"clone_type": "type"}
    COERCERS = {"ports": ports_from_wire}

    type: SourceType | None = None
    name: ServiceName | None = None
    shell: Word | None = None
    ports: Ports | None = None


class Cloned(WireModel, frozen=True, kw_only=True):
    """The answer of a clone: the id of the new session or service."""

    id: str | None = None
    """Id of the new session or service."""
    session_id: str | None = None
    """Id of the new session."""
    service_id: str | None = None
    """Id of the new service."""
    name: str | None = None
    """Display name."""
    url: str | None = None
    """URL of a new service."""
    type: str | None = None
    """`session` or `service`."""
