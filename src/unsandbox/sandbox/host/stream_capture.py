"""Reads one output stream of a sandbox: keeps the beginning, counts the rest, and detects floods."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import termios
from collections.abc import Callable
from typing import cast

from unsandbox.protocol.contents import LARGE
from unsandbox.sandbox.spec import Captured, OutputSink, SharingSink

_CHUNK = 1 << 16
_SPLICE = 1 << 20
_ROUNDS = 8
"""Reads per wake-up, so that one program does not block the event loop."""


class StreamCapture:
    """Reads a pipe on the event loop until its last writer is gone."""

    def __init__(  # noqa: PLR0913 - keyword-only, and made in one place
        self,
        name: str,
        fd: int,
        *,
        keep_bytes: int,
        flood_bytes: int,
        discard_fd: int,
        sink: OutputSink | None,
        on_flood: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._fd = fd
        self._keep = keep_bytes
        self._flood = flood_bytes
        self._discard = discard_fd
        self._sink = sink
        self._on_flood = on_flood
        self._on_end = on_end
        # One array, because an object for each write of a single byte would take forty times the memory.
        self._kept = bytearray()
        if isinstance(sink, SharingSink):
            sink.share(name, self._kept)
        self._total = 0
        self._flooded = False
        self.muted = False
        """Whether the sink does not see what comes."""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    @property
    def ended(self) -> bool:
        """Whether every writer is gone and all output was read."""
        return self._fd < 0

    @property
    def total_bytes(self) -> int:
        """Number of bytes read so far, including dropped ones."""
        return self._total

    def result(self) -> Captured:
        """Return the output captured so far."""
        # Nothing is added to an ended stream, so that a large one need not be copied.
        whole = self.ended and len(self._kept) > LARGE
        return Captured(cast("bytes", self._kept) if whole else bytes(self._kept), self._total)

    def take(self) -> Captured:
        """Return what was captured so far, and begin anew; what comes from now on goes to the sink too."""
        taken = self.result()
        self._kept.clear()
        self._total, self.muted = 0, False
        return taken

    def close(self) -> None:
        """Stop reading; later output is lost."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._sink, self._on_flood = None, _do_nothing

    def read_now(self) -> None:
        """Read all that lies in the pipe now, but nothing that is written meanwhile."""
        if self._fd < 0:
            return
        lying = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, lying)
        until = self._total + lying[0]
        self._readable()
        # One wake-up reads less than a full pipe.
        while self._fd >= 0 and self._total < until:
            self._readable()

    def _readable(self) -> None:
        for _ in range(_ROUNDS):
            try:
                count = self._discard_some() if self._can_discard() else self._read_some()
            except BlockingIOError:
                break
            if count == 0:
                self.close()
                on_end, self._on_end = self._on_end, _do_nothing
                on_end()
                return
        if self._total > self._flood and not self._flooded:
            self._flooded = True
            self._on_flood()

    def _can_discard(self) -> bool:
        return len(self._kept) >= self._keep

    def _discard_some(self) -> int:
        try:
            count = os.splice(self._fd, self._discard, _SPLICE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            count = len(os.read(self._fd, _CHUNK))
        self._total += count
        return count

    def _read_some(self) -> int:
        data = os.read(self._fd, _CHUNK)
        if not data:
            return 0
        # Before the sink, which may raise.
        self._total += len(data)
        part = data[: self._keep - len(self._kept)]
        if part:
            self._kept += part
            if self._sink is not None and not self.muted:
                self._sink(self._name, part)
        return len(data)


def _do_nothing() -> None:
    pass
