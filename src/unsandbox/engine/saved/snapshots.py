"""Snapshots: the saved state of a session or service, which can be restored or cloned."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from weakref import WeakValueDictionary

from unsandbox.engine.background import run_uncancelled
from unsandbox.engine.context import Context
from unsandbox.engine.errors import Conflict, InvalidRequest, LimitReached, UnknownObject
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.saved.copies import clone_request, same_request
from unsandbox.engine.saved.saved import (
    SavedCollection,
    SavedRecord,
    capture,
    opened,
    saved_id,
    settings_of,
)
from unsandbox.engine.saved.sealed_file import new_key
from unsandbox.engine.saved.sources import Source
from unsandbox.engine.store.objects import epoch
from unsandbox.protocol.services import Service
from unsandbox.protocol.sessions import Session
from unsandbox.protocol.snapshots import Cloned, CloneRequest, Restored, Snapshot, SnapshotRequest

NO_LIMITS: Mapping[str, int | None] = {}


class SnapshotRecord(SavedRecord, kw_only=True):
    """The stored record of a snapshot.

    Attributes:
        source_id: Id of its session or service.
        ephemeral: Whether it is deleted automatically when its key needs the space.
    """

    source_id: str
    ephemeral: bool = False


class Snapshots:
    """All snapshots of an engine.

    Args:
        context: What the engine shares.
        blobs: Where their bytes are.
        sources: The sources by kind: `session` and `service`.
    """

    def __init__(self, context: Context, blobs: Blobs, sources: Mapping[str, Source]) -> None:
        self._config = context.config
        self._box = context.box
        self._blobs = blobs
        self._sources = sources
        self._saved = SavedCollection(
            "snapshot", SnapshotRecord, context, blobs, context.config.snapshots_per_key
        )
        # A lock exists as long as a task holds it or waits for it.
        self._restoring: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Load the state that an earlier process stored."""
        await self._saved.start()

    async def stop(self) -> None:
        """Wait until pending records are stored."""
        await self._saved.stop()

    def __len__(self) -> int:
        """How many there are, of all keys."""
        return len(self._saved.collection)

    async def create(self, owner: str, request: SnapshotRequest) -> Snapshot:
        """Save the state of a session or service; it is durable when this returns.

        Args:
            owner: The key that asks.
            request: Names one source, in either of the two ways.

        Raises:
            InvalidRequest: It names no source or two, or it is hot and the source's backend cannot save memory.
            UnknownObject: No such source of this key.
            TooLarge: The state is larger than a snapshot may be.
            LimitReached: The key has as many snapshots as it may have.
        """
        return await run_uncancelled(self._create(owner, request))

    def get(self, owner: str, name: str) -> Snapshot:
        """Return a snapshot.

        Raises:
            UnknownObject: No such snapshot of this key.
        """
        return describe(self.find(owner, name))

    def list_of(self, owner: str) -> list[Snapshot]:
        """Return the snapshots of a key, newest first."""
        return [describe(record) for record in self._saved.collection.of(owner)]

    def find(self, owner: str, name: str) -> SnapshotRecord:
        """Return the stored record of a snapshot, for images.

        Raises:
            UnknownObject: No such snapshot of this key.
        """
        return self._saved.collection.get(owner, name)

    async def set_locked(self, owner: str, name: str, locked: bool) -> Snapshot:
        """Protect a snapshot from deletion, or no longer."""
        record = self.find(owner, name)
        return describe(await self._saved.change(record, lambda _: {"locked": locked}))

    async def delete(self, owner: str, name: str) -> Snapshot:
        """Delete a snapshot.

        Raises:
            Conflict: It is locked.
        """
        record = self.find(owner, name)
        await self._saved.remove(record)
        return describe(record)

    async def restore(self, owner: str, name: str, limits: Mapping[str, int | None] = NO_LIMITS) -> Restored:
        """Restore the saved state into its source, or create the source again if it was deleted.

        Args:
            owner: The key that asks.
            name: Which snapshot.
            limits: Maximum number of each kind for the key; by default the engine's limit.

        Raises:
            Damaged: The saved bytes are missing or were changed; the source is unchanged.
        """
        record = self.find(owner, name)
        source = self._sources[record.kind]
        one_at_a_time = self._restoring.setdefault(record.source_id, asyncio.Lock())
        async with one_at_a_time, opened(self._blobs, record, self._box) as state:
            try:
                source.source(owner, record.source_id)
            except UnknownObject:
                request = same_request(record)
                await source.make_from(owner, request, state, record.source_id, limits.get(record.kind))
                message = f"{record.kind} made again from the snapshot"
                if record.env_names:
                    message += "; its vault went with it, set it again: " + ", ".join(record.env_names)
            else:
                await source.put_back(record.source_id, state)
                message = f"{record.kind} restored from the snapshot"
        return Restored(
            id=record.source_id,
            type=record.kind,
            status="restored",
            restored_id=record.source_id,
            message=message,
        )

    async def clone(
        self,
        owner: str,
        name: str,
        request: CloneRequest,
        limits: Mapping[str, int | None] = NO_LIMITS,
    ) -> Cloned:
        """Create a new session or service from the saved state.

        Args:
            owner: The key that asks.
            name: Which snapshot.
            request: Changes of the source's settings.
            limits: As of `restore`.

        Raises:
            InvalidRequest: A hot snapshot can only become an object of the same kind.
            Damaged: The saved bytes are missing or were changed.
        """
        record = self.find(owner, name)
        kind = request.type or record.kind
        if record.hot and kind != record.kind:
            raise InvalidRequest(f"a hot snapshot of a {record.kind} can only be cloned to a {record.kind}")
        wanted = clone_request(record, kind, request)
        async with opened(self._blobs, record, self._box) as state:
            made = await self._sources[kind].make_from(owner, wanted, state, None, limits.get(kind))
        return _cloned(made)

    async def _create(self, owner: str, request: SnapshotRequest) -> Snapshot:
        kind, name = _named_source(request)
        source = self._sources[kind]
        info = source.source(owner, name)
        self._victims(owner)
        key = new_key() if request.hot else None
        async with source.lend(info.object_id) as sandbox:
            blob = await capture(self._blobs, sandbox, self._config, key)
        record = SnapshotRecord(
            object_id=saved_id("snapshot"),
            owner=owner,
            created_at=time.time(),
            name=request.name,
            kind=kind,
            source_id=info.object_id,
            container=info.container,
            isolation=info.isolation,
            sha256=blob.sha256,
            size=blob.size,
            hot=request.hot,
            sealed_key=self._box.seal(key.hex()) if key else None,
            ephemeral=request.ephemeral,
            settings=settings_of(info),
            env_names=list(info.env_names),
        )
        try:
            await self._make_room(owner, blob.size)
        except BaseException:
            await self._blobs.release(blob.sha256)
            raise
        await self._saved.add(record)
        return describe(record)

    async def _make_room(self, owner: str, size: int) -> None:
        """Delete the oldest ephemeral snapshots of a key until there is space for another one of `size` bytes.

        Raises:
            LimitReached: Even that would not be enough; nothing is deleted.
        """
        while victims := self._victims(owner, size):
            with contextlib.suppress(Conflict, UnknownObject):
                await self._saved.remove(victims[0])

    def _victims(self, owner: str, size: int = 0) -> list[SnapshotRecord]:
        """Return the ephemeral snapshots, oldest first, that must go for a further one of `size` bytes."""
        oldest_first = reversed(self._saved.collection.of(owner))
        ephemeral = [item for item in oldest_first if item.ephemeral and not item.locked]
        self._saved.check_room(owner, size, without=ephemeral)
        for count in range(len(ephemeral)):
            with contextlib.suppress(LimitReached):
                self._saved.check_room(owner, size, without=ephemeral[:count])
                return ephemeral[:count]
        return ephemeral


def describe(record: SnapshotRecord) -> Snapshot:
    """Return a snapshot in the format of the API."""
    return Snapshot(
        snapshot_id=record.object_id,
        # Historical clients take a name that is missing in a list from the next item.
        name=record.name or record.object_id,
        source_type=record.kind,
        source_id=record.source_id,
        size_bytes=record.size,
        sha256=record.sha256,
        hot=record.hot,
        isolation=record.isolation,
        locked=record.locked,
        status="completed",
        container_name=record.container,
        created_at=epoch(record.created_at),
    )


def _named_source(request: SnapshotRequest) -> tuple[str, str]:
    named = [
        (kind, name)
        for kind, name in (
            ("session", request.session_id),
            ("service", request.service_id),
            (request.source_type or "", request.source_id),
        )
        if name
    ]
    if len(named) != 1 or not named[0][0]:
        raise InvalidRequest("pass one source: session_id, service_id, or source_type with source_id")
    return named[0]


def _cloned(made: Session | Service) -> Cloned:
    if isinstance(made, Session):
        return Cloned(id=made.session_id, session_id=made.session_id, name=made.name, type="session")
    return Cloned(id=made.service_id, service_id=made.service_id, name=made.name, type="service")
