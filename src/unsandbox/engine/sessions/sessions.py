"""Sessions: live sandboxes with a shell, for one key each, until deleted or idle for too long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from unsandbox.engine.background import Background
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.context import Context, Folder
from unsandbox.engine.errors import Conflict, InvalidRequest, UnknownObject
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.persistent.activity import Activity, steady_time
from unsandbox.engine.persistent.limits import (
    PersistentRecord,
    check_room,
    open_persistent,
    persistent_limits,
    remove_tree,
    reserved_by_all,
    reserved_by_one,
    sandbox_files,
    set_vcpu,
)
from unsandbox.engine.saved.sources import SavedState, SourceInfo
from unsandbox.engine.sessions.history import History
from unsandbox.engine.sessions.terminal import DEFAULT_SIZE, Terminal
from unsandbox.engine.store.objects import Collection, container_name, epoch, new_id
from unsandbox.protocol.contents import Content
from unsandbox.protocol.sessions import Session, SessionRequest
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.languages.shells import Shell, ShellDriver, find_shell
from unsandbox.sandbox.languages.table import UnknownLanguageError
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import Artifact, NetworkMode

logger = logging.getLogger("unsandbox.engine.sessions.sessions")

_MULTIPLEXERS = ("tmux", "screen")
AUDIT_FILE = "audit.log"


class SessionRecord(PersistentRecord, kw_only=True):
    """What is stored of a session."""

    shell: str
    base_vcpu: int
    ttl: int
    multiplexer: str | None = None
    name: str | None = None
    audit: bool = False
    frozen: bool = False


@dataclass(eq=False, slots=True)
class _Live:
    """What a session has while this process runs it."""

    sandbox: PersistentSandbox
    driver: ShellDriver | None = None
    terminal: Terminal | None = None
    busy: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A viewer's place at a terminal.

    Attributes:
        terminal: The terminal.
        lasting: Whether it outlives its viewers.
        live: The sandbox that it is in.
    """

    terminal: Terminal
    lasting: bool
    live: _Live


