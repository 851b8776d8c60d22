"""The log of a service's program: on disk, bounded, with positions at which readers can continue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from unsandbox.sandbox.spec import MIB

_SUFFIX = ".log"
_READ_BYTES = 16 * 1024
"""Number of bytes that a follower reads at once; their lines are sent before other tasks have a turn."""
LONGEST_LINE = 64 * 1024
"""Followers receive a longer line in pieces."""


class ServiceLog:
    """One log, in segments that are named by the position of their first byte; the oldest are dropped.

    Positions count every byte that was ever written, also those that were dropped since. One process at a time
    writes. `append` and `follow` belong to an event loop, `tail` may be called in any thread.

    Args:
        folder: Folder of the segments, which is created if it does not exist.
        segment_bytes: Size at which a new segment begins.
        segments: How many are kept.
    """

    def __init__(self, folder: Path, segment_bytes: int = 4 * MIB, segments: int = 4) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments = segments
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        last = max(self._starts(), default=0)
        self._start = last
        self._file: BinaryIO | None = None
        path = self._path(last)
        self.end = last + (path.stat().st_size if path.exists() else 0)
        """Position after the last byte."""
        self._readers: set[asyncio.Future[None]] = set()
        self._closed = False

    async def append(self, data: bytes) -> None:
        """Add to the end.

        Raises:
            OSError: The disk is full or failed; nothing more than a part of `data` is lost.
        """
        await asyncio.to_thread(self._write, data)
        self._wake()

    def close(self) -> None:
        """End all followers and close the file."""
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None
        self._wake()

    def tail(self, lines: int | None) -> tuple[bytes, int]:
        """Return a number of last lines (all stored ones if None), and the position after them."""
        end, data = self.end, bytearray()
        for start in sorted(self._starts()):
            if start < end:
                # A segment may be dropped while it is read.
                with contextlib.suppress(FileNotFoundError):
                    data += self._path(start).read_bytes()[: end - start]
        if lines is None:
            return bytes(data), end
        cut = len(data) - 1 if data.endswith(b"\n") else len(data)
        for _ in range(lines):
            cut = data.rfind(b"\n", 0, cut)
            if cut < 0:
                break
        return bytes(data[cut + 1 :]) if lines else b"", end

    async def follow(self, position: int, idle_s: float) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield whole lines as they come, each with the position after it; nothing after `idle_s` without.

        Lines come without their line feed. Lines that were dropped before they could be read are skipped.
        Ends when the log is closed; text without a line feed is then the last line.

        Args:
            position: The position to start at.
            idle_s: Seconds.
        """
        rest = b""
        while True:
            start, data = await asyncio.to_thread(self._read, position + len(rest))
            if start != position + len(rest):
                position, rest = start, b""
            if not data:
                if self._closed:
                    if rest:
                        yield [(position + len(rest), rest)]
                    return
                if not await self._more(position + len(rest), idle_s):
                    yield []
                continue
            *complete, rest = (rest + data).split(b"\n")
            lines = []
            for line in complete:
                position += len(line) + 1
                lines.append((position, line))
            while len(rest) >= LONGEST_LINE:
                position += LONGEST_LINE
                lines.append((position, rest[:LONGEST_LINE]))
                rest = rest[LONGEST_LINE:]
            if lines:
                yield lines

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:020d}{_SUFFIX}"

    def _starts(self) -> list[int]:
        try:
            names = [path.stem for path in self._folder.iterdir() if path.suffix == _SUFFIX]
        except FileNotFoundError:
            return []
        return [int(name) for name in names if name.isdigit()]

    def _write(self, data: bytes) -> None:
        while data and not self._closed:
            filled = self.end - self._start
            room = self._segment_bytes - filled
            # A segment ends with a line where it can.
            cut = len(data) if len(data) <= room else data.rfind(b"\n", 0, max(0, room)) + 1
            if not cut:
                if filled:
                    self._next_segment()
                    continue
                cut = room
            if self._file is None:
                self._file = self._path(self._start).open("ab", buffering=0)
            written = self._file.write(data[:cut]) or 0
            self.end += written
            full, data = cut < len(data), data[written:]
            if full and written == cut:
                self._next_segment()

    def _next_segment(self) -> None:
        if self._file is not None:
            self._file.close()
        self._start = self.end
        self._file = self._path(self._start).open("ab", buffering=0)
        for old in sorted(self._starts())[: -self._segments]:
            self._path(old).unlink(missing_ok=True)

    def _read(self, position: int) -> tuple[int, bytes]:
        """Return some bytes at a position, or at the next stored one, and the position where they begin."""
        end = self.end
        while True:
            starts = sorted(self._starts())
            if position >= end or not starts:
                return position, b""
            position = max(position, starts[0])
            segment = max(start for start in starts if start <= position)
            try:
                with self._path(segment).open("rb") as file:
                    file.seek(position - segment)
                    data = file.read(min(_READ_BYTES, end - position))
            except FileNotFoundError:
                continue
            if data:
                return position, data
            position = min((start for start in starts if start > position), default=end)

    async def _more(self, position: int, idle_s: float) -> bool:
        """Wait until there is something after a position or the log is closed; return False when time is up."""
        if self.end > position or self._closed:
            return True
        changed = asyncio.get_running_loop().create_future()
        self._readers.add(changed)
        try:
            async with asyncio.timeout(idle_s):
                await changed
        except TimeoutError:
            return False
        finally:
            self._readers.discard(changed)
        return True

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
