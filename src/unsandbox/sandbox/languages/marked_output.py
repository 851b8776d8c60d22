"""Output of a shell, divided into that of single commands by a marker after each command."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable

from unsandbox.sandbox.spec import MIB, Captured

END = b"\x1e"
"""Begins a marker, and ends the exit code behind it."""
OUTPUT_BYTES = 10 * MIB
BETWEEN_BYTES = 1 * MIB
"""Stored bytes of the output that background programs write between two commands; the end of it is kept."""
_READ_BYTES = 65536
_LONGEST_CODE = 12
_BETWEEN_PAUSE_S = 0.01
_ANY_MARKER = re.compile(rb"\x1e[0-9a-f]{24} [0-9]+\x1e")


class MarkedOutput:
    """Divides one output stream at markers; output after a marker belongs to the next command.

    Attributes:
        done: The marker was found, or nothing more will come.
        code: The exit code behind the marker; None without a marker.
    """

    def __init__(self) -> None:
        self._tail = bytearray()
        self._kept = bytearray()
        self._total = 0
        self._marker = b""
        self.done = False
        self.code: int | None = None

    def expect(self, marker: bytes) -> None:
        """Begin with a command: its output ends at this marker."""
        self._marker, self.code = marker, None
        self._kept, self._total = bytearray(), 0
        self.done = False
        if self._tail:
            self.feed(b"")

    @property
    def unread_bytes(self) -> int:
        """Bytes that came and belong to no command yet."""
        return len(self._tail)

    def feed(self, data: bytes) -> None:
        """Process output of the shell."""
        self._tail += data
        if self.done:
            # Written by something in the background: kept for the next command, bounded in size.
            if self.unread_bytes > 2 * BETWEEN_BYTES:
                del self._tail[:-BETWEEN_BYTES]
            return
        while (at := self._tail.find(self._marker)) >= 0:
            code_at = at + len(self._marker)
            end = self._tail.find(END, code_at, code_at + _LONGEST_CODE)
            if end < 0 and len(self._tail) < code_at + _LONGEST_CODE:
                self._keep_first(at)
                return
            if end >= 0:
                code = bytes(self._tail[code_at:end]).strip()
                self.code = int(code) if code.isdigit() else 1
                self._keep_first(at)
                del self._tail[: end + 1 - at]
                self.done = True
                return
            # No exit code follows: a program that has found out its marker wrote it.
            self._keep_first(code_at)
        # The beginning of a marker may be at the end of the buffer.
        self._keep_first(max(0, len(self._tail) - len(self._marker)))

    def take(self, *, stale: bool = False) -> Captured:
        """Return the command's output.

        Args:
            stale: Leave out markers of an earlier command.
        """
        if not self.done or self.code is None:
            self._keep(self._tail)
            self._tail.clear()
        if stale and (kept := _ANY_MARKER.sub(b"", self._kept)) != self._kept:
            return Captured(kept, len(kept))
        return Captured(bytes(self._kept), self._total)

    def _keep_first(self, size: int) -> None:
        self._keep(self._tail[:size])
        del self._tail[:size]

    def _keep(self, data: bytes | bytearray) -> None:
        self._total += len(data)
        self._kept += data[: max(0, OUTPUT_BYTES - len(self._kept))]


class MarkedStream:
    """Reads one output stream of a shell from its pipe.

    Args:
        fd: The pipe, non-blocking; it stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self.output = MarkedOutput()
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._paused: asyncio.TimerHandle | None = None
        self._on_end: Callable[[MarkedStream], None] = lambda _: None

    def expect(self, marker: bytes, on_end: Callable[[MarkedStream], None]) -> None:
        """Begin with a command; `on_end` is called when its marker or the end of the pipe is read."""
        self._on_end = on_end
        self.output.expect(marker)
        self._go_on()
        if self.output.done:
            self._on_end(self)

    def stop(self) -> None:
        """Read no more."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _go_on(self) -> None:
        self.stop()
        self._reading = True
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        was_done = self.output.done
        if data:
            self.output.feed(data)
        else:
            self.stop()
            self.output.done = True
        if was_done and data:
            # Something in the background writes: bounded in speed.
            self.stop()
            self._paused = self._loop.call_later(_BETWEEN_PAUSE_S, self._go_on)
        elif self.output.done and not was_done:
            self._on_end(self)
