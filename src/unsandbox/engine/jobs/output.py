"""The output of a running job, kept so that anybody may follow it from any byte on."""

from __future__ import annotations

import asyncio

from unsandbox.protocol.events import STREAMS, Cursor

_PIECE_BYTES = 32 * 1024


class OutputBuffer:
    """Receives output (an `OutputSink`) and wakes who waits for more.

    The sandbox keeps the same bytes for the result; this copy goes when the job has ended.
    """

    def __init__(self) -> None:
        self._kept = {name: bytearray() for name in STREAMS}
        self._changed = asyncio.Event()

    def __call__(self, stream: str, data: bytes) -> None:
        """Take a piece."""
        self._kept[stream] += data
        self.wake()

    def wake(self) -> None:
        """Wake everybody who waits."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Return when more has come or the job has ended."""
        await self._changed.wait()

    def pieces(self, cursor: Cursor) -> list[tuple[str, bytes, Cursor]]:
        """Return what lies behind a cursor: stream, bytes and the cursor behind them."""
        return pieces_behind(
            cursor, *(bytes(self._kept[name][at:]) for name, at in zip(STREAMS, cursor, strict=True))
        )


def pieces_behind(cursor: Cursor, *rests: bytes) -> list[tuple[str, bytes, Cursor]]:
    """Cut what remains of each stream into pieces, each with the cursor behind it."""
    found = []
    for name, rest in zip(STREAMS, rests, strict=True):
        for start in range(0, len(rest), _PIECE_BYTES):
            piece = rest[start : start + _PIECE_BYTES]
            cursor = cursor._replace(**{name: getattr(cursor, name) + len(piece)})
            found.append((name, piece, cursor))
    return found
