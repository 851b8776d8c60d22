"""Contents that are too large for memory: their place in a file, and texts that are streamed from them.

`Pieces` knows its length and yields itself part by part, each file read and encoded on its way. What takes such
a text apart again at the other end is in `splitting`.
"""

from __future__ import annotations

import base64
import io
import os
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

LARGE = 1 << 20
"""Bytes of a body above which it is sent and received part by part."""
SPOOLED = 1 << 16
"""Bytes of a file above which it is not held in memory."""
CHUNK = 3 << 16
"""Bytes read at a time; divisible by 3, so that the base64 of chunks, joined, is that of the whole."""
_DISK = Path("/var/tmp")  # noqa: S108 - files without a name


class Content(ABC):
    """Bytes that can be read as often as needed, in chunks."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many they are."""

    @abstractmethod
    def chunks(self) -> Iterator[bytes]:
        """Yield them, from the first to the last; all but the last chunk are `CHUNK` long."""

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} bytes>"


class Held(Content):
    """Bytes in memory, which are not copied.

    Args:
        data: The bytes; not to be changed.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data).cast("B")

    def __len__(self) -> int:
        return len(self._view)

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        for start in range(0, len(self._view), CHUNK):
            yield bytes(self._view[start : start + CHUNK])


class Spool:
    """An unnamed file, which is removed with this object in any case.

    It is in the folder `TMPDIR`, by default /var/tmp, which is on a disk, while /tmp may be in memory.

    Attributes:
        fd: Its descriptor; other readers must not rely on its position.
        size: Bytes in it.
    """

    def __init__(self) -> None:
        folder = None if os.environ.get("TMPDIR") or not os.access(_DISK, os.W_OK) else _DISK
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            self.fd = os.dup(file.fileno())
        self.size = 0
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, os.close, self.fd)

    def close(self) -> None:
        """Release the file now, even if the object is still referenced; it cannot be used any more."""
        with self._lock:
            # -1 from then on: a thread that still writes must not meet another file that got the number.
            self._close()
            self.fd = -1

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OSError: The disk is full.
        """
        view = memoryview(data)
        with self._lock:
            os.lseek(self.fd, self.size, os.SEEK_SET)
            while view:
                written = os.write(self.fd, view)
                view = view[written:]
                self.size += written

    def cut(self, size: int) -> None:
        """Remove everything after the first `size` bytes."""
        with self._lock:
            os.ftruncate(self.fd, size)
            self.size = size

    def read(self, start: int, size: int) -> bytes:
        """Return some of its bytes.

        Raises:
            OSError: It cannot be read.
        """
        parts = []
        with self._lock:
            os.lseek(self.fd, start, os.SEEK_SET)
            while size and (part := os.read(self.fd, size)):
                parts.append(part)
                size -= len(part)
        if size:
            raise OSError("a temporary file is shorter than it was")
        return b"".join(parts)

    def since(self, start: int) -> Slice:
        """Return the content from a position to the current end."""
        return Slice(self, start, self.size - start)


class Slice(Content):
    """A part of a spool, which lives as long as any part of it is wanted.

    Attributes:
        spool: The spool.
        start: Position in the file.
    """

    def __init__(self, spool: Spool, start: int, size: int) -> None:
        self.spool = spool
        self.start = start
        self._size = size

    def __len__(self) -> int:
        return self._size

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        end = self.start + self._size
        for start in range(self.start, end, CHUNK):
            yield self.spool.read(start, min(CHUNK, end - start))


class Overflow:
    """Bytes that are collected: in memory while they are few, in a file without a name when they are many.

    Args:
        in_memory: Bytes that are held in memory at most.

    Example:
        >>> text = Overflow(4)
        >>> text += b"hello, "
        >>> text += b"world"
        >>> bytes(text), len(text)
        (b'hello, world', 12)
    """

    def __init__(self, in_memory: int = SPOOLED) -> None:
        self._in_memory = in_memory
        self._memory = bytearray()
        self._spool: Spool | None = None

    def __len__(self) -> int:
        return len(self._memory) + (0 if self._spool is None else self._spool.size)

    def __iadd__(self, data: bytes) -> Self:
        self._memory += data
        if len(self._memory) > self._in_memory:
            self._spool = self._spool or Spool()
            self._spool.write(bytes(self._memory))
            self._memory.clear()
        return self

    def __bytes__(self) -> bytes:
        spooled = b"" if self._spool is None else self._spool.read(0, self._spool.size)
        return spooled + self._memory

    def close(self) -> None:
        """Release the file now, with its content."""
        self._memory.clear()
        if self._spool is not None:
            self._spool.close()


class ChunkReader(io.RawIOBase):
    """Chunks as a file object, for libraries that want one.

    Args:
        chunks: The chunks.

    Attributes:
        failure: The error while reading them, if any; a library may hide it in another error.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.failure: Exception | None = None

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        try:
            while not self._rest and (chunk := next(self._chunks, None)) is not None:
                self._rest = memoryview(chunk)
        except Exception as error:
            self.failure = error
            raise
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def base64_length(size: int) -> int:
    """Return the length of the base64 of a number of bytes."""
    return (size + 2) // 3 * 4


class Written(Content):
    """A content that is inserted into a text as it is, not as base64.

    Args:
        content: The content.
    """

    def __init__(self, content: Content) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def chunks(self) -> Iterator[bytes]:
        """Yield it."""
        return self._content.chunks()


class Pieces:
    """A text of bytes and, between them, the base64 of contents; made anew each time that it is read.

    Args:
        parts: The bytes and contents that it consists of, in order.

    Attributes:
        parts: The same.
    """

    def __init__(self, parts: Sequence[bytes | Content]) -> None:
        self.parts = parts
        self._size = sum(
            len(part) if isinstance(part, bytes | Written) else base64_length(len(part)) for part in parts
        )

    def __len__(self) -> int:
        return self._size

    def chunks(self) -> Iterator[bytes]:
        """Yield the text from the first byte to the last.

        Raises:
            OSError: A file cannot be read any more, or has changed.
        """
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            elif isinstance(part, Written):
                yield from part.chunks()
            else:
                for chunk in part.chunks():
                    yield base64.b64encode(chunk)


Text = bytes | Pieces
"""A body: in memory where it is small."""


def chunks_of(data: bytes | Content | Pieces) -> Iterator[bytes]:
    """Yield bytes part by part, wherever they are."""
    return iter((data,)) if isinstance(data, bytes) else data.chunks()
