"""The output of a process, kept so that readers can ask for it from any position."""

from __future__ import annotations

import errno
import logging

from unsandbox.engine.workspace.shares import Share
from unsandbox.protocol.contents import Spool

logger = logging.getLogger("unsandbox.engine.workspace")

_MEMORY_BYTES = 1 << 14
_SEGMENT_BYTES = 1 << 20
_SEGMENTS = 2
"""Of a full log, besides the one that is dropped next: each takes a descriptor."""


class OutputLog:
    """Bytes with absolute positions: a small log is in memory, a larger one in unnamed files.

    Args:
        keep_bytes: How many bytes to keep.
        keep_first: Whether to keep the first ones. Otherwise the last ones are kept, in whole segments.
        share: What all logs of a key may take together. A log without room drops its first bytes, or ends.
    """

    def __init__(self, keep_bytes: int, *, keep_first: bool, share: Share) -> None:
        self._keep = keep_bytes
        self._share = share
        self._segment_bytes = max(_SEGMENT_BYTES, keep_bytes // _SEGMENTS)
        self._keep_first = keep_first
        self._segments: list[Spool] = []
        self._memory = bytearray()
        self._over = False
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
        if not data or self._over:
            return
        while not self._share.has_room(len(data)) and not self._keep_first and len(self._segments) > 1:
            self._drop_oldest()
        if not self._share.has_room(len(data)):
            self._over = True
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
                self._over = True
                end = self.start + sum(segment.size for segment in self._segments)
                self._share.used += end - self.end
                self.end = end
                return
        self.end += len(data)
        self._share.used += len(data)
        while (
            not self._keep_first and self._segments and self.kept_bytes - self._segments[0].size >= self._keep
        ):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self._segments.pop(0)
        self.start += oldest.size
        self._share.used -= oldest.size
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
        self._share.used -= self.kept_bytes
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
            if not self._segments or self._segments[-1].size >= self._segment_bytes:
                self._segments.append(Spool())
            segment = self._segments[-1]
            part = view[: self._segment_bytes - segment.size]
            segment.write(bytes(part))
            view = view[len(part) :]
