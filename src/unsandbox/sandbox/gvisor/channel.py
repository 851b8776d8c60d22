"""The server's side of the agent: its messages, and the descriptors for the streams of a sandbox.

Messages from a sandbox are checked: an unknown kind, an unknown stream, or more bytes than requested end the
channel and the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.gvisor import agent

_READ_BYTES = 1 << 18
_GRANT = agent.WINDOW // 4
_GONE = "the sandbox has ended"


class ProtocolError(SandboxError):
    """The first process of a sandbox sent an invalid message."""


class Channel:
    """The connection to one agent; owns the two descriptors.

    Args:
        write_fd: Descriptor for messages to the agent.
        read_fd: Descriptor for messages from the agent.
        on_broken: Called once, when the agent is gone or has broken the rules.
    """

    def __init__(self, write_fd: int, read_fd: int, on_broken: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._write_fd, self._read_fd = write_fd, read_fd
        self._on_broken = on_broken
        self._received = bytearray()
        self._pending = bytearray()
        self._held: bytearray | None = None
        self._answers: dict[tuple[bytes, int], asyncio.Future[bytes]] = {}
        self._inlets: dict[int, Inlet] = {}
        self._outlets: dict[int, Outlet] = {}
        self._last = 0
        self.broken = ""
        """The reason why the channel has ended; empty while it works."""
        for fd in (write_fd, read_fd):
            os.set_blocking(fd, False)
        self._loop.add_reader(read_fd, self._readable)

    # Messages

    def use_stream(self, stream: int) -> None:
        """Reserve the number of a program of an earlier channel."""
        self._last = max(self._last, stream)

    def new_stream(self) -> int:
        """Return an unused even number; the odd number after it is unused too."""
        self._last += 2
        return self._last

    def expect(self, kind: bytes, stream: int) -> asyncio.Future[bytes]:
        """Return the future of an expected message. It fails when the channel ends."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        # The caller may have stopped waiting: retrieve the exception, so that asyncio does not log it.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.broken:
            future.set_exception(SandboxError(self.broken))
        else:
            self._answers[kind, stream] = future
        return future

    def send(self, kind: bytes, stream: int, data: bytes = b"") -> None:
        """Queue a message; do nothing if the channel has ended."""
        if self.broken:
            return
        message = agent.HEADER.pack(kind, stream, len(data)) + data
        if self._held is not None:
            self._held += message
            return
        self._pending += message
        self._writable()

    async def call(self, kind: bytes, stream: int, data: bytes, answer: bytes) -> bytes:
        """Send a message and return the answer's content."""
        future = self.expect(answer, stream)
        self.send(kind, stream, data)
        return await future

    async def hold(self) -> None:
        """Silence both ends: no message is in flight when this returns, and none is sent until `release`."""
        done = self.expect(agent.DONE, 0)
        self.send(agent.QUIET, 0)
        self._held = bytearray()
        await done

    def release(self) -> None:
        """Continue after `hold`."""
        held, self._held = self._held or bytearray(), None
        self.send(agent.GO, 0)
        if not self.broken:
            self._pending += held
            self._writable()

    def _writable(self) -> None:
        if self._write_fd < 0:
            return
        try:
            while self._pending:
                del self._pending[: os.write(self._write_fd, self._pending[:_READ_BYTES])]
        except BlockingIOError:
            self._loop.add_writer(self._write_fd, self._writable)
            return
        except OSError:
            self._break(_GONE)
            return
        self._loop.remove_writer(self._write_fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._break(_GONE)
            return
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take what the agent wrote: what breaks the rules ends the channel."""
        self._received += data
        try:
            while (message := self._next()) is not None:
                self._take(*message)
        except (ProtocolError, ValueError) as error:
            self._break(f"the sandbox's first process broke the rules: {error}")

    def _next(self) -> tuple[bytes, int, bytes] | None:
        head = agent.HEADER.size
        if len(self._received) < head:
            return None
        kind, stream, size = agent.HEADER.unpack_from(self._received)
        if size > agent.CHUNK:
            raise ProtocolError(f"a message of {size} bytes")
        if len(self._received) < head + size:
            return None
        data = bytes(self._received[head : head + size])
        del self._received[: head + size]
        return kind, stream, data

    def _take(self, kind: bytes, stream: int, data: bytes) -> None:
        if kind == agent.DATA:
            if inlet := self._inlets.get(stream):
                inlet.feed(data)
        elif kind == agent.END:
            if inlet := self._inlets.get(stream):
                inlet.end()
        elif kind == agent.CREDIT:
            if outlet := self._outlets.get(stream):
                outlet.grant(int(data))
        elif kind == agent.DROP:
            if outlet := self._outlets.get(stream):
                outlet.close()
        elif kind in (agent.READY, agent.STARTED, agent.EXIT, agent.DONE, agent.DISK):
            future = self._answers.pop((kind, stream), None)
            if future is not None and not future.done():
                future.set_result(data)
        else:
            raise ProtocolError(f"a message of kind {kind!r}")

    # Streams

    def inlet(self, stream: int, fd: int, finish: Callable[[], None] | None = None) -> None:
        """Write the bytes of a stream to a descriptor, which the channel owns from now on."""
        self._inlets[stream] = Inlet(self, stream, fd, finish)

    def outlet(self, stream: int, fd: int, before: Callable[[], None] | None = None) -> None:
        """Send the bytes of a descriptor, which the channel owns from now on, on a stream.

        `before` is called each time, before what was read is sent.
        """
        self._outlets[stream] = Outlet(self, stream, fd, before)

    def close_outlet(self, stream: int) -> None:
        """Close the source of a stream, and tell the sandbox that it has ended."""
        if outlet := self._outlets.get(stream):
            outlet.end()

    def drop_inlet(self, stream: int) -> None:
        """Close the destination of a stream, and tell the sandbox that it has no reader any more."""
        if inlet := self._inlets.get(stream):
            inlet.drop()

    def abandon(self, stream: int) -> None:
        """Close the streams of a program or connection that could not be started."""
        for number in (stream, stream + 1):
            if inlet := self._inlets.get(number):
                inlet.close()
            if outlet := self._outlets.get(number):
                outlet.close()
        self._answers.pop((agent.EXIT, stream), None)

    def forget(self, end: Inlet | Outlet) -> None:
        """Remove an end that has closed itself."""
        table: dict[int, Any] = self._inlets if isinstance(end, Inlet) else self._outlets
        table.pop(end.stream, None)

    # Its end

    def close(self) -> None:
        """Close every descriptor, and let every waiting future fail."""
        self._break(_GONE)

    def _break(self, why: str) -> None:
        if self.broken:
            return
        self.broken = why
        self._loop.remove_reader(self._read_fd)
        self._loop.remove_writer(self._write_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)
        self._read_fd = self._write_fd = -1
        for inlet in list(self._inlets.values()):
            inlet.close()
        for outlet in list(self._outlets.values()):
            outlet.close()
        answers, self._answers = self._answers, {}
        for future in answers.values():
            if not future.done():
                future.set_exception(SandboxError(why))
        self._on_broken(why)


class Inlet:
    """Moves the bytes of one stream from the sandbox to a descriptor."""

    def __init__(self, channel: Channel, stream: int, fd: int, finish: Callable[[], None] | None) -> None:
        self._channel = channel
        self.stream = stream
        self._fd = fd
        self._finish = finish
        self._waiting = bytearray()
        self._owed = 0
        self._allowed = agent.WINDOW
        self._ending = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)

    def feed(self, data: bytes) -> None:
        """Accept received bytes."""
        self._allowed -= len(data)
        if self._allowed < 0:
            raise ProtocolError("more output than requested")
        self._waiting += data
        self._write()

    def end(self) -> None:
        """Close when everything is written."""
        self._ending = True
        self._write()

    def _write(self) -> None:
        if self._fd < 0:
            return
        try:
            while self._waiting:
                count = os.write(self._fd, self._waiting)
                del self._waiting[:count]
                self._owed += count
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._write)
        except OSError:
            # The descriptor has no reader any more.
            self.drop()
            return
        else:
            self._loop.remove_writer(self._fd)
        if self._owed >= _GRANT or (self._owed and not self._waiting):
            self._channel.send(agent.CREDIT, self.stream, b"%d" % self._owed)
            self._allowed += self._owed
            self._owed = 0
        if self._ending and not self._waiting:
            self.close()

    def drop(self) -> None:
        """Close the descriptor, and tell the sandbox that the stream has no reader any more."""
        if self._fd >= 0:
            self._channel.send(agent.DROP, self.stream)
            self.close()

    def close(self) -> None:
        """Close the descriptor now."""
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            if self._finish is not None:
                with contextlib.suppress(OSError):
                    self._finish()
            os.close(self._fd)
            self._fd = -1
            self._channel.forget(self)


class Outlet:
    """Moves the bytes of one stream from a descriptor to the sandbox."""

    def __init__(self, channel: Channel, stream: int, fd: int, before: Callable[[], None] | None) -> None:
        self._channel = channel
        self.stream = stream
        self._fd = fd
        self._before = before
        self._credit = agent.WINDOW
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def grant(self, count: int) -> None:
        """Allow a number of further bytes to be sent."""
        if self._fd >= 0:
            self._credit = min(agent.WINDOW, self._credit + count)
            self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        if self._credit <= 0:
            self._loop.remove_reader(self._fd)
            return
        try:
            data = os.read(self._fd, min(agent.CHUNK, self._credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            return
        self._credit -= len(data)
        if self._before is not None:
            with contextlib.suppress(OSError):
                self._before()
        self._channel.send(agent.DATA, self.stream, data)

    def end(self) -> None:
        """Close the descriptor, and tell the sandbox that the stream has ended."""
        if self._fd >= 0:
            self._channel.send(agent.END, self.stream)
            self.close()

    def close(self) -> None:
        """Close the descriptor now."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._channel.forget(self)


def text(data: bytes) -> str:
    """Return an agent's message as printable text."""
    return data.decode("utf-8", "replace")[:500]


def encoded(**members: Any) -> bytes:
    """Return the content of a message in JSON."""
    return json.dumps(members).encode("utf-8", "surrogateescape")
