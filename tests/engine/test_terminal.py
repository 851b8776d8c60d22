"""A terminal that viewers share, on a real pseudo-terminal of this machine."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess

import pytest

from unsandbox.engine.sessions.terminal import SCROLLBACK_BYTES, Terminal, Viewer


class HostProcess:
    """A shell on a terminal, with the interface of a process in a live sandbox."""

    stdin_fd = stdout_fd = stderr_fd = None

    def __init__(self, *argv: str) -> None:
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        self.terminal_fd: int | None = master
        self._process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )
        os.close(slave)

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait)

    def kill(self, signal_number: int = 9) -> None:
        self._process.send_signal(signal_number)

    def close(self) -> None:
        if self.terminal_fd is not None:
            os.close(self.terminal_fd)
            self.terminal_fd = None


async def read_until(viewer: Viewer, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(10):
        while wanted not in seen:
            data = await viewer.read()
            assert data, f"ended after {seen!r}"
            seen += data
    return seen


async def test_two_viewers_see_the_same_and_a_late_one_what_was_before():
    terminal = Terminal(HostProcess("cat"), lambda: None)
    first, second = terminal.attach(replay=False), terminal.attach(replay=False)
    terminal.write(b"hello\n")
    assert await read_until(first, b"hello\r\nhello") == await read_until(second, b"hello\r\nhello")
    late = terminal.attach(replay=True)
    assert b"hello" in await late.read()
    terminal.detach(second)
    assert terminal.viewers == 2
    terminal.close()
    assert await first.read() == b""


@pytest.mark.parametrize(("asked", "got"), [((132, 43), b"43 132"), ((0, 0), b"24 80"), ((9999, 1), b"24 80")])
async def test_the_window_has_the_size_that_was_asked_for_or_a_usual_one(asked, got):
    ended = asyncio.Event()
    terminal = Terminal(HostProcess("sh", "-c", "read line; stty size"), ended.set)
    viewer = terminal.attach(replay=False)
    terminal.resize(*asked)
    terminal.write(b"\n")
    await read_until(viewer, got)
    async with asyncio.timeout(10):
        await ended.wait()
    assert terminal.exit_code == 0
    assert await viewer.read() == b""
    terminal.close()


async def test_the_scrollback_is_bounded_and_a_viewer_who_sleeps_is_left_behind():
    ended = asyncio.Event()
    terminal = Terminal(HostProcess("head", "-c", "12000000", "/dev/zero"), ended.set)
    viewer = terminal.attach(replay=False)
    async with asyncio.timeout(30):
        await ended.wait()
    assert viewer.lagging
    assert SCROLLBACK_BYTES <= len(terminal.scrollback) <= 2 * SCROLLBACK_BYTES
    terminal.close()


async def test_whoever_types_waits_until_it_is_read():
    terminal = Terminal(HostProcess("sleep", "100"), lambda: None)
    for _ in range(64):
        terminal.write(b"x" * 65536)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await terminal.drain()
    terminal.close()
    await terminal.drain()
