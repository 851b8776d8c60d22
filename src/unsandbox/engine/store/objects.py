"""Stored objects that belong to a key: how they are named, found, and kept across a restart."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from unsandbox.engine.errors import UnknownObject


class Record(msgspec.Struct, kw_only=True):
    """What is stored of an object. Fields may be added with a default, never renamed: old rows are read."""

    object_id: str
    owner: str
    created_at: float


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A stored object: its record as a JSON document."""

    object_id: str
    kind: str
    owner: str
    document: bytes


class ObjectStore(Protocol):
    """Where objects are stored."""

    async def put_object(self, row: ObjectRow) -> None:
        """Store an object, new or changed; returns when it is durable."""

    async def delete_object(self, object_id: str) -> None:
        """Forget an object; returns when that is durable."""

    async def load_objects(self, kind: str) -> list[ObjectRow]:
        """Return all objects of a kind."""


note_made: ContextVar[Callable[[str, str], Awaitable[None]] | None] = ContextVar("note_made", default=None)
"""Called with kind and id of a new object before it is stored, in the request that makes it."""

R = TypeVar("R", bound=Record)


class Collection(Generic[R]):
    """All objects of one kind, in memory and in the store. Changes are stored before they are acknowledged.

    Args:
        kind: Name of the kind, for people and for the store.
        model: Type of the records.
        store: Their storage.
        same: Tells whether an object has also another name (a container name, say).
    """

    def __init__(
        self, kind: str, model: type[R], store: ObjectStore, same: Callable[[R, str], bool] | None = None
    ) -> None:
        self.kind = kind
        self._model = model
        self._store = store
        self._same = same or (lambda _document, _name: False)
        self._items: dict[str, R] = {}

    async def load(self) -> list[R]:
        """Load the records that an earlier process stored, and return them."""
        for row in await self._store.load_objects(self.kind):
            self._items[row.object_id] = msgspec.json.decode(row.document, type=self._model)
        return list(self._items.values())

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._items.values()))

    def __len__(self) -> int:
        return len(self._items)

    def get(self, owner: str, name: str) -> R:
        """Return the object of an owner, by id or another name of it.

        Raises:
            UnknownObject: It does not exist, or belongs to another key.
        """
        found = self._items.get(name)
        if found is None:
            mine = (item for item in self._items.values() if item.owner == owner and self._same(item, name))
            found = next(mine, None)
        if found is None or found.owner != owner:
            raise UnknownObject(f"no {self.kind} {name[:80]!r} of this key", code=f"{self.kind}_not_found")
        return found

    def find(self, object_id: str) -> R | None:
        """Return an object of any owner."""
        return self._items.get(object_id)

    def of(self, owner: str) -> list[R]:
        """Return the objects of an owner, newest first."""
        mine = [item for item in self._items.values() if item.owner == owner]
        return sorted(mine, key=lambda item: item.created_at, reverse=True)

    async def put(self, record: R) -> None:
        """Store an object, new or changed."""
        if record.object_id not in self._items and (note := note_made.get()) is not None:
            await note(self.kind, record.object_id)
        stored = msgspec.json.encode(record)
        await self._store.put_object(ObjectRow(record.object_id, self.kind, record.owner, stored))
        self._items[record.object_id] = record
        # Before this line `update` refused the object; a change that was made meanwhile is stored now.
        if msgspec.json.encode(record) != stored:
            with contextlib.suppress(UnknownObject):
                await self.update(record)

    async def update(self, record: R) -> None:
        """Store a change of an object; an object that is being deleted stays deleted.

        Raises:
            UnknownObject: It is no longer in the collection.
        """
        self._must_hold(record)
        row = ObjectRow(record.object_id, self.kind, record.owner, msgspec.json.encode(record))
        await self._store.put_object(row)
        # The store executes calls in order, so a deletion in between has removed the row.
        self._must_hold(record)
        self._items[record.object_id] = record

    async def drop(self, record: R) -> None:
        """Delete an object."""
        # First in memory, so that a concurrent change sees the deletion.
        gone = self._items.pop(record.object_id, None)
        try:
            await self._store.delete_object(record.object_id)
        except BaseException:
            if gone is not None:
                self._items.setdefault(record.object_id, gone)
            raise

    def _must_hold(self, record: R) -> None:
        if record.object_id not in self._items:
            raise UnknownObject(f"the {self.kind} was deleted", code=f"{self.kind}_not_found")


def new_id(prefix: str) -> str:
    """Return an id that cannot be guessed: a prefix and 96 random bits.

    Example:
        >>> len(new_id("session")) - len("session_")
        24
    """
    return f"{prefix}_{secrets.token_hex(12)}"


def container_name() -> str:
    """Return a name for a sandbox, in the form that historical clients recognise."""
    return f"unsb-vm-{secrets.token_hex(5)}"


def epoch(seconds: float) -> str:
    """Return a time in the format of the API: Unix seconds as digits."""
    return str(int(seconds))
