"""Descriptors for sandboxes: anonymous files, input, pipes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Callable

from unsandbox.protocol.contents import Content, Slice, Spool

_PIPE_BYTES = 1 << 20


class DescriptorStack(contextlib.ExitStack):
    """Closes its descriptors together at the end of a `with` block; `pop_all` keeps them open."""

    def add(self, fd: int) -> int:
        """Add a descriptor, and return it."""
        self.callback(os.close, fd)
        return fd


def memory_file(data: bytes) -> int:
    """Return a descriptor of an anonymous file with the content `data`, positioned at its start."""
    fd = os.memfd_create("unsandbox", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def readable_file(data: bytes | Content) -> int:
    """Return a descriptor of a file with the content `data`, positioned at its start; large files are on disk.

    Raises:
        OSError: The disk is full.
    """
    if isinstance(data, bytes):
        return memory_file(data)
    if isinstance(data, Slice) and data.start == 0 and data.spool.size == len(data):
        spool = data.spool
    else:
        spool = Spool()
        for chunk in data.chunks():
            spool.write(chunk)
    # Not `dup`: that would share the position.
    return os.open(f"/proc/self/fd/{spool.fd}", os.O_RDONLY | os.O_CLOEXEC)


def input_file(data: bytes) -> int:
    """Return a read-only descriptor of a file with the content `data`."""
    if not data:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    fd = memory_file(data)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def pipe(uid: int | None) -> tuple[int, int]:
    """Return a pipe that the sandbox's user may also open by name (`/dev/stdout`).

    It holds up to 1 MiB, because programs that end before their output was read (`process.exit()` after
    `console.log`) lose the part that does not fit.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        # The kernel limits the total size of an ordinary user's pipes.
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    if uid is not None:
        os.fchown(write, uid, uid)
    return read, write


def set_window_size(fd: int, columns: int, rows: int) -> None:
    """Set the size of a terminal, in characters.

    Raises:
        OSError: It is not a terminal.
    """
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def readable(fd: int) -> None:
    """Wait until a descriptor is readable or at its end."""
    loop = asyncio.get_running_loop()
    await _called(fd, loop.add_reader, loop.remove_reader)


async def writable(fd: int) -> None:
    """Wait until a descriptor is writable or has no reader any more."""
    loop = asyncio.get_running_loop()
    await _called(fd, loop.add_writer, loop.remove_writer)


async def _called(
    fd: int, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object]
) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)
