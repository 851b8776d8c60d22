"""The output of a running job, which any number of followers can read from any position."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from unsandbox.protocol.events import STREAMS, Cursor

if TYPE_CHECKING:
    from unsandbox.engine.jobs.records import JobRecord
    from unsandbox.protocol.models import Job

_PIECE_BYTES = 32 * 1024


class OutputBuffer:
    """Receives output (an `OutputSink`) and wakes every follower.

    It reads them where the sandbox keeps them for the result (a `SharingSink`).
    """

    def __init__(self) -> None:
        self._kept = {name: bytearray() for name in STREAMS}
        self._shared: set[str] = set()
        self._changed = asyncio.Event()

    def __call__(self, stream: str, data: bytes) -> None:
        """Add a piece of output."""
        if stream not in self._shared:
            self._kept[stream] += data
        self.wake()

    def share(self, stream: str, kept: bytearray) -> None:
        """Use the bytes of a stream where they are."""
        self._kept[stream] = kept
        self._shared.add(stream)

    def wake(self) -> None:
        """Wake every follower."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Return when there is more output or the job has ended."""
        await self._changed.wait()

    def pieces(self, cursor: Cursor) -> list[tuple[str, bytes, Cursor]]:
        """Return the output after a cursor: stream, bytes and the cursor after them."""
        return pieces_behind(
            cursor, *(bytes(self._kept[name][at:]) for name, at in zip(STREAMS, cursor, strict=True))
        )


def pieces_behind(cursor: Cursor, *rests: bytes) -> list[tuple[str, bytes, Cursor]]:
    """Cut the rest of each stream into pieces, each with the cursor after it."""
    found = []
    for name, rest in zip(STREAMS, rests, strict=True):
        for start in range(0, len(rest), _PIECE_BYTES):
            piece = rest[start : start + _PIECE_BYTES]
            cursor = cursor._replace(**{name: getattr(cursor, name) + len(piece)})
            found.append((name, piece, cursor))
    return found


async def follow(
    record: JobRecord, cursor: Cursor, idle_s: float
) -> AsyncIterator[tuple[str, bytes, Cursor] | Job | None]:
    """Yield the output of a job from a cursor on, as it is written, and finally its result.

    Args:
        record: The job.
        cursor: The position to start at.
        idle_s: None is yielded after each `idle_s` seconds without output.
    """
    while True:
        output = record.output
        pieces = output.pieces(cursor) if output is not None else []
        for piece in pieces:
            yield piece
            cursor = piece[2]
        if record.result is not None:
            break
        if output is not record.output or (output is not None and output.pieces(cursor)):
            continue  # More came while the caller was busy with the last piece.
        try:
            async with asyncio.timeout(idle_s):
                await (output.changed() if output is not None else record.started.wait())
        except TimeoutError:
            yield None
    result = record.result
    for piece in pieces_behind(
        cursor, result.stdout_bytes[cursor.stdout :], result.stderr_bytes[cursor.stderr :]
    ):
        yield piece
    yield result
