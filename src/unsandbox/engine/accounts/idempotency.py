"""Answers of creating calls, kept for a day so that a repeated request makes nothing twice.

Jobs have this built in (their row holds the key); everything else that is made goes through here.
Source: the `Idempotency-Key` header field, draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable

from unsandbox.engine.errors import Conflict
from unsandbox.engine.store.objects import Collection, ObjectStore, Record, note_made

KEPT_S = 86400.0


class ReplyRecord(Record, kw_only=True):
    """One kept answer; its id is a hash of owner and key."""

    fingerprint: str
    body: bytes
    """Empty while the request is under way, or when the server died in it."""
    made_kind: str | None = None
    made_id: str | None = None
    """What it made, noted before that is stored: after a crash the object tells whether it came to be."""


class IdempotencyStore:
    """The kept answers of an engine.

    Args:
        store: Where they live on.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._collection: Collection[ReplyRecord] = Collection("reply", ReplyRecord, store)
        self._under_way: dict[str, tuple[str, asyncio.Task[bytes]]] = {}

    async def start(self) -> None:
        """Take up what an earlier process kept, and forget what is too old."""
        await self._collection.load()
        await self.prune()

    async def prune(self) -> None:
        """Forget answers older than a day."""
        oldest = time.time() - KEPT_S
        for record in self._collection:
            if record.created_at < oldest:
                await self._collection.drop(record)

    async def once(
        self,
        owner: str,
        key: str,
        fingerprint: str,
        make: Callable[[], Awaitable[bytes]],
        again: Callable[[str, str], Awaitable[bytes | None]] | None = None,
    ) -> bytes:
        """Return the answer of the first request with this key, or make and keep it.

        A caller who leaves does not stop the making: whoever asks again gets what was made. A failure is not
        kept, so the request may be tried again.

        Args:
            owner: The key pair that asks.
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
        under_way = self._under_way.get(name)
        if under_way is None:
            task = asyncio.create_task(self._make(name, owner, fingerprint, make))
            # Its failure may find nobody who still waits.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            under_way = self._under_way[name] = (fingerprint, task)
        _check(under_way[0], fingerprint)
        return await asyncio.shield(under_way[1])

    async def _make(
        self, name: str, owner: str, fingerprint: str, make: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        record = ReplyRecord(
            object_id=name, owner=owner, created_at=time.time(), fingerprint=fingerprint, body=b""
        )

        async def note(kind: str, object_id: str) -> None:
            if record.made_id is None:
                record.made_kind, record.made_id = kind, object_id
                note_made.set(None)
                await self._collection.put(record)

        note_made.set(note)  # Of this task's own context.
        try:
            record.body = await make()
            note_made.set(None)
            await self._collection.put(record)
        except BaseException:
            if record.made_id is not None:
                await self._collection.drop(record)
            raise
        finally:
            del self._under_way[name]
        return record.body


def _check(known: str, given: str) -> None:
    if known != given:
        raise Conflict(
            "this Idempotency-Key was used for a different request; use a new key for a new request",
            code="idempotency_key_reused",
        )
