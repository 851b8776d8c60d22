"""A local terminal that stands for one in a sandbox: bytes pass as they are, and so does its size."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import termios
import tty

from unsandbox.sandbox.gvisor import agent
from unsandbox.sandbox.gvisor.channel import Channel
from unsandbox.sandbox.host.descriptors import set_window_size

_LOOK_S = 0.1


class LocalTerminal:
    """Joins a pair of terminal ends to a stream. The master is the caller's, the rest the channel's.

    Args:
        channel: Of the sandbox.
        stream: Both directions of the terminal inside.
        size: Columns and rows.
    """

    def __init__(self, channel: Channel, stream: int, size: tuple[int, int]) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self._size = size
        set_window_size(slave, *size)
        os.set_blocking(self.master, False)
        self._channel = channel
        self._stream = stream
        self._slave = slave
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        channel.inlet(stream, os.dup(slave), self._over)
        channel.outlet(stream, os.dup(slave), self._pass_size)

    def _look(self) -> None:
        """Look for a new size now and then. Nobody tells about one: whoever holds the master sets it there."""
        try:
            self._pass_size()
        except OSError:
            # The master is closed: so shall be the terminal inside, that its programs are hung up.
            self._channel.drop_inlet(self._stream)
            return
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def _pass_size(self) -> None:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self._slave, termios.TIOCGWINSZ, b"\0" * 8))
        if (columns, rows) != self._size:
            self._size = columns, rows
            self._channel.send(agent.RESIZE, self._stream, json.dumps([columns, rows]).encode())

    def _over(self) -> None:
        """The terminal inside has closed: so must every copy of this end, that the master sees it."""
        self._timer.cancel()
        os.close(self._slave)
        self._channel.close_outlet(self._stream)
