"""A local terminal that represents one in a sandbox: its bytes and its size are forwarded."""

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
    """Connects a local terminal to a stream. The caller owns the master, the channel owns the rest.

    Args:
        channel: The channel to the sandbox's agent.
        stream: Number of the stream, for both directions.
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
        """Check for a new size regularly, because no event reports that the size was set at the master."""
        try:
            self._pass_size()
        except OSError:
            # The master is closed: close the terminal inside too, so that its programs get SIGHUP.
            self._channel.drop_inlet(self._stream)
            return
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def _pass_size(self) -> None:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self._slave, termios.TIOCGWINSZ, b"\0" * 8))
        if (columns, rows) != self._size:
            self._size = columns, rows
            self._channel.send(agent.RESIZE, self._stream, json.dumps([columns, rows]).encode())

    def _over(self) -> None:
        """Close every copy of this end, so that the master sees that the terminal inside has closed."""
        self._timer.cancel()
        os.close(self._slave)
        self._channel.close_outlet(self._stream)