class Sessions:
    """All sessions of an engine.

    Args:
        context: What the parts of the engine share.
        folder: Where the disks of sessions lie.
    """

    kind = "session"

    def __init__(self, context: Context, folder: Folder) -> None:
        self._context = context
        self._folder = folder
        self._shelf: Collection[SessionRecord] = Collection(
            "session", SessionRecord, context.store, lambda item, name: item.container == name
        )
        self._live: dict[str, _Live] = {}
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._histories: dict[str, History] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._background = Background()
        self._activity = Activity(self._shelf, self._background)
        context.quotas.holders.append(lambda owner: reserved_by_all(context, owner, self._shelf.of(owner)))

    @property
    def _config(self) -> EngineConfig:
        return self._context.config

    async def start(self) -> None:
        """Take up the sessions that an earlier process left: their files are there, their processes are not."""
        for document in await self._shelf.load():
            document.frozen = False
            self._set_timer(document)
        if self._folder.durable:
            (self._folder.path / "sessions").mkdir(mode=0o700, exist_ok=True)
            await asyncio.to_thread(self._sweep)

    async def stop(self) -> None:
        """End every sandbox. In a lasting data folder the sessions themselves stay."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*(self._end_live(name) for name in list(self._live)), return_exceptions=True)
        await self._background.finish()

    def __len__(self) -> int:
        """How many there are, of all keys."""
        return len(self._shelf)

    def sandboxes(self) -> Iterator[tuple[str, PersistentSandbox]]:
        """Yield key and sandbox of every session that has one now."""
        for object_id, live in self._live.items():
            if (document := self._shelf.find(object_id)) is not None:
                yield document.owner, live.sandbox

    async def create(self, owner: str, request: SessionRequest, limit: int | None = None) -> Session:
        """Make a session; its sandbox runs when this returns.

        Args:
            owner: The key it belongs to.
            request: What the caller wants.
            limit: Sessions that the key may have; by default the engine's bound.

        Raises:
            InvalidRequest: An unknown shell, or isolation that cannot be had here.
            LimitReached: The key has as many sessions, or as much memory, as it may have.
            InsufficientStorage: It stores as much as it may.
        """
        self._context.quotas.check_cpu(owner)
        return await self._make(owner, request, None, None, limit)

    async def make_from(
        self,
        owner: str,
        request: SessionRequest,
        state: SavedState,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Session:
        """Make a session out of a saved state; see `Source.make_from`."""
        return await self._make(owner, request, state, object_id, limit)

    async def _make(
        self,
        owner: str,
        request: SessionRequest,
        state: SavedState | None,
        object_id: str | None,
        limit: int | None,
    ) -> Session:
        check_room(
            "session",
            len(self._shelf.of(owner)) + self._context.quotas.in_flight("session", owner),
            self._config.sessions_per_key if limit is None else limit,
        )
        wanted = reserved_by_one(self._context, owner, request.vcpu)
        with self._context.quotas.making("session", owner, wanted):
            return await self._make_one(owner, request, state, object_id)

    async def _make_one(
        self, owner: str, request: SessionRequest, state: SavedState | None, object_id: str | None
    ) -> Session:
        multiplexer = request.multiplexer or ("tmux" if request.tmux else "screen" if request.screen else None)
        if multiplexer not in (None, *_MULTIPLEXERS):
            raise InvalidRequest("multiplexer must be tmux or screen")
        files = input_files(request.input_files or [], self._config)
        now = time.time()
        document = SessionRecord(
            object_id=object_id or new_id("session"),
            owner=owner,
            created_at=now,
            container=container_name(),
            shell=self._shell(self._shell_name(request)).name,
            network_mode=request.network_mode,
            vcpu=request.vcpu,
            base_vcpu=request.vcpu,
            ttl=request.ttl,
            last_activity=steady_time(),
            multiplexer=multiplexer,
            name=request.name,
            audit=request.audit,
            isolation=self._context.quotas.isolation(owner, request.isolation),
        )
        # A deleted session that is made again waits until the old one has gone.
        async with self._opening_of(document.object_id):
            if self._shelf.find(document.object_id) is not None:
                raise Conflict("the session is there again already", code="session_exists")
            await self._open(document, files, state)
            try:
                await self._shelf.put(document)
            except BaseException:
                await self._end_live(document.object_id)
                await self._remove_disk(document)
                raise
        self._set_timer(document)
        return self.describe(document)

    def source(self, owner: str, name: str) -> SourceInfo:
        """Return what makes a session like this one again; see `Source.source`."""
        document = self._shelf.get(owner, name)
        request = SessionRequest(
            network_mode=document.network_mode,  # type: ignore[arg-type]
            ttl=document.ttl,
            shell=document.shell,
            multiplexer=document.multiplexer,
            vcpu=document.base_vcpu,
            audit=document.audit,
            name=document.name,
            isolation=document.isolation,  # type: ignore[arg-type]
        )
        return SourceInfo(document.object_id, document.container, document.isolation, request)

    @contextlib.asynccontextmanager
    async def lend(self, object_id: str) -> AsyncIterator[PersistentSandbox]:
        """Give the sandbox of a session; see `Source.lend`."""
        document = self._known(object_id)
        live = await self._ensure_live(document)
        with self._used(document, live):
            yield live.sandbox

    async def put_back(self, object_id: str, state: SavedState) -> None:
        """Replace the state of a session by a saved one; see `Source.put_back`."""
        document = self._known(object_id)
        if state.hot_image is not None:
            async with self._opening_of(object_id):
                await self._end_live(object_id)
                await self._open(document, {}, state)
        elif state.work_archive is not None:
            live = await self._ensure_live(document)
            with self._used(document, live):
                if live.driver is not None:
                    # What runs in it works on files that go away.
                    live.driver.close()
                async with live.lock:
                    live.driver = None
                    await live.sandbox.unfreeze()
                    await live.sandbox.replace_work(state.work_archive)
        document.frozen = False
        self._activity.touch(document)
        await self._shelf.update(document)

    def get(self, owner: str, name: str) -> Session:
        """Return a session by id or container name.

        Raises:
            UnknownObject: No such session of this key.
        """
        return self.describe(self._shelf.get(owner, name))

    def list_of(self, owner: str) -> list[Session]:
        """Return the sessions of a key, newest first."""
        return [self.describe(document) for document in self._shelf.of(owner)]

    async def delete(self, owner: str, name: str, audit: bool = False) -> tuple[Session, list[Artifact]]:
        """End a session; return it with what lay in `/tmp/artifacts`, and its history when it was audited."""
        document = self._shelf.get(owner, name)
        artifacts: list[Artifact] = []
        live = self._live.get(document.object_id)
        if live is not None:
            with contextlib.suppress(SandboxError):
                await live.sandbox.unfreeze()
                artifacts, _ = await live.sandbox.collect()
        history = self._history_of(document)
        if (audit or document.audit) and (typed := history.read()):
            artifacts.append(Artifact(AUDIT_FILE, typed))
        description = self.describe(document)
        await self._remove(document)
        return description, artifacts

    async def freeze(self, owner: str, name: str) -> Session:
        """Stop all processes of a session where they are."""
        document = self._shelf.get(owner, name)
        live = await self._ensure_live(document)
        await live.sandbox.freeze()
        document.frozen = True
        try:
            await self._shelf.update(document)
        except BaseException:
            document.frozen = False
            await live.sandbox.unfreeze()
            raise
        return self.describe(document)

    async def unfreeze(self, owner: str, name: str) -> Session:
        """Let the processes of a session go on."""
        document = self._shelf.get(owner, name)
        live = await self._ensure_live(document)
        await live.sandbox.unfreeze()
        document.frozen = False
        self._activity.touch(document)
        await self._shelf.update(document)
        return self.describe(document)

    async def set_vcpu(self, owner: str, name: str, vcpu: int | None) -> Session:
        """Give a session so many CPUs and the memory that belongs to them; None: as many as it began with.

        Raises:
            InvalidRequest: This machine cannot enforce it.
        """
        document = self._shelf.get(owner, name)
        live = await self._ensure_live(document)
        wanted = document.base_vcpu if vcpu is None else vcpu
        await set_vcpu(self._context, document, live.sandbox, wanted)
        document.vcpu = wanted
        self._activity.touch(document)
        await self._shelf.update(document)
        return self.describe(document)

    async def command(
        self,
        owner: str,
        name: str,
        command: str,
        timeout_s: float | None = None,
        files: dict[str, bytes | Content] | None = None,
    ) -> CommandOutcome:
        """Run one command in the session's live shell.

        Raises:
            Conflict: The session is frozen.
            LimitReached: The key has used up its CPU time.
            InvalidRequest: Its shell takes no one-shot commands.
        """
        document = self._shelf.get(owner, name)
        self._context.quotas.check_cpu(owner)
        if document.frozen:
            raise Conflict("the session is frozen; unfreeze it first", code="session_frozen")
        # Historical clients send a trailing newline.
        command = command.rstrip("\n")
        if "\0" in command:
            raise InvalidRequest("a command must not hold a NUL byte")
        live = await self._ensure_live(document)
        self._history_of(document).note(f"{epoch(time.time())} {command}\n")
        with self._used(document, live):
            try:
                if files:
                    await live.sandbox.put_files(sandbox_files(files))
                async with live.lock:
                    if live.driver is None or not live.driver.alive:
                        live.driver = await self._shell(document.shell).open_driver(live.sandbox)
                    return await live.driver.run(command, timeout_s)
            except ValueError as error:
                raise InvalidRequest(str(error)) from error

    @contextlib.contextmanager
    def _used(self, document: SessionRecord, live: _Live) -> Iterator[None]:
        """Keep a session from ending of idleness within the block."""
        live.busy += 1
        try:
            yield
        finally:
            live.busy -= 1
            self._activity.touch(document)

    async def terminal(self, session_id: str) -> Attachment:
        """Return a place at the terminal of a session, opened if need be; `leave_terminal` gives it up.

        Knowing the id is the permission: the protocol's terminal carries no signature.

        Raises:
            KeyError: No such session.
            Conflict: The session is frozen.
            LimitReached: Its key has used up its CPU time.
        """
        document = self._shelf.find(session_id)
        if document is None:
            raise KeyError(session_id)
        self._context.quotas.check_cpu(document.owner)
        if document.frozen:
            raise Conflict("the session is frozen; unfreeze it first", code="session_frozen")
        live = await self._ensure_live(document)
        async with live.lock:
            if live.terminal is None or live.terminal.exit_code is not None:
                process = await live.sandbox.spawn(
                    self._shell(document.shell).terminal_argv,
                    env={"TERM": "xterm-256color"},
                    terminal=DEFAULT_SIZE,
                )
                live.terminal = Terminal(process, lambda: self._activity.touch(document))
        live.busy += 1
        self._activity.touch(document)
        return Attachment(live.terminal, document.multiplexer is not None, live)

    def leave_terminal(self, session_id: str, visit: Attachment) -> None:
        """Take note that a viewer is gone; without a multiplexer the last one takes the shell along."""
        live = visit.live
        live.busy -= 1
        if (document := self._shelf.find(session_id)) is not None:
            self._activity.touch(document)
        if live.terminal is visit.terminal and not visit.terminal.viewers and not visit.lasting:
            live.terminal = None
            visit.terminal.close()

    def note_input(self, session_id: str, data: bytes) -> None:
        """Keep typed input of an audited session, and count it as activity."""
        document = self._shelf.find(session_id)
        if document is None:
            return
        self._activity.touch(document)
        if document.audit:
            self._history_of(document).note(data.decode("utf-8", "surrogateescape").replace("\r", "\n"))

    def describe(self, document: SessionRecord) -> Session:
        """Return what a client may see."""
        idle = steady_time() - document.last_activity
        return Session(
            session_id=document.object_id,
            container_name=document.container,
            name=document.name,
            shell=document.shell,
            status="frozen" if document.frozen else "running",
            remaining_ttl=max(0, int(document.ttl - idle)),
            network_mode=document.network_mode,
            vcpu=document.vcpu,
            memory_mb=persistent_limits(self._context, document.owner, document.vcpu).memory_bytes >> 20,
            boosted=document.vcpu > document.base_vcpu,
            created_at=epoch(document.created_at),
            last_activity=epoch(document.last_activity),
            isolation=document.isolation,
        )

    def _shell(self, name: str) -> Shell:
        try:
            return find_shell(name, self._context.languages.system)
        except LookupError as error:
            raise InvalidRequest(str(error), code="unknown_shell") from error

    def _shell_name(self, request: SessionRequest) -> str:
        if request.shell or not request.language:
            return request.shell or "bash"
        # `golang`, `py` and the like; a language that is not in the table may still be a shell.
        with contextlib.suppress(UnknownLanguageError):
            return self._context.languages.resolve(request.language).name
        return request.language

    def _known(self, object_id: str) -> SessionRecord:
        document = self._shelf.find(object_id)
        if document is None:
            raise UnknownObject(f"no session {object_id[:80]!r}", code="session_not_found")
        return document

    def _history_of(self, document: SessionRecord) -> History:
        history = self._histories.get(document.object_id)
        if history is None:
            kept = document.audit and self._folder.durable
            path = self._disk(document).with_suffix(".audit") if kept else None
            history = self._histories[document.object_id] = History(path)
        return history

    def _opening_of(self, object_id: str) -> asyncio.Lock:
        lock = self._opening.get(object_id)
        if lock is None:
            lock = self._opening[object_id] = asyncio.Lock()
        return lock

    async def _ensure_live(self, document: SessionRecord) -> _Live:
        async with self._opening_of(document.object_id):
            if self._shelf.find(document.object_id) is not document:
                raise UnknownObject("the session was deleted", code="session_not_found")
            live = self._live.get(document.object_id)
            if live is None:
                live = await self._open(document, {}, None)
            return live

    async def _open(
        self, document: SessionRecord, files: dict[str, bytes | Content], state: SavedState | None
    ) -> _Live:
        spec = PersistentSpec(
            limits=persistent_limits(self._context, document.owner, document.vcpu),
            network=NetworkMode(document.network_mode),
            files=sandbox_files(files),
            work_disk=self._disk(document) if self._folder.durable else None,
            work_archive=state.work_archive if state else None,
            hot_image=state.hot_image if state else None,
        )
        sandbox = await open_persistent(self._context, document.isolation, spec)
        document.isolation = sandbox.backend
        live = self._live[document.object_id] = _Live(sandbox)
        if spec.hot_image is not None:
            live.driver = self._shell(document.shell).take_over(sandbox)
        self._background.start(self._watch(document.object_id, sandbox))
        return live

    def _disk(self, document: SessionRecord) -> Path:
        return self._folder.path / "sessions" / document.object_id

    def _sweep(self) -> None:
        """Remove the disks of sessions that were being made or deleted when an earlier process died."""
        for path in (self._folder.path / "sessions").iterdir():
            if self._shelf.find(path.name.partition(".")[0]) is None:
                remove_tree(path)

    async def _watch(self, object_id: str, sandbox: PersistentSandbox) -> None:
        """Forget a sandbox that ended by itself; the next use of the session opens a new one."""
        await sandbox.wait_ended()
        live = self._live.get(object_id)
        if live is not None and live.sandbox is sandbox:
            # Not its id, which is the permission to open its terminal.
            logger.warning("the sandbox of a session ended by itself")
            await self._end_live(object_id)

    async def _end_live(self, object_id: str) -> None:
        live = self._live.pop(object_id, None)
        if live is None:
            return
        if live.terminal is not None:
            live.terminal.close()
        if live.driver is not None:
            live.driver.close()
        await live.sandbox.close()

    async def _remove(self, document: SessionRecord) -> None:
        timer = self._timers.pop(document.object_id, None)
        if timer is not None:
            timer.cancel()
        await self._shelf.drop(document)
        async with self._opening_of(document.object_id):
            await self._end_live(document.object_id)
            self._activity.forget(document.object_id)
            if (history := self._histories.pop(document.object_id, None)) is not None:
                history.remove()
            await self._remove_disk(document)

    async def _remove_disk(self, document: SessionRecord) -> None:
        if self._folder.durable:
            await asyncio.to_thread(remove_tree, self._disk(document))

    def _set_timer(self, document: SessionRecord) -> None:
        delay = max(0.0, document.last_activity + document.ttl - steady_time())
        loop = asyncio.get_running_loop()
        self._timers[document.object_id] = loop.call_later(delay + 0.05, self._check_idle, document)

    def _check_idle(self, document: SessionRecord) -> None:
        if self._shelf.find(document.object_id) is None:
            return
        live = self._live.get(document.object_id)
        if live is not None and live.busy > 0:
            document.last_activity = steady_time()
        if steady_time() - document.last_activity < document.ttl:
            self._set_timer(document)
            return
        logger.info("%s: deleted after %d s without traffic", document.container, document.ttl)
        self._background.start(self._remove(document))
