"""Saves persistent sandboxes and restores them: the common part of snapshots and images."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import string
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from unsandbox.engine.accounts.quotas import Reservation
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.background import run_uncancelled
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.context import Context
from unsandbox.engine.errors import Conflict, Damaged, InvalidRequest, LimitReached, TooLarge
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.saved.memory import load_hot, save_hot
from unsandbox.engine.saved.sources import SavedState, SourceInfo
from unsandbox.engine.store.objects import Collection, Record
from unsandbox.protocol import codec
from unsandbox.protocol.services import ServiceRequest
from unsandbox.protocol.sessions import SessionRequest
from unsandbox.sandbox.errors import InvalidArchiveError
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.persistent_spec import HashedBytes, PersistentSandbox
from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.storage.archive_check import examine

KINDS: dict[str, type[SessionRequest | ServiceRequest]] = {"session": SessionRequest, "service": ServiceRequest}
"""Kind of a source to the request that makes one."""

_ALPHABET = string.ascii_lowercase + string.digits


class SavedRecord(Record, kw_only=True):
    """The stored record of a saved state, for snapshots and images.

    Attributes:
        kind: `session` or `service`.
        container: Name of the sandbox that it is from.
        isolation: Name of the backend that it is from.
        sha256: Names its bytes.
        size: How many they are.
        hot: Whether they hold memory and processes.
        settings: The request that creates the source again, as JSON.
        sealed_key: Of a hot one: the key of its bytes, sealed with the server's.
        env_names: Names in the source's vault.
    """

    kind: str
    container: str
    isolation: str
    sha256: str
    size: int
    settings: dict[str, Any]
    hot: bool = False
    sealed_key: bytes | None = None
    env_names: list[str] = msgspec.field(default_factory=list)
    name: str | None = None
    locked: bool = False

    def request(self) -> SessionRequest | ServiceRequest:
        """Return the request that creates the source again."""
        return codec.from_wire(self.settings, KINDS[self.kind])


S = TypeVar("S", bound=SavedRecord)


def saved_id(kind: str) -> str:
    """Return an id in the historical form, with 82 random bits: who knows an unlisted image's id may use it.

    Example:
        >>> len(saved_id("image")) - len("unsb-image-")
        19
    """
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4))
    return f"unsb-{kind}-" + "-".join(groups)


def settings_of(info: SourceInfo) -> dict[str, Any]:
    """Return the stored form of the request that creates a source again."""
    return codec.to_wire(info.request)


async def capture(
    blobs: Blobs, sandbox: PersistentSandbox, config: EngineConfig, hot_key: bytes | None = None
) -> HashedBytes:
    """Save the state of a sandbox; the caller holds the bytes.

    Args:
        blobs: Where to.
        sandbox: Goes on as it was, frozen or not.
        config: Says how large it may be.
        hot_key: With memory and running processes, encrypted with this key.

    Raises:
        InvalidRequest: Its backend cannot save memory and processes.
        TooLarge: It is larger than a snapshot may be.
        InvalidRequest: It could not be restored.
        OSError: The disk is full or failed.
    """
    async with blobs.scratch() as scratch:
        archive = scratch / "archive"
        if hot_key is not None:
            hashed = await save_hot(sandbox, archive, hot_key)
        else:
            with _restorable():
                hashed = await sandbox.archive_work(archive)
                await run_to_end(functools.partial(examine, archive, config.work_bytes))
        if hashed.size > config.snapshot_bytes:
            raise TooLarge(
                f"the saved state takes {hashed.size >> 20} MiB, more than the {config.snapshot_bytes >> 20} "
                "MiB allowed here; delete files that can be created again, and retry",
                code="snapshot_too_large",
            )
        await blobs.put(archive, hashed)
        return hashed


@contextlib.contextmanager
def _restorable() -> Iterator[None]:
    """Refuse a saved state that no restore would take: its owner learns of it now, and not when it is needed.

    Raises:
        InvalidRequest: The work folder holds something that an archive must not.
    """
    try:
        yield
    except InvalidArchiveError as error:
        raise InvalidRequest(
            f"the work folder could not be restored from a snapshot: {error}; remove it and try again",
            code="not_restorable",
        ) from error


@contextlib.asynccontextmanager
async def opened(blobs: Blobs, record: SavedRecord, box: SecretBox) -> AsyncIterator[SavedState]:
    """Give a saved state, verified; its paths are valid within the block.

    Args:
        blobs: Where the bytes are.
        record: Which.
        box: Opens the key of a hot one.

    Raises:
        Damaged: Its bytes are missing or were changed.
    """
    async with blobs.file(record.sha256) as archive:
        if not record.hot:
            try:
                yield SavedState(record.object_id, work_archive=archive)
            except InvalidArchiveError as error:
                raise Damaged(f"the stored data is unusable: {error}; nothing was changed") from error
            return
        async with blobs.scratch() as scratch:
            image = scratch / "image"
            await load_hot(archive, image, record.sealed_key, box)
            yield SavedState(record.object_id, hot_image=image)


class SavedCollection(Generic[S]):
    """The saved states of one kind: records in a collection, their bytes in the blob store, the two in step.

    Bytes are durable before a record names them and go after it is gone, so that a crash at any moment leaves
    bytes without a record at worst; the next start sweeps those away.

    Args:
        kind: Name of the kind, for people and for the store.
        model: Type of the records.
        context: What the engine shares.
        blobs: Where the bytes are.
        limit: How many one key may have.
        same: Tells whether a record is also meant by another name.
    """

    def __init__(
        self,
        kind: str,
        model: type[S],
        context: Context,
        blobs: Blobs,
        limit: int,
        same: Callable[[S, str], bool] | None = None,
    ) -> None:
        self.collection: Collection[S] = Collection(kind, model, context.store, same)
        self._config = context.config
        self._quotas = context.quotas
        self._quotas.holders.append(
            lambda owner: Reservation(disk=sum(item.size for item in self.collection.of(owner)))
        )
        self._blobs = blobs
        self._limit = limit
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Load the state that an earlier process stored."""
        for record in await self.collection.load():
            self._blobs.hold(record.sha256)

    async def stop(self) -> None:
        """Return when nothing is being stored."""
        async with self._changing:
            pass

    async def add(self, record: S) -> None:
        """Keep a record, and with it the hold that the caller has on its bytes; both go when that fails."""
        await run_uncancelled(self._add(record))

    async def remove(self, record: S) -> None:
        """Delete a record and release its bytes.

        Raises:
            Conflict: It is locked.
            UnknownObject: It is gone.
        """
        await run_uncancelled(self._remove(record))

    async def change(self, record: S, changes: Callable[[S], dict[str, Any]]) -> S:
        """Change a record and return the new one.

        Args:
            record: Which one.
            changes: Returns the new values of the fields that change.

        Raises:
            UnknownObject: It is gone.
        """
        return await run_uncancelled(self._change(record, changes))

    def check_room(self, owner: str, size: int = 0, without: Sequence[S] = ()) -> None:
        """Refuse a further `size` bytes when a key would keep more than it may.

        Args:
            owner: The key.
            size: How many bytes more.
            without: Bytes that do not count, because their records would be deleted first.

        Raises:
            LimitReached: It would; the message says how much it may.
            InsufficientStorage: It would store more of all kinds than it may.
        """
        kind, gone = self.collection.kind, {record.object_id for record in without}
        sizes = [record.size for record in self.collection.of(owner) if record.object_id not in gone]
        if len(sizes) >= self._limit:
            raise LimitReached(
                f"a key may have {self._limit} {kind}s here, and this one has; delete one",
                code=f"{kind}_limit_reached",
            )
        if sum(sizes) + size > self._config.saved_bytes_per_key:
            limit = self._config.saved_bytes_per_key // MIB
            raise LimitReached(
                f"the {kind}s of a key may take {limit} MiB together here, and with this one they would take "
                f"{(sum(sizes) + size) // MIB + 1} MiB; delete one",
                code=f"{kind}_limit_reached",
            )
        self._quotas.check_room(owner, Reservation(disk=size - sum(record.size for record in without)))

    async def _add(self, record: S) -> None:
        try:
            async with self._changing:
                self.check_room(record.owner, record.size)
                await self.collection.put(record)
        except BaseException:
            await self._blobs.release(record.sha256)
            raise

    async def _remove(self, record: S) -> None:
        async with self._changing:
            current = self.collection.get(record.owner, record.object_id)
            if current.locked:
                raise Conflict(
                    f"this {self.collection.kind} is locked; unlock it before you delete it",
                    code=f"{self.collection.kind}_locked",
                )
            await self.collection.drop(current)
        await self._blobs.release(current.sha256)

    async def _change(self, record: S, changes: Callable[[S], dict[str, Any]]) -> S:
        async with self._changing:
            current = self.collection.get(record.owner, record.object_id)
            changed = msgspec.structs.replace(current, **changes(current))
            await self.collection.put(changed)
            return changed
