"""Server-Sent Events (HTML Living Standard, 9.2): from pieces of a body, cut anywhere, to events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_MAX_LINE_BYTES = 512 << 20


class ServerEvent(NamedTuple):
    """One event. `id` is the last one that the server gave, of this event or of an earlier one."""

    event: str
    data: str
    id: str | None


class EventReader:
    r"""Takes the pieces of a body and gives the events that have become whole.

    Raises:
        ValueError: A line is longer than any that makes sense.

    Example:
        >>> reader = EventReader()
        >>> list(reader.feed(b"id: 7\nda")), list(reader.feed(b"ta: hi\n\n"))
        ([], [ServerEvent(event='message', data='hi', id='7')])
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._data: list[str] = []
        self._event = ""
        self.last_id: str | None = None

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Process a piece of the body, and yield the events that end in it."""
        self._rest_bytes += len(piece)
        self._rest.append(piece)
        if b"\n" not in piece:
            # Joined only when a line is whole: a result may hold files, and its line come in a thousand pieces.
            if self._rest_bytes > _MAX_LINE_BYTES:
                raise ValueError("a line of the event stream has no end")
            return
        *lines, rest = b"".join(self._rest).split(b"\n")
        self._rest, self._rest_bytes = [rest], len(rest)
        for line in lines:
            event = self._take(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            data, self._data = self._data, []
            event, self._event = self._event, ""
            return ServerEvent(event or "message", "\n".join(data), self.last_id) if data else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        return None
