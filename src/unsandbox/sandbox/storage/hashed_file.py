"""New files that are hashed and synced to the disk while they are being written."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from unsandbox.sandbox.persistent_spec import HashedBytes
from unsandbox.sandbox.spec import MIB

_PIECE = MIB // 4
"""Minimum number of bytes for which the thread is woken."""
_PIECES_AT_ONCE = 8
"""Maximum number of pieces that wait in memory."""
_FLUSH_EVERY = 8 * MIB
_SYNC_FILE_RANGE_WRITE = 2

_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class HashedFile:
    """A new file that a separate thread hashes and writes, so that its producer does not wait for hash or disk.

    Use it in a `with` block, from one thread.

    Args:
        path: Path of the file.

    Raises:
        FileExistsError: The file exists.
        OSError: The file cannot be created.

    Example:
        >>> with HashedFile(folder / "new") as file:
        ...     file.write(b"bytes")
        ...     hashed = file.finish()
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._flushed = 0
        self._small = bytearray()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unsandbox-file")
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        os.close(self._fd)

    def write(self, data: bytes) -> int:
        """Queue bytes for writing; return their number.

        Raises:
            OSError: The disk was full or failed while earlier bytes were written.
        """
        if len(data) >= _PIECE and not self._small:
            self._hand_over(data)
        else:
            self._small += data
            if len(self._small) >= _PIECE:
                self._hand_over_small()
        return len(data)

    def flush(self) -> None:
        """Do nothing: a piece is written when it is full, and the last one by `finish`."""

    def finish(self) -> HashedBytes:
        """Write the rest; the content is durable when this returns, though its name in the folder may not be.

        Raises:
            OSError: The disk is full or failed.
        """
        self._hand_over_small()
        while self._writing:
            self._writing.popleft().result()
        os.fsync(self._fd)
        return HashedBytes(self._sha256.hexdigest(), self._size)

    def _hand_over_small(self) -> None:
        piece, self._small = self._small, bytearray()
        self._hand_over(piece)

    def _hand_over(self, piece: bytes | bytearray) -> None:
        while self._writing and (self._writing[0].done() or len(self._writing) >= _PIECES_AT_ONCE):
            self._writing.popleft().result()
        self._writing.append(self._thread.submit(self._write, piece))

    def _write(self, piece: bytes | bytearray) -> None:
        self._sha256.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._size += len(piece)
        if self._size - self._flushed >= _FLUSH_EVERY:
            # Start writing to the disk now, so that fsync has less to wait for; fsync reports errors.
            _sync_file_range(self._fd, self._flushed, self._size - self._flushed, _SYNC_FILE_RANGE_WRITE)
            self._flushed = self._size
