"""A watch on a directory of a session."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from functools import partial
from types import TracebackType
from typing import Any, Self

from unsandbox._async.connection import Connection
from unsandbox._async.objects.process import ask
from unsandbox._async.operations import CLEAN_UP_S
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.files import FileEvent, FileEvents

_WAIT_S = 60.0


class AsyncFileWatch:
    """Changes of the files in a directory of a session, from the beginning of a block on.

    Iterating over it yields `FileEvent`s as they come, until the directory is gone. A watch lasts for a minute
    without its client: `AsyncFiles.watch` with its `cursor` continues it, also in another process.

    Example:
        ```python
        async with session.files.watch("src", recursive=True) as watch:
            await session.files.write("src/main.py", "print(1)")
            async for event in watch:
                print(event.type, event.name)  # create main.py
                break
        ```
    """

    __module__ = "unsandbox"

    def __init__(
        self, connection: Connection, session_id: str, path: str, recursive: bool, cursor: str | None
    ) -> None:
        self._connection = connection
        self._params = {"id": session_id}
        self._path = path
        self._recursive = recursive
        self._name, self._position = f"w{secrets.token_hex(8)}", -1
        self._ended = False
        if cursor is not None:
            name, _, position = cursor.rpartition("-")
            if not name or not position.isdecimal():
                raise InvalidRequestError("this is not the cursor of a watch")
            self._name, self._position = name, int(position)

    @property
    def cursor(self) -> str:
        """Position behind the last event that was returned."""
        return f"{self._name}-{max(self._position, 0)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"

    async def __aenter__(self) -> Self:
        if self._position < 0:
            self._position = (await self._ask(None, 0)).cursor or 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self._connection.clean_up(self._end(), CLEAN_UP_S)

    async def __aiter__(self) -> AsyncGenerator[FileEvent]:
        while not self._ended:
            for event in await self.read(wait=_WAIT_S):
                yield event

    async def read(self, *, wait: float | None = None) -> list[FileEvent]:
        """Return the next events, at most 1000.

        Args:
            wait: Seconds to wait if nothing has changed, at most 90.

        Raises:
            FileNotFoundError: The directory does not exist.
            NotADirectoryError: The path is not a directory.
            RateLimitError: The session has too many watches.
        """
        found = await self._ask(None if self._position < 0 else self._position, wait)
        self._position = found.cursor or 0
        self._ended = bool(found.ended)
        return found.events

    async def close(self) -> None:
        """End the watch. Further calls have no effect."""
        await ask(self._connection, "file_unwatch", FileEvents, self._params, {"watch": self._name})

    async def _ask(self, cursor: int | None, wait: float | None) -> FileEvents:
        members: dict[str, Any] = {
            "path": str(self._path),
            "watch": self._name,
            "recursive": self._recursive,
            "cursor": cursor,
            "wait": wait,
        }
        return await ask(self._connection, "file_watch", FileEvents, self._params, members)

    def _end(self) -> Any:
        members = {"watch": self._name}
        return partial(
            ask, name="file_unwatch", model=FileEvents, params=self._params, members=members, urgent=True
        )
