"""Watches on directories of one sandbox: programs inside that report changes, and what they reported."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from unsandbox.engine.background import Background
from unsandbox.engine.errors import Conflict, LimitReached
from unsandbox.engine.workspace.guest_program import GuestProgram, refusal_of
from unsandbox.engine.workspace.waiting import Connected, wait_until
from unsandbox.protocol import codec
from unsandbox.protocol.files import FileEvent, FileEvents, FileWatchRequest
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.guest.watch import MAX_EVENTS
from unsandbox.sandbox.persistent_spec import PersistentSandbox

MOST_WATCHES = 16
"""Watches of one session; each has a program."""
LEASE_S = 60.0
"""A watch that no client asks for so long ends."""
_MOST_EVENTS = 4096
_MOST_CHARACTERS = 1 << 20
_ANSWER_EVENTS = 1000
_ANSWER_CHARACTERS = 1 << 18
_START_S = 60.0
_MOST_JSON = 2 << 20


class Watches:
    """The watches of one sandbox.

    Args:
        sandbox: The sandbox.
        background: Follows the programs.
    """

    def __init__(self, sandbox: PersistentSandbox, background: Background) -> None:
        self._sandbox = sandbox
        self._background = background
        self._watches: dict[str, Watch] = {}
        self._closed = False

    async def events(self, request: FileWatchRequest, connected: Connected) -> FileEvents:
        """Return events behind a position, or wait for some. The first request begins the watch.

        Args:
            request: The directory, the position and how long to wait.
            connected: Tells whether the client is still there.

        Raises:
            Conflict: The watch has another directory.
            LimitReached: The session has too many watches.
            RequestError: The directory is missing, is none, or has too many files.
        """
        watch = self._watches.get(request.watch)
        if watch is not None and watch.is_broken_at(request.cursor):
            self.end(request.watch)
            watch = None
        if watch is None:
            watch = self._begin(request)
        if (watch.path, watch.recursive) != (request.path, request.recursive):
            raise Conflict(f"the watch {request.watch!r} has another directory", code="watch_exists")
        with watch.in_use():
            await wait_until(watch.begun.is_set, watch.begun.wait, _START_S, connected)
            if watch.failed is not None and not watch.worked:
                self.end(request.watch)
                raise watch.failed
            cursor = watch.start if request.cursor is None else request.cursor
            watch.note_seen(cursor)
            await wait_until(lambda: watch.has_news(cursor), watch.changed, request.wait, connected)
        return watch.answer(cursor)

    def end(self, name: str) -> None:
        """End a watch; one that does not exist is no error."""
        watch = self._watches.pop(name, None)
        if watch is not None:
            watch.close()

    def close(self) -> None:
        """End all watches. A request for one of them begins it again."""
        for name in list(self._watches):
            self.end(name)

    def shut(self) -> None:
        """End all watches for good."""
        self._closed = True
        self.close()

    def _begin(self, request: FileWatchRequest) -> Watch:
        if self._closed:
            raise SandboxError("the sandbox of the session has ended")
        if len(self._watches) >= MOST_WATCHES:
            raise LimitReached(
                f"the session has {MOST_WATCHES} watches already; end one of them", code="watch_limit_reached"
            )
        watch = Watch(request.path, request.recursive, request.cursor)
        watch.on_unused = lambda: self._unused(request.watch, watch)
        self._watches[request.watch] = watch
        watch.following = self._background.start(watch.follow(self._sandbox))
        return watch

    def _unused(self, name: str, watch: Watch) -> None:
        if self._watches.get(name) is watch:
            self.end(name)


class Watch:
    """One watch.

    Args:
        path: The directory.
        recursive: Whether directories below it are watched too.
        cursor: The position from which a client continues a watch that is not there any more.
    """

    def __init__(self, path: str, recursive: bool, cursor: int | None) -> None:
        self.path = path
        self.recursive = recursive
        self.start = cursor or 0
        """Position of the first event that is kept."""
        self.begun = asyncio.Event()
        self.failed: Exception | None = None
        self.worked = False
        """Whether it has begun; a program that ends later is started again."""
        self.following: asyncio.Task[None] | None = None
        self.on_unused = lambda: None
        self._seen = self.start
        self._events: deque[FileEvent] = deque()
        self._characters = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._read = asyncio.Event()
        self._users = 0
        self._lease: asyncio.TimerHandle | None = None
        if cursor is not None:
            self._add(FileEvent(type="lost", path=path, name="."))

    @property
    def end(self) -> int:
        """Position behind the last event."""
        return self.start + len(self._events)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the watch from ending for lack of a client within the block, and for some time afterwards."""
        self._users += 1
        self._stop_lease()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self.following is not None:
                self._lease = asyncio.get_running_loop().call_later(LEASE_S, self.on_unused)

    def has_news(self, cursor: int) -> bool:
        """Return whether an answer need not wait."""
        return cursor != self.end or self._ended or self.failed is not None

    def is_broken_at(self, cursor: int | None) -> bool:
        """Return whether its program has failed, and a client at a position has seen everything before."""
        return self.failed is not None and cursor == self.end

    async def changed(self) -> None:
        """Return when there are new events, or there will be none."""
        await self._changed.wait()

    def note_seen(self, cursor: int) -> None:
        """Note that a client has the events before a position; the oldest of them are dropped when need be."""
        self._seen = max(self._seen, min(cursor, self.end))
        self._read.set()

    def answer(self, cursor: int) -> FileEvents:
        """Return the events behind a position; if they are not kept any more, the first one is `lost`."""
        events: list[FileEvent] = []
        if not self.start <= cursor <= self.end:
            cursor = self.start
            events.append(FileEvent(type="lost", path=self.path, name="."))
        characters = 0
        for number in range(cursor - self.start, min(len(self._events), cursor - self.start + _ANSWER_EVENTS)):
            events.append(self._events[number])
            cursor += 1
            characters += _size(events[-1])
            if characters > _ANSWER_CHARACTERS:
                break
        return FileEvents(events=events, cursor=cursor, ended=self._ended and cursor == self.end)

    def close(self) -> None:
        """End it."""
        self._stop_lease()
        self._ended = True
        if self.following is not None:
            self.following.cancel()
        self._wake()

    async def follow(self, sandbox: PersistentSandbox) -> None:
        """Run the program and keep what it reports."""
        program = None
        try:
            program = await GuestProgram.start(sandbox, "watch")
            answer, _ = await program.ask({"path": self.path, "recursive": self.recursive})
            while True:
                self.failed = refusal_of(answer)
                if self.failed is not None:
                    return
                for event in _events_in(answer):
                    self._add(event)
                self.worked = True
                self.begun.set()
                if answer.get("ended") is True:
                    self._ended = True
                    return
                self._wake()
                await self._make_room()
                answer, _ = await program.receive(most_json=_MOST_JSON)
        except ValueError:
            self.failed = SandboxError("the watch of the session sent an invalid answer")
        except (SandboxError, OSError) as error:
            self.failed = error
        finally:
            if program is not None:
                program.close()
            self.begun.set()
            self._wake()

    async def _make_room(self) -> None:
        """Wait until clients have seen enough; meanwhile, the program waits too and misses nothing."""
        while self.end - self._seen > _MOST_EVENTS or self._characters > _MOST_CHARACTERS:
            while self._events and self.start < self._seen:
                self._characters -= _size(self._events.popleft())
                self.start += 1
                if len(self._events) <= _MOST_EVENTS and self._characters <= _MOST_CHARACTERS:
                    return
            self._read.clear()
            await self._read.wait()

    def _add(self, event: FileEvent) -> None:
        self._events.append(event)
        self._characters += _size(event)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _stop_lease(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None


def _events_in(answer: dict[str, Any]) -> list[FileEvent]:
    """Return the events of an answer.

    Raises:
        ValueError: It is none of our program.
    """
    events = answer.get("events")
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise ValueError("no list of events")
    return codec.from_wire({"events": events}, FileEvents).events


def _size(event: FileEvent) -> int:
    return len(event.path or "") + len(event.name or "") + len(event.old_path or "") + 32
