"""The standard input of a process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os

from unsandbox.sandbox.host.descriptors import writable

_WRITE_BYTES = 1 << 16
_END_OF_INPUT = b"\x04"
"""Ctrl-D: at the beginning of a line, a terminal takes it for the end."""


class StandardInput:
    """Writes to a pipe or terminal, one caller after the other.

    Args:
        over: Set when the process has ended.
    """

    def __init__(self, over: asyncio.Event) -> None:
        self._over = over
        self._fd = -1
        self._terminal = self._closing = False
        self._writing = asyncio.Lock()
        self.count = 0
        """Bytes written."""

    def open(self, fd: int, *, terminal: bool = False) -> None:
        """Take over the descriptor."""
        self._fd = fd
        self._terminal = terminal

    def close(self) -> None:
        """Close it, after a write that is under way."""
        self._closing = True
        if not self._writing.locked():
            self._close()

    async def write(self, data: bytes, offset: int | None, *, eof: bool) -> None:
        """Write; returns when the program has taken the bytes.

        Args:
            data: The bytes.
            offset: Their position; bytes before the end of what was written are skipped. None: the end.
            eof: Whether the input ends here.

        Raises:
            BrokenPipeError: The program does not read its standard input, or the input has ended.
            ValueError: Bytes before `offset` are missing.
        """
        async with self._writing:
            position = self.count if offset is None else offset
            if position > self.count:
                raise ValueError(f"the standard input has {self.count} bytes, not {position}")
            view = memoryview(data)[self.count - position :]
            try:
                while view:
                    view = view[await self._write_some(view) :]
                if eof:
                    self._end()
            finally:
                if self._closing:
                    self._close()

    async def _write_some(self, view: memoryview) -> int:
        while not self._closing and self._fd >= 0:
            try:
                count = os.write(self._fd, view[:_WRITE_BYTES])
            except BlockingIOError:
                await self._wait()
                continue
            self.count += count
            return count
        raise BrokenPipeError(errno.EPIPE, "the standard input of the process is closed")

    async def _wait(self) -> None:
        """Wait until the program reads or has ended."""
        waits = {asyncio.ensure_future(writable(self._fd)), asyncio.ensure_future(self._over.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _end(self) -> None:
        if self._terminal and self._fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self._fd, _END_OF_INPUT)
        else:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
