"""The sandboxes of sessions: opened when a session is used, one at most for each, gone with the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from unsandbox.engine.background import Background
from unsandbox.engine.context import Context, Folder
from unsandbox.engine.environments.access import environment_root
from unsandbox.engine.errors import UnknownObject
from unsandbox.engine.persistent.limits import open_persistent, persistent_limits, sandbox_files
from unsandbox.engine.saved.sources import SavedState
from unsandbox.engine.sessions.record import SessionRecord, shell_of
from unsandbox.engine.sessions.terminal import Terminal
from unsandbox.engine.store.objects import Collection
from unsandbox.engine.workspace.kernel import KernelContext
from unsandbox.engine.workspace.process_table import ProcessTable
from unsandbox.engine.workspace.shares import Shares
from unsandbox.protocol.contents import Content
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.languages.shells import ShellDriver
from unsandbox.sandbox.launcher.cleanup import remove_tree
from unsandbox.sandbox.layout import environment_variables
from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import NetworkMode

logger = logging.getLogger("unsandbox.engine.sessions.sessions")


@dataclass(eq=False, slots=True)
class OpenSession:
    """A session that has a sandbox now.

    Attributes:
        sandbox: The sandbox.
        processes: The processes that run beside its shell, and its files.
        has_environment: Whether it sees an environment.
        contexts: Its interpreters by their ids.
        driver: Runs commands in its shell, once there was one.
        terminal: Its terminal, once there was a viewer.
        uses: Calls that use it now; a session in use does not expire.
        lock: Held while driver or terminal are made, and while a command runs.
    """

    sandbox: PersistentSandbox
    processes: ProcessTable
    has_environment: bool = False
    contexts: dict[str, KernelContext] = field(default_factory=dict)
    driver: ShellDriver | None = None
    terminal: Terminal | None = None
    uses: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def close_programs(self) -> None:
        """End the shell, the terminal, and what belongs to the processes."""
        for context in self.contexts.values():
            context.abandon()
        self.contexts.clear()
        self.processes.close(self.sandbox.end_reason)
        if self.terminal is not None:
            self.terminal.close()
        if self.driver is not None:
            self.driver.close()


class SessionSandboxes:
    """Opens and closes the sandboxes of sessions, and owns their disks.

    Args:
        context: What the parts of the engine share.
        folder: Where the disks lie.
        collection: All sessions.
        background: Watches for sandboxes that end by themselves.

    Attributes:
        folder: Where their disks lie; the next start removes everything else in it.
    """

    def __init__(
        self, context: Context, folder: Folder, collection: Collection[SessionRecord], background: Background
    ) -> None:
        self._context = context
        self.folder = folder.path / "sessions"
        self._durable = folder.durable
        self._collection = collection
        self._background = background
        self._open: dict[str, OpenSession] = {}
        self._shares = Shares()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __iter__(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every session that has one."""
        for object_id, session in self._open.items():
            if (record := self._collection.find(object_id)) is not None:
                yield record.owner, session.sandbox

    def get(self, object_id: str) -> OpenSession | None:
        """Return a session that has a sandbox."""
        return self._open.get(object_id)

    def lock(self, object_id: str) -> asyncio.Lock:
        """Return the lock that is held while the sandbox of a session is opened or closed."""
        lock = self._locks.get(object_id)
        if lock is None:
            lock = self._locks[object_id] = asyncio.Lock()
        return lock

    async def ensure_open(self, record: SessionRecord) -> OpenSession:
        """Return a session with a sandbox; it is opened if need be.

        Raises:
            UnknownObject: The session was deleted.
            InvalidRequest: Isolation or network are no longer available here.
        """
        async with self.lock(record.object_id):
            if self._collection.find(record.object_id) is not record:
                raise UnknownObject("the session was deleted", code="session_not_found")
            return self._open.get(record.object_id) or await self.open(record)

    async def open(
        self,
        record: SessionRecord,
        files: Mapping[str, bytes | Content] | None = None,
        state: SavedState | None = None,
    ) -> OpenSession:
        """Open the sandbox of a session; the caller holds its lock.

        Args:
            record: The session.
            files: Input files.
            state: The saved state that it starts from; by default its disk.
        """
        environment = environment_root(self._context, record.owner, record.env_name)
        spec = PersistentSpec(
            limits=persistent_limits(self._context, record.owner, record.vcpu),
            network=NetworkMode(record.network_mode),
            files=sandbox_files(files or {}),
            work_disk=self.path(record) if self._durable else None,
            work_archive=state.work_archive if state else None,
            hot_image=state.hot_image if state else None,
            environment=environment,
            env={} if environment is None else environment_variables(),
        )
        sandbox = await open_persistent(self._context, record.isolation, spec)
        record.isolation = sandbox.backend
        processes = ProcessTable(sandbox, self._shares.of(record.owner))
        session = self._open[record.object_id] = OpenSession(
            sandbox, processes, has_environment=environment is not None
        )
        if spec.hot_image is not None:
            session.driver = shell_of(self._context, record.shell).take_over(sandbox)
        self._background.start(self._watch(record.object_id, sandbox))
        return session

    async def close(self, object_id: str) -> None:
        """Close the sandbox of a session, if it has one."""
        session = self._open.pop(object_id, None)
        if session is not None:
            session.close_programs()
            await session.sandbox.close()

    async def close_all(self) -> None:
        """Close every sandbox; disks in a durable folder stay."""
        await asyncio.gather(*map(self.close, list(self._open)), return_exceptions=True)

    def path(self, record: SessionRecord) -> Path:
        """Return where the disk of a session lies in a durable folder."""
        return self.folder / record.object_id

    async def remove_disk(self, record: SessionRecord) -> None:
        """Remove the disk of a session."""
        if self._durable:
            await run_long(remove_tree, self.path(record))

    async def sweep(self) -> None:
        """Remove the disks of sessions that were being made or deleted when an earlier process died."""
        if self._durable:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            await run_long(self._sweep)

    def _sweep(self) -> None:
        for path in self.folder.iterdir():
            if self._collection.find(path.name.partition(".")[0]) is None:
                remove_tree(path)

    async def _watch(self, object_id: str, sandbox: PersistentSandbox) -> None:
        """Forget a sandbox that ended by itself; the next use of the session opens a new one."""
        await sandbox.wait_ended()
        session = self._open.get(object_id)
        if session is not None and session.sandbox is sandbox:
            # Not its id, which is the permission to open its terminal.
            logger.warning("the sandbox of a session ended unexpectedly (%s)", sandbox.end_cause)
            if (record := self._collection.find(object_id)) is not None:
                record.reason = sandbox.end_cause
            with contextlib.suppress(Exception):
                await self.close(object_id)
