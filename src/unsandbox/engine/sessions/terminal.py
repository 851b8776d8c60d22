"""A terminal in a live sandbox that several viewers may share."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable

from unsandbox.sandbox.host.descriptors import set_window_size
from unsandbox.sandbox.persistent_spec import RunningProcess

DEFAULT_SIZE = (80, 24)
SCROLLBACK_BYTES = 256 * 1024
_READ_BYTES = 65536
_VIEWER_BACKLOG_BYTES = 4 << 20
_MAX_CELLS = 1000
MOST_VIEWERS = 32
_INPUT_BACKLOG_BYTES = 1 << 20


class Viewer:
    """One reader of a terminal. Ends when the terminal does, or when it falls too far behind.

    Args:
        replay: What was written before, shown first.
    """

    def __init__(self, replay: bytes) -> None:
        # One array: as many objects as a program writes single bytes would take forty times the memory.
        self._waiting = bytearray(replay)
        self._event = asyncio.Event()
        self.over = False
        self.lagging = False
        if replay:
            self._event.set()

    @property
    def backlog_bytes(self) -> int:
        """Bytes that it has not read yet."""
        return len(self._waiting)

    def feed(self, data: bytes) -> None:
        """Take what the terminal wrote."""
        if self.over:
            return
        self._waiting += data
        if self.backlog_bytes > _VIEWER_BACKLOG_BYTES:
            self.lagging = self.over = True
            self._waiting = bytearray()
        self._event.set()

    def end(self) -> None:
        """There is nothing more to come."""
        self.over = True
        self._event.set()

    async def read(self) -> bytes:
        """Return what has come; empty when nothing more will."""
        await self._event.wait()
        data, self._waiting = bytes(self._waiting), bytearray()
        if not self.over:
            self._event.clear()
        return data


class Terminal:
    """Reads a program's terminal, keeps the last of it, and passes it to every viewer.

    Args:
        process: A program with a terminal; this object owns it.
        on_end: Called once when the program has ended.
    """

    def __init__(self, process: RunningProcess, on_end: Callable[[], None]) -> None:
        if process.terminal_fd is None:
            raise ValueError("the program has no terminal")
        self._process = process
        self._fd: int | None = process.terminal_fd
        self._on_end = on_end
        self._viewers: set[Viewer] = set()
        self._scrollback = bytearray()
        self._input: deque[memoryview] = deque()
        self._input_bytes = 0
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.exit_code: int | None = None
        self._loop.add_reader(self._fd, self._read)
        self._waiting = asyncio.create_task(self._wait())

    @property
    def viewers(self) -> int:
        """How many look at it now."""
        return len(self._viewers)

    @property
    def scrollback(self) -> bytes:
        """The last that was written, at most `SCROLLBACK_BYTES`."""
        return bytes(self._scrollback[-SCROLLBACK_BYTES:])

    def attach(self, *, replay: bool) -> Viewer:
        """Add a viewer, who sees the scrollback first when `replay` is set."""
        viewer = Viewer(self.scrollback if replay else b"")
        if self._fd is None:
            viewer.end()
        self._viewers.add(viewer)
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """Remove a viewer."""
        self._viewers.discard(viewer)

    def write(self, data: bytes) -> None:
        """Type: what the terminal does not take at once is kept for later."""
        if self._fd is None or not data:
            return
        self._input.append(memoryview(data))
        self._input_bytes += len(data)
        self._write_some()

    async def drain(self) -> None:
        """Return when so little waits to be typed that more may come."""
        while self._fd is not None and self._input_bytes > _INPUT_BACKLOG_BYTES:
            self._room.clear()
            await self._room.wait()

    def resize(self, columns: int, rows: int) -> None:
        """Set the window size; values that make no sense mean 80 by 24."""
        if self._fd is None:
            return
        if not (0 < columns <= _MAX_CELLS and 0 < rows <= _MAX_CELLS):
            columns, rows = DEFAULT_SIZE
        with contextlib.suppress(OSError):
            set_window_size(self._fd, columns, rows)

    def close(self) -> None:
        """End the program (as if the line was hung up) and every viewer."""
        self._process.kill(1)
        self._process.kill(9)
        self._end_streams()
        self._waiting.cancel()

    async def _wait(self) -> None:
        self.exit_code = await self._process.wait()
        # What it wrote last may still be in the terminal.
        self._read()
        self._end_streams()
        self._on_end()

    def _read(self) -> None:
        while self._fd is not None:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # EIO: every program has let go of the terminal.
            if not data:
                self._stop_reading()
                return
            self._keep(data)
            for viewer in list(self._viewers):
                viewer.feed(data)
            if len(data) < _READ_BYTES:
                return

    def _keep(self, data: bytes) -> None:
        self._scrollback += data
        if len(self._scrollback) > 2 * SCROLLBACK_BYTES:
            del self._scrollback[:-SCROLLBACK_BYTES]

    def _write_some(self) -> None:
        while self._input and self._fd is not None:
            try:
                sent = os.write(self._fd, self._input[0])
            except BlockingIOError:
                self._loop.add_writer(self._fd, self._write_some)
                return
            except OSError:
                self._input.clear()
                self._input_bytes = 0
                break
            self._input_bytes -= sent
            rest = self._input.popleft()[sent:]
            if rest:
                self._input.appendleft(rest)
        self._room.set()
        if self._fd is not None:
            self._loop.remove_writer(self._fd)

    def _stop_reading(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)

    def _end_streams(self) -> None:
        self._stop_reading()
        self._fd = None
        self._room.set()
        self._process.close()
        for viewer in self._viewers:
            viewer.end()
