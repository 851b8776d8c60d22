"""Images: published copies of a service or snapshot, for one key, some keys, or all."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

from unsandbox.engine.background import run_uncancelled
from unsandbox.engine.context import Context
from unsandbox.engine.errors import Forbidden, InvalidRequest, LimitReached, NotImplementedHere
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.saved.copies import spawn_request
from unsandbox.engine.saved.image_access import (
    FILTERS,
    ImageRecord,
    access_of,
    describe,
    groups_of,
    trusted_of,
)
from unsandbox.engine.saved.saved import (
    SavedCollection,
    SavedRecord,
    capture,
    opened,
    saved_id,
    settings_of,
)
from unsandbox.engine.saved.snapshots import Snapshots
from unsandbox.engine.saved.sources import SavedState, Source
from unsandbox.engine.store.objects import Record
from unsandbox.protocol.images import (
    Image,
    ImageCloneRequest,
    ImageRequest,
    SpawnRequest,
    Trusted,
)
from unsandbox.protocol.services import Service

_TRUSTED_KEYS = 1000
_PUBLIC_KEY = re.compile(r"unsb-pk-[a-z0-9]{4}(-[a-z0-9]{4}){3}\Z")


class Images:
    """All images of an engine.

    Args:
        context: What the engine shares.
        blobs: Where their bytes are; an image of a snapshot shares the snapshot's.
        snapshots: The snapshots, from which images can be published.
        sources: The sources by kind; images can be published from `service`, and create new ones there.
    """

    def __init__(
        self, context: Context, blobs: Blobs, snapshots: Snapshots, sources: Mapping[str, Source]
    ) -> None:
        self._config = context.config
        self._box = context.box
        self._blobs = blobs
        self._snapshots = snapshots
        self._sources = sources
        self._saved = SavedCollection(
            "image",
            ImageRecord,
            context,
            blobs,
            context.config.images_per_key,
            lambda image, name: image.name == name,
        )

    async def start(self) -> None:
        """Load the state that an earlier process stored."""
        await self._saved.start()

    async def stop(self) -> None:
        """Wait until pending records are stored."""
        await self._saved.stop()

    def __len__(self) -> int:
        """How many there are, of all keys."""
        return len(self._saved.collection)

    async def publish(self, owner: str, request: ImageRequest) -> Image:
        """Publish an image of a service or snapshot; it is private at first.

        Raises:
            InvalidRequest: The snapshot is a hot one: memory is not for others.
            UnknownObject: No such service or snapshot of this key.
            LimitReached: The key has as many images as it may have.
        """
        return await run_uncancelled(self._publish(owner, request))

    def list_of(self, owner: str, which: str | None = None) -> list[Image]:
        """Return the images that a key may use and find, newest first.

        Args:
            owner: The key that asks.
            which: `owned`, `shared` (others' that trust this key) or `public`; None or `all`: all of these.

        Raises:
            InvalidRequest: The filter is unknown.
        """
        if which not in (None, "", "all", *FILTERS):
            raise InvalidRequest(f"filter must be all, {', '.join(FILTERS)}")
        wanted = FILTERS if which in (None, "", "all") else (which,)
        found = [record for record in self._saved.collection if not groups_of(record, owner).isdisjoint(wanted)]
        found.sort(key=lambda record: record.created_at, reverse=True)
        return [describe(record, owner, listed=True) for record in found]

    def get(self, owner: str, name: str) -> Image:
        """Return an image.

        Raises:
            UnknownObject: No such image that this key may see.
        """
        return describe(self._usable(owner, name), owner)

    async def delete(self, owner: str, name: str) -> Image:
        """Delete an image.

        Raises:
            Conflict: It is locked.
            Forbidden: It is another key's.
        """
        record = self._own(owner, name)
        await self._saved.remove(record)
        return describe(record, owner)

    async def set_locked(self, owner: str, name: str, locked: bool) -> Image:
        """Protect an image from deletion, or no longer."""
        return describe(await self._change(owner, name, lambda _: {"locked": locked}), owner)

    async def set_visibility(self, owner: str, name: str, visibility: str) -> Image:
        """Say who may see an image: `private`, `unlisted` or `public`."""
        return describe(await self._change(owner, name, lambda _: {"visibility": visibility}), owner)

    async def grant(self, owner: str, name: str, key: str | None) -> Trusted:
        """Let another key use an image.

        Raises:
            InvalidRequest: That is no public key.
        """
        wanted = _public_key(key)

        def trust(record: ImageRecord) -> dict[str, Any]:
            if wanted in record.trusted:
                return {}
            if len(record.trusted) >= _TRUSTED_KEYS:
                raise LimitReached(f"an image may trust {_TRUSTED_KEYS} keys; revoke one, or make it unlisted")
            return {"trusted": [*record.trusted, wanted]}

        return trusted_of(await self._change(owner, name, trust))

    async def revoke(self, owner: str, name: str, key: str | None) -> Trusted:
        """Withdraw another key's access to an image; do nothing if the key has none."""
        unwanted = _public_key(key)
        return trusted_of(
            await self._change(
                owner, name, lambda record: {"trusted": [k for k in record.trusted if k != unwanted]}
            )
        )

    def trusted(self, owner: str, name: str) -> Trusted:
        """Return the keys that an image trusts, to its owner."""
        return trusted_of(self._own(owner, name))

    async def transfer(self, owner: str, name: str, to: str) -> Image:
        """Give an image to another key.

        Raises:
            InvalidRequest: That is no public key.
            LimitReached: That key has as many images as it may have.
        """
        receiver = _public_key(to)

        def give(record: ImageRecord) -> dict[str, Any]:
            if receiver == owner:
                return {}
            self._saved.check_room(receiver, record.size)
            return {"owner": receiver, "trusted": [key for key in record.trusted if key != receiver]}

        record = await self._change(owner, name, give)
        return describe(record, receiver).replace(access=access_of(record, owner), trusted_keys=None)

    async def spawn(self, owner: str, name: str, request: SpawnRequest, limit: int | None = None) -> Service:
        """Start a service from an image.

        Args:
            owner: The key that asks.
            name: Which image.
            request: Changes of the image's settings.
            limit: Services that the key may have; by default the engine's bound.
        """
        record = self._usable(owner, name)
        async with opened(self._blobs, record, self._box) as state:
            made: Service = await self._services.make_from(
                owner, spawn_request(record, request), state, limit=limit
            )
            return made

    async def clone(self, owner: str, name: str, request: ImageCloneRequest) -> Image:
        """Copy an image: the copy is the caller's, private, and trusts nobody."""
        original = self._usable(owner, name)
        self._saved.check_room(owner, original.size)
        self._blobs.hold(original.sha256)
        record = ImageRecord(
            object_id=saved_id("image"),
            owner=owner,
            created_at=time.time(),
            name=request.name or original.name,
            description=request.description or original.description,
            source_type=original.source_type,
            source_id=original.source_id,
            **_state_of(original),
        )
        await self._saved.add(record)
        return describe(record, owner)

    @contextlib.asynccontextmanager
    async def open(self, owner: str, name: str) -> AsyncIterator[SavedState]:
        """Give the state in an image, for a new service.

        Args:
            owner: The key that asks.
            name: Id of an image that it may use, or the name of its own image.

        Raises:
            UnknownObject: The image does not exist.
            Damaged: The saved bytes are missing or were changed.
        """
        async with opened(self._blobs, self._usable(owner, name), self._box) as state:
            yield state

    def refuse_pictures(self) -> NoReturn:
        """Refuse to draw.

        Raises:
            NotImplementedHere: Always.
        """
        raise NotImplementedHere(
            "this server generates no pictures: only the hosted service has POST /image; "
            "to publish a service or snapshot, use POST /images"
        )

    async def _publish(self, owner: str, request: ImageRequest) -> Image:
        self._saved.check_room(owner)
        if request.source_type == "snapshot":
            record = self._of_snapshot(owner, request)
        else:
            record = await self._of_service(owner, request)
        await self._saved.add(record)
        return describe(record, owner)

    def _of_snapshot(self, owner: str, request: ImageRequest) -> ImageRecord:
        snapshot = self._snapshots.find(owner, request.source_id)
        if snapshot.hot:
            raise InvalidRequest(
                "a hot snapshot contains memory and with it secrets, so it cannot be published; "
                "take a cold snapshot (without 'hot') and publish that",
                code="hot_not_publishable",
            )
        self._blobs.hold(snapshot.sha256)
        return self._new(owner, request, snapshot.object_id, _state_of(snapshot))

    @property
    def _services(self) -> Source:
        return self._sources["service"]

    async def _of_service(self, owner: str, request: ImageRequest) -> ImageRecord:
        info = self._services.source(owner, request.source_id)
        async with self._services.lend(info.object_id) as sandbox:
            blob = await capture(self._blobs, sandbox, self._config)
        state = {
            "kind": "service",
            "container": info.container,
            "isolation": info.isolation,
            "sha256": blob.sha256,
            "size": blob.size,
            "settings": settings_of(info),
            "env_names": list(info.env_names),
        }
        return self._new(owner, request, info.object_id, state)

    def _new(self, owner: str, request: ImageRequest, source_id: str, state: dict[str, Any]) -> ImageRecord:
        return ImageRecord(
            object_id=saved_id("image"),
            owner=owner,
            created_at=time.time(),
            name=request.name,
            description=request.description,
            source_type=request.source_type,
            source_id=source_id,
            **state,
        )

    def _usable(self, owner: str, name: str) -> ImageRecord:
        """Return an image that a key may use, by id, or by name when it is the key's own."""
        record = self._saved.collection.find(name)
        if record is not None and access_of(record, owner) is not None:
            return record
        # Names of other keys' images are never accepted, because any key could publish under such a name.
        return self._saved.collection.get(owner, name)

    def _own(self, owner: str, name: str) -> ImageRecord:
        """Return an image that a key owns; for one that it may use the refusal says so."""
        record = self._usable(owner, name)
        if record.owner != owner:
            raise Forbidden("this image belongs to another key; only its owner may do this", code="not_owner")
        return record

    async def _change(
        self, owner: str, name: str, changes: Callable[[ImageRecord], dict[str, Any]]
    ) -> ImageRecord:
        return await self._saved.change(self._own(owner, name), changes)


def _public_key(text: str | None) -> str:
    key = (text or "").strip()
    if not _PUBLIC_KEY.match(key):
        raise InvalidRequest("the key must be a public key (unsb-pk-xxxx-xxxx-xxxx-xxxx)", code="invalid_key")
    return key


def _state_of(record: SavedRecord) -> dict[str, Any]:
    """Return the description of a saved state, independent of its record."""
    shared = set(SavedRecord.__struct_fields__) - set(Record.__struct_fields__) - {"name", "locked"}
    return {name: getattr(record, name) for name in shared}
