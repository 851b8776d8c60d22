"""Sessions: persistent sandboxes with a shell, for one key each, until deleted or unused for too long."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping

from unsandbox.engine.background import Background
from unsandbox.engine.context import Context, Folder
from unsandbox.engine.errors import Conflict, UnknownObject
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.persistent.activity import Activity, steady_time
from unsandbox.engine.persistent.limits import (
    check_room,
    reserved_by_all,
    reserved_by_one,
    set_vcpu,
)
from unsandbox.engine.saved.sources import SavedState, SourceInfo
from unsandbox.engine.sessions.attachments import SessionTerminals
from unsandbox.engine.sessions.commands import Commands
from unsandbox.engine.sessions.ended import EndedSessions
from unsandbox.engine.sessions.expiry import Expiry
from unsandbox.engine.sessions.history import Histories
from unsandbox.engine.sessions.ports import SessionPorts
from unsandbox.engine.sessions.record import SessionRecord, as_request, describe, new_record
from unsandbox.engine.sessions.sandboxes import OpenSession, SessionSandboxes
from unsandbox.engine.store.objects import Collection
from unsandbox.protocol.contents import Content
from unsandbox.protocol.sessions import Session, SessionRequest
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentSandbox
from unsandbox.sandbox.spec import Artifact

AUDIT_FILE = "audit.log"


class Sessions:
    """All sessions of an engine.

    Args:
        context: What the parts of the engine share.
        folder: Where the disks of sessions lie.

    Attributes:
        collection: The stored records.
        sandboxes: The sandboxes that are open now.
        terminals: Their terminals.
        ports: Their ports that visitors reach.
        expiry: Ends sessions that are not used.
    """

    kind = "session"

    def __init__(self, context: Context, folder: Folder) -> None:
        self._context = context
        self.collection: Collection[SessionRecord] = Collection(
            self.kind, SessionRecord, context.store, lambda item, name: item.container == name
        )
        self._background = Background()
        self._activity = Activity(self.collection, self._background)
        self.sandboxes = SessionSandboxes(context, folder, self.collection, self._background)
        self._histories = Histories(self.sandboxes.path if folder.durable else None)
        self._commands = Commands(context, self._histories)
        self.terminals = SessionTerminals(
            context, self.collection, self.sandboxes, self._activity, self._histories
        )
        self.ports = SessionPorts()
        self.expiry = Expiry(self.collection, self._background, self._in_use, self._remove)
        self._ended = EndedSessions()
        context.quotas.holders.append(lambda owner: reserved_by_all(context, owner, self.collection.of(owner)))

    async def start(self) -> None:
        """Load the sessions that an earlier process left: their files are there, their processes are not."""
        for record in await self.collection.load():
            record.reason = "node"
            self.expiry.start(record)
        await self.sandboxes.sweep()

    async def stop(self) -> None:
        """Close every sandbox. In a durable data folder the sessions themselves stay."""
        self.expiry.stop_all()
        await self.sandboxes.close_all()
        await self._background.finish()

    def __len__(self) -> int:
        """How many there are, of all keys."""
        return len(self.collection)

    async def create(self, owner: str, request: SessionRequest, limit: int | None = None) -> Session:
        """Make a session; its sandbox runs when this returns.

        Args:
            owner: The key it belongs to.
            request: The settings and input files.
            limit: Sessions that the key may have; by default the engine's bound.

        Raises:
            InvalidRequest: An unknown shell, or isolation that is not available here.
            LimitReached: The key has as many sessions, or as much memory, as it may have.
            InsufficientStorage: It stores as much as it may.
        """
        self._context.quotas.check_cpu(owner)
        return await self.make_from(owner, request, None, limit=limit)

    async def make_from(
        self,
        owner: str,
        request: SessionRequest,
        state: SavedState | None,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Session:
        """Make a session, out of a saved state if there is one; see `Source.make_from`."""
        record = new_record(self._context, owner, request, object_id)
        files = input_files(request.input_files or [], self._context.config)
        quotas = self._context.quotas
        check_room(
            self.kind,
            len(self.collection.of(owner)) + quotas.in_flight(self.kind, owner),
            self._context.config.sessions_per_key if limit is None else limit,
        )
        with quotas.making(self.kind, owner, reserved_by_one(self._context, owner, request.vcpu)):
            await self._open_new(record, files, state)
        self.expiry.start(record)
        return self.describe(record)

    async def _open_new(
        self, record: SessionRecord, files: Mapping[str, bytes | Content], state: SavedState | None
    ) -> None:
        # A deleted session that is made again waits until the old one is gone.
        async with self.sandboxes.lock(record.object_id):
            if self.collection.find(record.object_id) is not None:
                raise Conflict("the session exists already", code="session_exists")
            await self.sandboxes.open(record, files, state)
            try:
                await self.collection.put(record)
            except BaseException:
                await self.sandboxes.close(record.object_id)
                await self.sandboxes.remove_disk(record)
                raise

    def source(self, owner: str, name: str) -> SourceInfo:
        """Return what makes a session like this one again; see `Source.source`."""
        record = self.record(owner, name)
        return SourceInfo(record.object_id, record.container, record.isolation, as_request(record))

    @contextlib.asynccontextmanager
    async def lend(self, object_id: str) -> AsyncIterator[PersistentSandbox]:
        """Give the sandbox of a session; see `Source.lend`."""
        record = self._known(object_id)
        session = await self.sandboxes.ensure_open(record)
        session.processes.rest()
        with self._using(record, session):
            yield session.sandbox

    @contextlib.asynccontextmanager
    async def in_use(self, owner: str, name: str, *, frozen_too: bool = False) -> AsyncIterator[OpenSession]:
        """Give a session with its sandbox for a call that works in it.

        Args:
            owner: The key.
            name: Id or container name.
            frozen_too: Whether it may be frozen.

        Raises:
            UnknownObject: No such session of this key.
            Conflict: The session is frozen.
            LimitReached: The key has used up its CPU time.
        """
        record = self.record(owner, name)
        self._context.quotas.check_cpu(owner)
        session = await self.sandboxes.ensure_open(record)
        if session.sandbox.frozen and not frozen_too:
            raise Conflict("the session is frozen; unfreeze it first", code="session_frozen")
        with self._using(record, session):
            yield session

    async def put_back(self, object_id: str, state: SavedState) -> None:
        """Replace the state of a session by a saved one; see `Source.put_back`."""
        record = self._known(object_id)
        if state.hot_image is not None:
            async with self.sandboxes.lock(object_id):
                await self.sandboxes.close(object_id)
                await self.sandboxes.open(record, state=state)
        elif state.work_archive is not None:
            session = await self.sandboxes.ensure_open(record)
            with self._using(record, session):
                if session.driver is not None:
                    # It works on files that are about to go.
                    session.driver.close()
                async with session.lock:
                    session.driver = None
                    await session.sandbox.unfreeze()
                    await session.sandbox.replace_work(state.work_archive)
        self._activity.touch(record)
        await self.collection.update(record)

    def get(self, owner: str, name: str) -> Session:
        """Return a session by id or container name."""
        return self.describe(self.record(owner, name))

    def list_of(self, owner: str, metadata: Mapping[str, str] | None = None) -> list[Session]:
        """Return the sessions of a key, newest first.

        Args:
            owner: The key.
            metadata: Names and values that they have; by default any.
        """
        wanted = (metadata or {}).items()
        found = (record for record in self.collection.of(owner) if wanted <= record.metadata.items())
        return [self.describe(record) for record in found]

    async def delete(self, owner: str, name: str, audit: bool = False) -> tuple[Session, list[Artifact]]:
        """End a session; return it with the files of `/tmp/artifacts`, and its history when it was audited."""
        record = self.record(owner, name)
        artifacts: list[Artifact] = []
        if (session := self.sandboxes.get(record.object_id)) is not None:
            with contextlib.suppress(SandboxError):
                await session.sandbox.unfreeze()
                artifacts, _ = await session.sandbox.collect()
        if (audit or record.audit) and (typed := self._histories.of(record).read()):
            artifacts.append(Artifact(AUDIT_FILE, typed))
        description = self.describe(record)
        await self._remove(record, "deleted")
        return description, artifacts

    async def freeze(self, owner: str, name: str) -> Session:
        """Stop all processes of a session where they are."""
        record = self.record(owner, name)
        session = await self.sandboxes.ensure_open(record)
        await session.sandbox.freeze()
        return self.describe(record)

    async def unfreeze(self, owner: str, name: str) -> Session:
        """Let the processes of a session go on."""
        record = self.record(owner, name)
        session = await self.sandboxes.ensure_open(record)
        await session.sandbox.unfreeze()
        return await self._used(record)

    async def set_timeout(self, owner: str, name: str, timeout_s: int | None) -> Session:
        """Set the deadline of a session, in seconds from now; None: it ends when it is idle for its `ttl`."""
        record = self.record(owner, name)
        record.ends_at = None if timeout_s is None else steady_time() + timeout_s
        described = await self._used(record)
        if self.collection.find(record.object_id) is record:
            self.expiry.stop(record)
            self.expiry.start(record)
        return described

    async def set_vcpu(self, owner: str, name: str, vcpu: int | None) -> Session:
        """Give a session `vcpu` CPUs and the memory that belongs to them; None: as many as it began with.

        Raises:
            InvalidRequest: This machine cannot enforce it.
        """
        record = self.record(owner, name)
        session = await self.sandboxes.ensure_open(record)
        wanted = record.base_vcpu if vcpu is None else vcpu
        await set_vcpu(self._context, record, session.sandbox, wanted)
        record.vcpu = wanted
        return await self._used(record)

    async def command(
        self,
        owner: str,
        name: str,
        command: str,
        timeout_s: float | None = None,
        files: Mapping[str, bytes | Content] | None = None,
    ) -> CommandOutcome:
        """Run one command in the session's shell.

        Raises:
            Conflict: The session is frozen.
            LimitReached: The key has used up its CPU time.
            InvalidRequest: Its shell takes no one-shot commands.
        """
        async with self.in_use(owner, name) as session:
            record = self.record(owner, name)
            return await self._commands.run(record, session, command, timeout_s, files)

    @contextlib.contextmanager
    def _using(self, record: SessionRecord, session: OpenSession) -> Iterator[None]:
        """Keep a session from expiring within the block."""
        session.uses += 1
        try:
            yield
        finally:
            session.uses -= 1
            self._activity.touch(record)

    async def _used(self, record: SessionRecord) -> Session:
        """Store a session that was changed by a call, and return it."""
        self._activity.touch(record)
        await self.collection.update(record)
        return self.describe(record)

    def describe(self, record: SessionRecord) -> Session:
        """Return what a client may see of a session."""
        session = self.sandboxes.get(record.object_id)
        return describe(self._context, record, frozen=session is not None and session.sandbox.frozen)

    def record(self, owner: str, name: str) -> SessionRecord:
        """Return the record of a session, by id or container name.

        Raises:
            UnknownObject: No such session of this key; the message says why one has ended lately.
        """
        try:
            return self.collection.get(owner, name)
        except UnknownObject:
            if (ended := self._ended.explain(owner, name)) is not None:
                raise ended from None
            raise

    def _known(self, object_id: str) -> SessionRecord:
        record = self.collection.find(object_id)
        if record is None:
            raise UnknownObject(f"no session {object_id[:80]!r}", code="session_not_found")
        return record

    async def _remove(self, record: SessionRecord, reason: str) -> None:
        await self.collection.drop(record)
        self._ended.note(record, reason)
        self.expiry.stop(record)
        self.ports.forget(record)
        async with self.sandboxes.lock(record.object_id):
            await self.sandboxes.close(record.object_id)
            self._activity.forget(record.object_id)
            await run_long(self._histories.remove, record)
            await self.sandboxes.remove_disk(record)

    def _in_use(self, record: SessionRecord) -> bool:
        session = self.sandboxes.get(record.object_id)
        return session is not None and session.uses > 0
