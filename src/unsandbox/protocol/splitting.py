"""Takes large files out of a JSON text as it arrives: their bytes go to a file, a mark stays in their place."""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from unsandbox.protocol.contents import SPOOLED, Content, Overflow, Spool

_START = re.compile(rb'"content(?:_base64)?"[ \t\r\n]*:[ \t\r\n]*"')
_LONGEST_START = 64
"""A start with more white space than that is not seen, and its file stays in memory."""
_END = re.compile(rb'(?:\\[nr])*"')
_LONGEST_END = 16
_HELD_BACK = 4
_MOST = 2000
"""Starts that are looked at: a text that is nothing else must not keep a processor busy."""
_LISTS = frozenset({"input_files", "artifacts"})
_MEMBERS = frozenset({"content", "content_base64"})


class Parted(NamedTuple):
    """A JSON text and the contents that were taken out of it, by their marks."""

    body: bytes
    marks: Mapping[str, Content]


class Splitter:
    """Is fed a JSON text in pieces; keeps it but for the long base64 texts of members that hold files.

    It only relies on one property of JSON: a quote inside a text is escaped. So a match is the beginning of
    such a member, or the end of another member's name; in that case `restored` undoes the replacement.

    Args:
        kept: Collects the rest of the text; by default it is held in memory.

    Attributes:
        marks: The contents that were taken out, by their marks in the text.
    """

    def __init__(self, kept: Overflow | None = None) -> None:
        self.marks: dict[str, Content] = {}
        # A random mark, which the author of the text cannot know.
        self._mark = f"content-{os.urandom(16).hex()}-"
        self._kept = Overflow(sys.maxsize) if kept is None else kept
        self._rest = b""
        self._spool: Spool | None = None
        self._started = 0
        self._run: bytearray | None = None
        """Base64 of the current member that is not decoded yet; None outside of a member."""
        self._from = 0
        self._spooling = False

    def feed(self, data: bytes) -> None:
        """Add the next piece.

        Raises:
            OSError: The disk is full.
        """
        self._rest = self._take(self._rest + data, last=False)

    def finish(self) -> bytes:
        """Return the remaining text and the contents, after the last piece."""
        self._kept += self._take(self._rest, last=True)
        self._rest = b""
        kept = bytes(self._kept)
        self._kept.close()
        return kept

    def drop(self) -> None:
        """Release everything now: the text was refused."""
        self.marks.clear()
        self._kept.close()
        if self._spool is not None:
            self._spool.close()

    def _take(self, data: bytes, *, last: bool) -> bytes:
        """Process some bytes; return the last ones, which need the following bytes to be understood."""
        at = 0
        while True:
            if self._run is None:
                found = _START.search(data, at) if self._started < _MOST else None
                if found is None:
                    whole = len(data) if last or self._started >= _MOST else max(at, len(data) - _LONGEST_START)
                    self._kept += data[at:whole]
                    return data[whole:]
                self._kept += data[at : found.end()]
                at = found.end()
                self._run = bytearray()
                self._started += 1
            stop = _run_end(data, at)
            if not self._add(data[at:stop]):
                self._give_back()
                at = stop
                continue
            at = stop
            end = _END.match(data, at)
            if end is None and not last and len(data) - at < _LONGEST_END:
                return data[at:]
            if end is None or not self._take_out():
                self._give_back()
            else:
                at = end.end() - 1

    def _add(self, run: bytes) -> bool:
        """Decode base64 of the current member; return False if it is invalid. The end waits for its padding."""
        pending = self._run
        if pending is None:
            return False
        pending += run
        if not self._spooling and len(pending) > SPOOLED:
            self._spool = self._spool or Spool()
            self._from, self._spooling = self._spool.size, True
        size = (len(pending) - _HELD_BACK) // 4 * 4
        return not self._spooling or size <= 0 or self._decode(size, b"=")

    def _decode(self, size: int, forbidden: bytes = b"\0") -> bool:
        if self._run is None or self._spool is None or size % 4:  # The strict mode forgives a `=` too many.
            return False
        encoded = self._run[:size]
        try:
            decoded = binascii.a2b_base64(encoded, strict_mode=True)
        except binascii.Error:
            return False
        if encoded.endswith(forbidden):
            return False
        self._spool.write(decoded)
        del self._run[:size]
        return True

    def _take_out(self) -> bool:
        """End the present member with a mark, if all of it was decoded."""
        if not self._spooling or self._spool is None or not self._decode(len(self._run or b"")):
            return False
        mark = f"{self._mark}{len(self.marks)}"
        self.marks[mark] = self._spool.since(self._from)
        self._kept += mark.encode()
        self._run, self._spooling = None, False
        return True

    def _give_back(self) -> None:
        """End the present member with all that was taken of it: it is short, or not base64."""
        if self._spooling and self._spool is not None:
            for chunk in self._spool.since(self._from).chunks():
                self._kept += base64.b64encode(chunk)
            self._spool.cut(self._from)
        self._kept += bytes(self._run or b"")
        self._run, self._spooling = None, False


def _run_end(data: bytes, start: int) -> int:
    """Return where a text in quotes, or its part before an escape, ends."""
    quote = data.find(b'"', start)
    end = len(data) if quote < 0 else quote
    escape = data.find(b"\\", start, end)
    return end if escape < 0 else escape


class Mark(str):
    """The mark of a content that was taken out, with a reference to the content.

    Attributes:
        content: The content.
    """

    __slots__ = ("content",)

    content: Content

    @classmethod
    def of(cls, text: str, content: Content) -> Mark:
        """Make one."""
        mark = cls(text)
        mark.content = content
        return mark


def restored(value: Any, marks: Mapping[str, Content], *, whole: bool = False) -> Any:
    """Return a decoded JSON value with base64 in the places of marks.

    Args:
        value: The decoded value.
        marks: The contents, by their marks.
        whole: Also in lists of files; else a `Mark` stays there, for `fill_in`.
    """
    if isinstance(value, str):
        content = marks.get(value)
        return value if content is None else base64.b64encode(bytes(content)).decode("ascii")
    if isinstance(value, list):
        return [restored(item, marks, whole=whole) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: [_marked(file, marks) for file in item]
        if name in _LISTS and isinstance(item, list) and not whole
        else restored(item, marks, whole=whole)
        for name, item in value.items()
    }


def _marked(file: Any, marks: Mapping[str, Content]) -> Any:
    if not isinstance(file, dict):
        return restored(file, marks)
    return {
        name: Mark.of(item, marks[item])
        if name in _MEMBERS and isinstance(item, str) and item in marks
        else restored(item, marks)
        for name, item in file.items()
    }
