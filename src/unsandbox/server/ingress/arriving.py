"""The bytes of the request that arrives on a connection, kept in case that another process must answer it."""

from __future__ import annotations

from aiohttp import StreamReader

LONGEST_HANDED_OVER = 1 << 20
_HEAD_END = b"\r\n\r\n"


class Arriving:
    """Keeps the bytes of one request and of those behind it, as long as it is known where it begins.

    The parser does not tell where a request ends. Wrong bytes would be answered in another request's place, so
    nothing is kept unless the last piece ended with the end of a request.

    Attributes:
        number: Of the request on its connection, from 1 on.
    """

    def __init__(self) -> None:
        self.number = 1
        self._kept: bytearray | None = bytearray()
        self._between = True
        """Whether the pieces so far end where a request ends."""
        self._last = b""
        self._fresh = False
        self._fed = self._base = 0

    def __len__(self) -> int:
        return len(self._kept or b"")

    def add(self, data: bytes, number: int, *, in_body: bool) -> None:
        """Take a piece before it is parsed.

        Args:
            data: The piece.
            number: Number of the next request whose head is not complete.
            in_body: Whether the body of the request before it is not complete.
        """
        if self._kept is None and self._between and not in_body and data:
            self._kept, self.number = bytearray(), number
        if self._kept is not None and len(self._kept) <= LONGEST_HANDED_OVER:
            self._kept += data
        self._last = (self._last + data[-len(_HEAD_END) :])[-len(_HEAD_END) :]
        self._fresh = bool(data)
        if in_body:
            self._fed += len(data)

    def parsed(self, body: StreamReader | None, last: int, *, new: int, in_body: bool, all_read: bool) -> None:
        """Note the state behind a piece.

        Args:
            body: Of the last request whose head is complete.
            last: Number of that request.
            new: Heads that the piece completed.
            in_body: Whether a body was incomplete before the piece.
            all_read: Whether the parser holds nothing back.
        """
        if body is None or not (self._fresh or new or in_body):
            self._between = self._between and not self._fresh
            return
        if new:
            self._fed, self._base = 0, body.total_bytes
        at_end = self._last == _HEAD_END
        if not body.is_eof():
            self._between = False
        elif new == 1 and body.total_bytes:
            # Head and body came in one piece.
            kept = self._kept if self._kept is not None and self.number == last else b""
            self._between = at_end or len(kept) == kept.find(_HEAD_END) + len(_HEAD_END) + body.total_bytes
        elif in_body and not new:
            self._between = at_end or self._fed == body.total_bytes - self._base
        else:
            self._between = at_end
        self._between = self._between and all_read

    def take(self, number: int) -> bytes | None:
        """Return all bytes from the beginning of a request on, and keep no more of it.

        Returns:
            None when they are not known, or too many. Bytes of a later request are not touched.
        """
        if number < self.number:
            return None
        kept, self._kept = self._kept, None
        if kept is None or number != self.number or len(kept) > LONGEST_HANDED_OVER:
            return None
        return bytes(kept)

    def forget(self, *, for_good: bool = False) -> None:
        """Keep nothing of this request; `for_good`: nor of later ones, since bytes passed by."""
        self._kept = None
        if for_good:
            self._between, self._last = False, b""
