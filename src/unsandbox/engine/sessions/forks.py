"""Copies of sessions, which go on independently."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

from unsandbox.engine.background import run_uncancelled
from unsandbox.engine.context import Context
from unsandbox.engine.persistent.limits import check_room, reserved_by_one
from unsandbox.engine.saved.memory import write_checkpoint
from unsandbox.engine.saved.sources import SavedState
from unsandbox.engine.sessions.record import SessionRecord, as_request, new_record
from unsandbox.engine.sessions.sandboxes import OpenSession
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.engine.store.objects import new_id, note_made
from unsandbox.protocol.sessions import ForkRequest, Session
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.launcher.cleanup import remove_tree


class Forks:
    """Copies sessions: all copies of a call are made, or none.

    Args:
        context: What the parts of the engine share.
        sessions: All sessions.
    """

    def __init__(self, context: Context, sessions: Sessions) -> None:
        self._context = context
        self._sessions = sessions
        self._collection = sessions.collection
        self._sandboxes = sessions.sandboxes

    async def make(
        self, owner: str, name: str, request: ForkRequest, limit: int | None = None
    ) -> list[Session]:
        """Return new copies of a session, which are stored and whose sandboxes run; the session goes on.

        Args:
            owner: The key.
            name: Id or container name of the session.
            request: How many copies, and of what.
            limit: Sessions that the key may have; by default the engine's bound.

        Raises:
            UnknownObject: No such session of this key.
            InvalidRequest: The backend cannot copy memory and processes.
            LimitReached: The key would have too many sessions, or too much memory.
            InsufficientStorage: The key would store too much.
        """
        most = self._context.config.sessions_per_key if limit is None else limit
        return await run_uncancelled(self._make_all(owner, name, request, most))

    async def _make_all(self, owner: str, name: str, request: ForkRequest, limit: int) -> list[Session]:
        async with self._sessions.in_use(owner, name, frozen_too=True) as opened:
            copies = await self._make(self._sessions.record(owner, name), opened, request, limit)
        for copy in copies:
            self._sessions.expiry.start(copy)
        return [self._sessions.describe(copy) for copy in copies]

    async def _make(
        self, parent: SessionRecord, opened: OpenSession, request: ForkRequest, limit: int
    ) -> list[SessionRecord]:
        quotas, owner = self._context.quotas, parent.owner
        mine = len(self._collection.of(owner)) + quotas.in_flight("session", owner)
        check_room("session", mine + request.count - 1, limit)
        # The call makes several objects, and only the answer names them all.
        note_made.set(None)
        copies = [self._record(parent, request) for _ in range(request.count)]
        with contextlib.ExitStack() as making:
            for copy in copies:
                making.enter_context(
                    quotas.making("session", owner, reserved_by_one(self._context, owner, copy.vcpu))
                )
            try:
                await self._open(parent, opened, copies, hot=request.hot)
                for copy in copies:
                    await self._collection.put(copy)
            except BaseException:
                await asyncio.gather(*map(self._discard, copies), return_exceptions=True)
                raise
        return copies

    def _record(self, parent: SessionRecord, request: ForkRequest) -> SessionRecord:
        like = as_request(parent)
        metadata = like.metadata if request.metadata is None else request.metadata
        wanted = like.replace(name=request.name or like.name, metadata=metadata, timeout=request.timeout)
        record = new_record(self._context, parent.owner, wanted, None)
        if request.timeout is None:
            record.ends_at = parent.ends_at
        return record

    async def _open(
        self, parent: SessionRecord, opened: OpenSession, copies: Sequence[SessionRecord], *, hot: bool
    ) -> None:
        async with self._memory(parent, opened) if hot else contextlib.nullcontext() as state:
            made = await asyncio.gather(
                *(self._open_one(copy, state) for copy in copies), return_exceptions=True
            )
        for one in made:
            if isinstance(one, BaseException):
                raise one
        if not hot:
            sandboxes = [one.sandbox for one in made if isinstance(one, OpenSession)]
            await opened.sandbox.copy_work(sandboxes)

    async def _open_one(self, copy: SessionRecord, state: SavedState | None) -> OpenSession:
        async with self._sandboxes.lock(copy.object_id):
            return await self._sandboxes.open(copy, state=state)

    @contextlib.asynccontextmanager
    async def _memory(self, parent: SessionRecord, opened: OpenSession) -> AsyncIterator[SavedState]:
        opened.processes.guest.close()  # The copies start helpers of their own.
        folder = self._sandboxes.folder / new_id("fork")
        await run_long(partial(folder.mkdir, mode=0o700, parents=True))
        try:
            image = folder / "image"
            await write_checkpoint(opened.sandbox, image)
            yield SavedState(parent.object_id, hot_image=image)
        finally:
            await run_long(remove_tree, folder)

    async def _discard(self, copy: SessionRecord) -> None:
        if self._collection.find(copy.object_id) is not None:
            await self._collection.drop(copy)
        async with self._sandboxes.lock(copy.object_id):
            await self._sandboxes.close(copy.object_id)
            await self._sandboxes.remove_disk(copy)
