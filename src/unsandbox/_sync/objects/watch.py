# Generated from src/unsandbox/_async/objects/watch.py by scripts/unasync.py; change that one.
"""A watch on a directory of a session."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from functools import partial
from types import TracebackType
from typing import Any, Self

from unsandbox._sync.connection import Connection
from unsandbox._sync.objects.process import ask
from unsandbox._sync.operations import CLEAN_UP_S
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.files import FileEvent, FileEvents

_WAIT_S = 60.0


class FileWatch:
    """Changes of the files in a directory of a session, from the beginning of a block on.

    Iterating over it yields `FileEvent`s as they come, until the directory is gone. A watch lasts for a minute
    without its client: `AsyncFiles.watch` with its `cursor` continues it, also in another process.

    Example:
        ```python
        with session.files.watch("src", recursive=True) as watch:
            session.files.write("src/main.py", "print(1)")
            for event in watch:
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

    def __enter__(self) -> Self:
        if self._position < 0:
            self._position = (self._ask(None, 0)).cursor or 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._connection.clean_up(self._end(), CLEAN_UP_S)

    def __iter__(self) -> Generator[FileEvent]:
        while not self._ended:
            for event in self.read(wait=_WAIT_S):
                yield event

    def read(self, *, wait: float | None = None) -> list[FileEvent]:
        """Return the next events, at most 1000.

        Args:
            wait: Seconds to wait if nothing has changed, at most 90.

        Raises:
            FileNotFoundError: The directory does not exist.
            NotADirectoryError: The path is not a directory.
            RateLimitError: The session has too many watches.
        """
        found = self._ask(None if self._position < 0 else self._position, wait)
        self._position = found.cursor or 0
        self._ended = bool(found.ended)
        return found.events

    def close(self) -> None:
        """End the watch. Further calls have no effect."""
        ask(self._connection, "file_unwatch", FileEvents, self._params, {"watch": self._name})

    def _ask(self, cursor: int | None, wait: float | None) -> FileEvents:
        members: dict[str, Any] = {
            "path": str(self._path),
            "watch": self._name,
            "recursive": self._recursive,
            "cursor": cursor,
            "wait": wait,
        }
        return ask(self._connection, "file_watch", FileEvents, self._params, members)

    def _end(self) -> Any:
        members = {"watch": self._name}
        return partial(
            ask, name="file_unwatch", model=FileEvents, params=self._params, members=members, urgent=True
        )
