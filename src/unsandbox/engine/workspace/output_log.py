"""The output of a process, kept so that readers can ask for it from any position."""

from __future__ import annotations

import errno
import logging

from unsandbox.protocol.contents import Spool

logger = logging.getLogger("unsandbox.engine.workspace")

_MEMORY_BYTES = 1 << 16
_SEGMENT_BYTES = 1 << 20


class OutputLog:
    """Bytes with absolute positions: a small log is in memory, a larger one in unnamed files.

    Args:
        keep_bytes: How many bytes to keep.
        keep_first: Whether to keep the first ones. Otherwise the last ones are kept, in whole segments.
    """

    def __init__(self, keep_bytes: int, *, keep_first: bool) -> None:
        self._keep = keep_bytes
        self._keep_first = keep_first
        self._segments: list[Spool] = []
        self._memory = bytearray()
        self._disk_full = False
        self.start = 0
        """Position of the first byte that is kept."""
        self.end = 0
        """Position behind the last byte that is kept."""
        self.total = 0
        """Bytes that were written."""

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept."""
        return self.end - self.start

    @property
    def truncated(self) -> bool:
        """Whether bytes are missing."""
        return self.start > 0 or self.end < self.total

    def append(self, data: bytes) -> None:
        """Add bytes. Bytes that do not fit are only counted."""
        self.total += len(data)
        if self._keep_first:
            data = data[: self._keep - self.end] if self.end == self.total - len(data) else b""
        if not data or self._disk_full:
            return
        if not self._segments and len(self._memory) + len(data) <= _MEMORY_BYTES:
            self._memory += data
        else:
            try:
                self._write(data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                logger.warning("the disk for temporary files is full; the output of a process is cut")
                self._disk_full = True
                self.end = self.start + sum(segment.size for segment in self._segments)
                return
        self.end += len(data)
        while (
            not self._keep_first and self._segments and self.kept_bytes - self._segments[0].size >= self._keep
        ):
            oldest = self._segments.pop(0)
            self.start += oldest.size
            oldest.close()

    def read(self, position: int, size: int) -> tuple[int, bytes]:
        """Return the position of the first byte and at most `size` bytes from `position` on.

        Older bytes that were dropped are skipped.
        """
        position = min(max(position, self.start), self.end)
        if not self._segments:
            at = position - self.start
            return position, bytes(self._memory[at : at + size])
        parts = []
        behind = self.start
        wanted = position
        for segment in self._segments:
            at = wanted - behind
            behind += segment.size
            if 0 <= at < segment.size and size:
                part = segment.read(at, min(size, segment.size - at))
                parts.append(part)
                size -= len(part)
                wanted += len(part)
        return position, b"".join(parts)

    def close(self) -> None:
        """Drop everything."""
        self.start = self.end
        self._memory.clear()
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    def _write(self, data: bytes) -> None:
        if self._memory:
            first = Spool()
            first.write(bytes(self._memory))
            self._segments.append(first)
            self._memory.clear()
        view = memoryview(data)
        while view:
            if not self._segments or self._segments[-1].size >= _SEGMENT_BYTES:
                self._segments.append(Spool())
            segment = self._segments[-1]
            part = view[: _SEGMENT_BYTES - segment.size]
            segment.write(bytes(part))
            view = view[len(part) :]
