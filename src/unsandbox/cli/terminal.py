"""Shows a session's terminal in this terminal: raw mode, resizing, and restoring the settings at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from unsandbox.errors import ConnectionFailedError

if TYPE_CHECKING:
    from unsandbox import AsyncClient
    from unsandbox._async.objects.terminal import AsyncTerminal

_READ_BYTES = 4096


async def show_terminal(client: AsyncClient, session_id: str, screen: TextIO) -> AsyncTerminal:
    """Connect this terminal to a session's until the shell or the connection ends.

    If standard input is not a terminal, its content is typed into the session's terminal.

    Args:
        client: The client of the session.
        session_id: The session.
        screen: The stream for its output.

    Returns:
        The closed terminal; `exited` tells whether its shell ended.
    """
    columns, rows = _size()
    async with client.terminal(session_id, columns=columns, rows=rows) as terminal:
        with _raw_mode(), _on_resize(terminal):
            typing = asyncio.create_task(_type(terminal))
            try:
                async for data in terminal:
                    screen.buffer.write(data)
                    screen.buffer.flush()
            finally:
                typing.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionFailedError):
                    await typing
        return terminal


async def _type(terminal: AsyncTerminal) -> None:
    """Forward the input; the end of piped input is sent as Ctrl-D.

    The end of a terminal is a hang-up: it ends this program and is not forwarded, so that the remote shell
    survives it.
    """
    loop, keys = asyncio.get_running_loop(), asyncio.Queue[bytes]()
    fd = sys.stdin.fileno()
    typed = sys.stdin.isatty()

    def read() -> None:
        try:
            data = os.read(fd, _READ_BYTES)
        except OSError:
            data = b""
        keys.put_nowait(data)
        if not data:
            loop.remove_reader(fd)

    try:
        loop.add_reader(fd, read)
    except PermissionError:
        # epoll refuses regular files, which are always readable.
        data = await asyncio.to_thread(sys.stdin.buffer.read)
        keys.put_nowait(data)
        keys.put_nowait(b"")
    try:
        while data := await keys.get():
            await terminal.write(data)
        if typed:
            # SIGHUP was ignored (nohup), or it would have ended this program before the end could be read.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGHUP)
        await terminal.write(b"\x04")
    finally:
        loop.remove_reader(fd)


def _size() -> os.terminal_size:
    """Return the size of this terminal, found through any of the three standard streams."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno())
    return shutil.get_terminal_size()


@contextlib.contextmanager
def _raw_mode() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        # The default would discard input that was typed ahead.
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _on_resize(terminal: AsyncTerminal) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def resized() -> None:
        task = loop.create_task(terminal.resize(*_size()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
