"""The latest events of each key, line by line. Never code, output or secrets."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from unsandbox.engine.errors import InvalidRequest
from unsandbox.protocol.logs import DEFAULT_SINCE, LogQuery, since_seconds

KEPT_LINES = 2_000
"""Of each key."""
KEPT_KEYS = 200
"""Keys whose lines are kept; those that had none for longest leave first."""
_BEHIND_LINES = 1_000
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        time: Unix seconds.
        source: `api` or `engine`.
        level: One of `LEVELS`.
        owner: The key it concerns.
        text: The line itself.
    """

    time: float
    source: str
    level: str
    owner: str
    text: str

    @property
    def line(self) -> str:
        """The line with its time (UTC) and level."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.time))
        return f"{stamp} {self.level.upper()} {self.text}"


_LEVELS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}


@functools.cache
def _logger(source: str) -> logging.Logger:
    return logging.getLogger(f"unsandbox.{source}")


class LogBook:
    """Keeps the last lines of each key in memory, passes every line to `logging`, and lets readers follow."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, deque[Entry]] = OrderedDict()
        self._followers: dict[str, set[asyncio.Queue[Entry | None]]] = {}

    def note(self, source: str, owner: str, text: str, level: str = "info") -> None:
        """Add a line. A line feed in it cannot forge a second one."""
        entry = Entry(time.time(), source, level, owner, text.replace("\r", "\\r").replace("\n", "\\n"))
        self._lines_of(owner).append(entry)
        _logger(source).log(_LEVELS[level], "%s", entry.text)
        followers = self._followers.get(owner, set())
        for follower in list(followers):
            if follower.qsize() >= _BEHIND_LINES:
                # The follower is too slow: end it; its reader continues with `since`.
                followers.discard(follower)
                follower.put_nowait(None)
            else:
                follower.put_nowait(entry)

    def read(self, owner: str, query: LogQuery, lines: int) -> list[Entry]:
        """Return the last lines of an owner that fit, oldest first.

        Raises:
            InvalidRequest: `since` or `level` is invalid.
        """
        _check_level(query)
        try:
            oldest = time.time() - since_seconds(query.since or DEFAULT_SINCE)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        mine = self._entries.get(owner, ())
        return [entry for entry in mine if entry.time >= oldest and _fits(entry, owner, query)][-lines:]

    async def follow(self, owner: str, query: LogQuery, idle_s: float) -> AsyncIterator[Entry | None]:
        """Yield lines as they are noted; None when there was none for `idle_s` seconds. Ends when too slow."""
        queue: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._followers.setdefault(owner, set()).add(queue)
        try:
            while True:
                try:
                    async with asyncio.timeout(idle_s):
                        entry = await queue.get()
                except TimeoutError:
                    yield None
                    continue
                if entry is None:
                    return
                if _fits(entry, owner, query):
                    yield entry
        finally:
            mine = self._followers.get(owner, set())
            mine.discard(queue)
            if not mine:
                self._followers.pop(owner, None)

    def _lines_of(self, owner: str) -> deque[Entry]:
        mine = self._entries.get(owner)
        if mine is None:
            if len(self._entries) >= KEPT_KEYS:
                self._entries.popitem(last=False)
            mine = self._entries[owner] = deque(maxlen=KEPT_LINES)
        self._entries.move_to_end(owner)
        return mine

    def close(self) -> None:
        """End every follower."""
        for followers in self._followers.values():
            for follower in followers:
                follower.put_nowait(None)


def _check_level(query: LogQuery) -> None:
    if query.level is not None and query.level.lower() not in LEVELS:
        raise InvalidRequest(f"level must be one of {', '.join(LEVELS)}")


def _fits(entry: Entry, owner: str, query: LogQuery) -> bool:
    return (
        entry.owner == owner
        and query.source in (None, "", "all", entry.source)
        and (query.level is None or entry.level == query.level.lower())
        # A plain search, because a caller's pattern could take for ever.
        and (not query.grep or query.grep in entry.text)
    )
