"""Types of the server's log."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unsandbox.protocol.bounds import Identifier, Search, Word
from unsandbox.protocol.models import WireModel

DEFAULT_LINES = 100
MAX_LINES = 10_000
DEFAULT_SINCE = "5m"
_SINCE = re.compile(r"([0-9]{1,9})([smhd]?)\Z")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class LogLine(WireModel, frozen=True, kw_only=True):
    """A line of the log with its source."""

    source: str | None = None
    """Part of the server that wrote the line."""
    line: str | None = None
    """Text of the line."""


class LogPage(WireModel, frozen=True, kw_only=True):
    """The answer of a log query, oldest line first."""

    sources: list[str] = []
    """The selected parts of the server."""
    count: int | None = None
    """Length of the list."""
    lines: list[LogLine | str] = []
    """The lines."""

    def __iter__(self) -> Iterator[LogLine | str]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


class LogQuery(WireModel, frozen=True, kw_only=True):
    """The request of `POST /paas/logs`; other styles send the same as query members."""

    source: Identifier | None = None
    lines: int | None = None
    since: Word | None = None
    grep: Search | None = None
    level: Word | None = None


def since_seconds(text: str) -> int:
    """Return the seconds of a duration such as `37s`, `5m`, `1h` or `1d`.

    Raises:
        ValueError: The text is not a duration.

    Example:
        >>> since_seconds("5m"), since_seconds("37s")
        (300, 37)
    """
    match = _SINCE.match(text.strip())
    if match is None:
        raise ValueError("since must be a number and a unit: 37s, 5m, 1h, 1d")
    return int(match[1]) * _UNIT_S[match[2]]
