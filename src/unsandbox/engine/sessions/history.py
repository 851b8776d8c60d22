"""What was typed in a session, as far as it is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from unsandbox.engine.sessions.record import SessionRecord

KEPT_BYTES = 1 << 20


class History:
    """The last megabyte of what was typed; in a file, it outlives the sandbox and the server.

    Args:
        path: Where it lies; None keeps it in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = bytearray()
        if path is not None and path.exists():
            self._keep(path.read_bytes()[-KEPT_BYTES:])

    def note(self, text: str) -> None:
        """Add what was typed."""
        data = text.encode("utf-8", "surrogateescape")[:KEPT_BYTES]
        self._keep(data)
        if self._path is not None:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size > 2 * KEPT_BYTES:
                    os.ftruncate(fd, 0)
                    data = self.read()
                os.write(fd, data)
            finally:
                os.close(fd)

    def read(self) -> bytes:
        """Return it."""
        return bytes(self._kept[-KEPT_BYTES:])

    def remove(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _keep(self, data: bytes) -> None:
        # One array: as many objects as somebody types single keys would take fifty times the memory.
        self._kept += data
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]


class Histories:
    """The histories of sessions. Those of audited sessions lie beside their disks.

    Args:
        path: Returns where the disk of a session lies; None when the data folder is not durable.
    """

    def __init__(self, path: Callable[[SessionRecord], Path] | None) -> None:
        self._path = path
        self._known: dict[str, History] = {}

    def of(self, record: SessionRecord) -> History:
        """Return the history of a session."""
        history = self._known.get(record.object_id)
        if history is None:
            in_file = record.audit and self._path is not None
            path = self._path(record).with_suffix(".audit") if in_file and self._path is not None else None
            history = self._known[record.object_id] = History(path)
        return history

    def remove(self, record: SessionRecord) -> None:
        """Forget the history of a session, and remove its file."""
        self.of(record).remove()
        del self._known[record.object_id]
