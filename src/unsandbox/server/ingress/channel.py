"""Messages between the server and its ingress process, with descriptors, over a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec

MAX_MESSAGE = 8 * 1024
_MAX_FDS = 2
_MAX_KEPT = 2 << 20
_MAX_QUEUED = 4096
_AT_ONCE = 16
"""Messages that are read before other callbacks have their turn."""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """To the server: a visitor wants the service of a host name."""

    number: int
    host: Annotated[str, msgspec.Meta(max_length=255)]
    token: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """What the visitor shows to enter a port of a session."""
    connect: bool = True
    """Whether a connection is wanted, and not only to know whether the host is a service's."""


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """To the ingress: a connection to the service, as the descriptor, or why there is none.

    Attributes:
        number: That of the `Ask`.
        code: Empty for a connection; else what visitors are told, or `NOT_A_SERVICE`.
        service: Id of the service.
        port: Port inside it.
        freeze_page: Whether its owner wants a page for visitors of the frozen service.
    """

    number: int
    code: str = ""
    service: str = ""
    port: int = 0
    freeze_page: bool | None = None


class Forget(msgspec.Struct, frozen=True, tag="forget"):
    """To the server: the visitor of an `Ask` has left."""

    number: int


class Visitor(msgspec.Struct, frozen=True, tag="visitor"):
    """In both directions: a client's connection, as the first descriptor.

    The second, if there is one, is a file with the bytes of it that were read already; see `kept`.
    """


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """To the ingress: answer with the same, and what is open.

    Attributes:
        connections: Open connections of visitors.
        held: Bytes of requests whose heads are not complete.
    """

    connections: int = 0
    held: int = 0


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To the ingress: end what is under way, and exit."""


class Log(msgspec.Struct, frozen=True, tag="log"):
    """To the server: a line for its log."""

    level: int
    text: Annotated[str, msgspec.Meta(max_length=1000)]


Message = Ask | Answer | Forget | Visitor | Ping | Stop | Log
NOT_A_SERVICE = "not_a_service"

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Write a message."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Read a message.

    Raises:
        msgspec.DecodeError: It is none.
        ValueError: A value in it is impossible.
        RecursionError: It is nested too deeply.
    """
    return _decoder.decode(data)


class Channel:
    """One end of the socket pair. Owns it, and every descriptor on its way.

    Args:
        sock: The end.
        on_message: Called with each message and its descriptors, which it owns then.
        on_lost: Called once, when the other end is gone or has sent what is no message.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[Message, list[int]], None], on_lost: Callable[[], None]
    ) -> None:
        self._socket: socket.socket | None = sock
        self._on_message = on_message
        self._on_lost = on_lost
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, *fds: int) -> bool:
        """Send a message and close its descriptors here.

        Returns:
            False when the message cannot be sent; its descriptors are closed then too.
        """
        data = encode(message)
        if self._socket is None or len(data) > MAX_MESSAGE or len(self._queue) >= _MAX_QUEUED:
            close_all(fds)
            return False
        self._queue.append((data, fds))
        if len(self._queue) == 1:
            self._writable()
        return True

    def close(self) -> None:
        """Close this end, and every descriptor that was not sent. `on_lost` is not called."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        while self._queue:
            close_all(self._queue.popleft()[1])

    def _writable(self) -> None:
        while self._queue and self._socket is not None:
            data, fds = self._queue[0]
            try:
                socket.send_fds(self._socket, [data], fds)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._writable)
                return
            except ConnectionError:
                self._lose()
                return
            except OSError:
                # Too many descriptors are under way: the clients that these belong to are disconnected.
                pass
            self._queue.popleft()
            close_all(fds)
        if self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if self._socket is None:
                return
            fds: list[int] = []
            try:
                data, fds, flags, _ = socket.recv_fds(
                    self._socket, MAX_MESSAGE, _MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, flags = b"", 0
            try:
                # What was cut off need not be a message.
                message = decode(b"" if flags & socket.MSG_TRUNC else data)
            except (msgspec.DecodeError, ValueError, RecursionError):
                close_all(fds)
                self._lose()
                return
            self._on_message(message, list(fds))

    def _lose(self) -> None:
        self.close()
        self._on_lost()


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def keep(data: bytes) -> list[int]:
    """Return the descriptor of a file in memory with some bytes; none for no bytes."""
    if not data:
        return []
    fd = os.memfd_create("kept", os.MFD_CLOEXEC)
    os.write(fd, data)
    return [fd]


def kept(fds: list[int]) -> bytes:
    """Return what `keep` wrote, and close the file.

    Raises:
        ValueError: It is no such file.
    """
    try:
        if not fds:
            return b""
        status = os.fstat(fds[0])
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_KEPT:
            raise ValueError("no file with the beginning of a connection")
        return os.pread(fds[0], status.st_size, 0)
    finally:
        close_all(fds)
