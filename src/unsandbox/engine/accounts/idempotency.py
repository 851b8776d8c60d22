"""Answers of creating calls, kept for a day so that a repeated request does not create a second object.

Jobs have this built in (their row holds the key); everything else that is made goes through here. A large
answer is not copied: it is made again from the object or job that it is about. What a key keeps is bounded.
Source: the `Idempotency-Key` header field, draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from unsandbox.engine.encoding import whole
from unsandbox.engine.errors import Conflict
from unsandbox.engine.store.objects import Collection, ObjectStore, Record, note_made
from unsandbox.protocol.contents import Text

KEPT_S = 86400.0
LARGEST_BODY = 16 * 1024
"""Bytes of an answer that is kept itself."""
BYTES_PER_KEY = 8 << 20
"""Of all kept answers of one key; the oldest leave first."""
_OVERHEAD = 512
"""Bytes that a kept answer takes besides its body, roughly."""


class ReplyRecord(Record, kw_only=True):
    """One kept answer; its id is a hash of owner and key."""

    fingerprint: str
    body: bytes
    """Empty while the request is under way, when the server died in it, and of a large answer."""
    made_kind: str | None = None
    made_id: str | None = None
    """What it made, noted before that is stored: after a crash the object tells whether it came to be."""
    answered: bool = False
    """Whether the request has ended well, with or without its body being kept."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body) + _OVERHEAD


class IdempotencyStore:
    """The kept answers of an engine.

    Args:
        store: Where they are stored.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._collection: Collection[ReplyRecord] = Collection("reply", ReplyRecord, store)
        self._under_way: dict[str, tuple[str, asyncio.Task[Text]]] = {}
        self._sizes: dict[str, OrderedDict[str, int]] = {}

    async def start(self) -> None:
        """Load the answers of an earlier process, and drop those that are too old or too many."""
        for record in sorted(await self._collection.load(), key=lambda item: item.created_at):
            self._count(record)
        await self.prune()
        for owner in list(self._sizes):
            await self._keep_within(owner)

    def bytes_of(self, owner: str) -> int:
        """Return how many bytes the kept answers of a key take, roughly."""
        return sum(self._sizes.get(owner, {}).values())

    @property
    def total_bytes(self) -> int:
        """Bytes that the kept answers of all keys take, roughly."""
        return sum(map(self.bytes_of, self._sizes))

    async def prune(self) -> None:
        """Forget answers older than a day."""
        oldest = time.time() - KEPT_S
        for record in self._collection:
            if record.created_at < oldest:
                await self._drop(record)

    async def once(
        self,
        owner: str,
        key: str,
        fingerprint: str,
        make: Callable[[], Awaitable[Text]],
        again: Callable[[str, str], Awaitable[Text | None]] | None = None,
    ) -> Text:
        """Return the answer of the first request with this key, or create and store it.

        If the caller leaves, the work continues, and a repeated request gets its result. A failure is not
        kept, so the request may be tried again.

        Args:
            owner: The calling key.
            key: Its `Idempotency-Key`.
            fingerprint: Hash of the request.
            make: Does the work and returns the body of the answer.
            again: Returns the body for an object (kind, id) that was made by a server that died before it
                answered; None when there is no such object after all.

        Raises:
            Conflict: The key belongs to another request.
        """
        name = hashlib.sha256(f"{owner}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
        kept = self._collection.find(name)
        if kept is not None and kept.created_at > time.time() - KEPT_S:
            _check(kept.fingerprint, fingerprint)
            if kept.body:
                return kept.body
            if again and kept.made_kind and kept.made_id and name not in self._under_way:
                body = await again(kept.made_kind, kept.made_id)
                if body is not None:
                    return body
                if kept.answered:
                    raise Conflict(
                        f"the {kept.made_kind} that this Idempotency-Key made is gone; use a new key to make "
                        "another one",
                        code="idempotency_key_used",
                    )
        under_way = self._under_way.get(name)
        if under_way is None:
            task = asyncio.create_task(self._make(name, owner, fingerprint, make))
            # The caller may have stopped waiting when it fails.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            under_way = self._under_way[name] = (fingerprint, task)
        _check(under_way[0], fingerprint)
        return await asyncio.shield(under_way[1])

    async def _make(self, name: str, owner: str, fingerprint: str, make: Callable[[], Awaitable[Text]]) -> Text:
        record = ReplyRecord(
            object_id=name, owner=owner, created_at=time.time(), fingerprint=fingerprint, body=b""
        )

        async def note(kind: str, object_id: str) -> None:
            if record.made_id is None:
                record.made_kind, record.made_id = kind, object_id
                note_made.set(None)
                await self._keep(record)

        note_made.set(note)  # Of this task's own context.
        try:
            body = await make()
            note_made.set(None)
            record.answered = True
            if len(body) <= LARGEST_BODY or record.made_id is None:
                record.body = whole(body)
            await self._keep(record)
        except BaseException:
            if record.made_id is not None:
                await self._drop(record)
            raise
        finally:
            del self._under_way[name]
        return body

    async def _keep(self, record: ReplyRecord) -> None:
        await self._collection.put(record)
        self._count(record)
        await self._keep_within(record.owner)

    async def _keep_within(self, owner: str) -> None:
        """Forget the oldest answers of a key that has too many."""
        while self.bytes_of(owner) > BYTES_PER_KEY:
            oldest = self._collection.find(next(iter(self._sizes[owner])))
            if oldest is None:
                return
            await self._drop(oldest)

    async def _drop(self, record: ReplyRecord) -> None:
        await self._collection.drop(record)
        mine = self._sizes.get(record.owner, OrderedDict())
        mine.pop(record.object_id, None)
        if not mine:
            self._sizes.pop(record.owner, None)

    def _count(self, record: ReplyRecord) -> None:
        self._sizes.setdefault(record.owner, OrderedDict())[record.object_id] = record.size


def _check(known: str, given: str) -> None:
    if known != given:
        raise Conflict(
            "this Idempotency-Key was used for a different request; use a new key for a new request",
            code="idempotency_key_reused",
        )
