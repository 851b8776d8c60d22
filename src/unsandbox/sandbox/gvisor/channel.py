"""The server's end of `gvisor_agent`: its messages, and the descriptors that stand for streams in a sandbox.

What comes from a sandbox is checked: a message of an unknown kind, a stream that nobody opened, or more bytes
than were asked for end the channel, and with it the sandbox.
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
    """The first process of a sandbox said something that it does not say."""


class Channel:
    """Speaks to one agent. Owns its two descriptors.

    Args:
        write_fd: Where messages to the agent go.
        read_fd: Where its messages come from.
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
        """Why the channel has ended; empty while it works."""
        for fd in (write_fd, read_fd):
            os.set_blocking(fd, False)
        self._loop.add_reader(read_fd, self._readable)

    # Messages

    def use_stream(self, stream: int) -> None:
        """Take a number of an earlier channel."""
        self._last = max(self._last, stream)

    def new_stream(self) -> int:
        """Return an even number that no stream has had; the odd one after it is free too."""
        self._last += 2
        return self._last

    def expect(self, kind: bytes, stream: int) -> asyncio.Future[bytes]:
        """Return the future of a message that will come. It fails when the channel ends."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        # Who asked may have stopped to wait.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.broken:
            future.set_exception(SandboxError(self.broken))
        else:
            self._answers[kind, stream] = future
        return future

    def send(self, kind: bytes, stream: int, data: bytes = b"") -> None:
        """Send a message, sooner or later; without effect when the channel has ended."""
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
        """Make both ends silent: no message is on its way when this returns, none is sent until `release`."""
        done = self.expect(agent.DONE, 0)
        self.send(agent.QUIET, 0)
        self._held = bytearray()
        await done

    def release(self) -> None:
        """Go on after `hold`."""
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
        """Have what comes on a stream written into a descriptor, which belongs to the channel from now on."""
        self._inlets[stream] = Inlet(self, stream, fd, finish)

    def outlet(self, stream: int, fd: int, before: Callable[[], None] | None = None) -> None:
        """Have what can be read from a descriptor, the channel's from now on, sent on a stream.

        `before` is called each time, before what was read is sent.
        """
        self._outlets[stream] = Outlet(self, stream, fd, before)

    def close_outlet(self, stream: int) -> None:
        """Close what feeds a stream, and tell the sandbox that nothing more comes."""
        if outlet := self._outlets.get(stream):
            outlet.end()

    def drop_inlet(self, stream: int) -> None:
        """Close where a stream goes to, and tell the sandbox that nobody reads it any more."""
        if inlet := self._inlets.get(stream):
            inlet.drop()

    def abandon(self, stream: int) -> None:
        """Close what was made for a program or connection that could not be started."""
        for number in (stream, stream + 1):
            if inlet := self._inlets.get(number):
                inlet.close()
            if outlet := self._outlets.get(number):
                outlet.close()
        self._answers.pop((agent.EXIT, stream), None)

    def forget(self, end: Inlet | Outlet) -> None:
        """An end has closed itself."""
        table: dict[int, Any] = self._inlets if isinstance(end, Inlet) else self._outlets
        table.pop(end.stream, None)

    # Its end

    def close(self) -> None:
        """Close every descriptor; what waits gets an error."""
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
    """Bytes of one stream on their way from the sandbox into a descriptor."""

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
        """Take bytes that have come."""
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
            # Nobody reads it any more.
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
        """Close the descriptor and tell the sandbox that nobody reads this any more."""
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
    """Bytes of one stream on their way from a descriptor into the sandbox."""

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
        """So many bytes more may be sent."""
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
        """Close the descriptor and tell the sandbox that nothing more comes."""
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
    """Return what an agent says as text that can be shown."""
    return data.decode("utf-8", "replace")[:500]


def encoded(**members: Any) -> bytes:
    """Return the content of a message in JSON."""
    return json.dumps(members).encode("utf-8", "surrogateescape")
