"""The ingress as a client of services: HTTP through a connection that exists already, within bounds."""

from __future__ import annotations

import socket
from contextvars import ContextVar

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_FIELD = 64 * 1024
_MAX_HEAD = 512 * 1024
_MAX_INTERIM = 16
"""Interim answers (1xx) to one request. A program may send any number; none of them is passed on."""
_SLICE = 4096
_READ_BYTES = 64 * 1024
_INTERIM = range(100, 200)
_SWITCHING = 101
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class BadAnswerError(aiohttp.ClientError):
    """A service answers with more than the head of an answer may be."""


class ServiceConnection:
    """A connected socket until somebody takes it over.

    Args:
        descriptor: Belongs to this object from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket: socket.socket | None = socket.socket(fileno=descriptor)

    def take(self) -> socket.socket:
        """Return the socket; whoever takes it closes it."""
        taken, self._socket = self._socket, None
        if taken is None:
            raise ConnectionError("the connection has already been used")
        return taken

    def close(self) -> None:
        """Close it, unless it was taken."""
        if self._socket is not None:
            self._socket.close()


ready_connection: ContextVar[ServiceConnection] = ContextVar("ready_connection")
"""What the request of this task goes through."""


class _BoundedHandler(ResponseHandler):
    """Reads the head of an answer in small pieces, and gives up on one without an end.

    aiohttp takes all that has come at once, and goes through interim answers without a pause.
    """

    _head_bytes = 0
    _interim = 0
    _has_head = False

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        start = 0
        while not self._has_head and start < len(data) and not self._should_close:
            piece = data[start : start + _SLICE]
            start += len(piece)
            self._head_bytes += len(piece)
            seen = len(self._buffer)
            super().data_received(piece)
            codes = [message.code for (message, _), _ in list(self._buffer)[seen:]]
            self._interim += sum(code in _INTERIM and code != _SWITCHING for code in codes)
            self._has_head = any(code not in _INTERIM or code == _SWITCHING for code in codes)
            if not self._has_head and (self._head_bytes > _MAX_HEAD or self._interim > _MAX_INTERIM):
                self.set_exception(BadAnswerError("the head of the answer has no end"))
                if self.transport is not None:
                    self.transport.abort()
                return
        if start < len(data):
            super().data_received(data[start:] if start else data)


class _ReadyConnector(aiohttp.BaseConnector):
    """Uses the connection that the task has ready, and uses it once."""

    def __init__(self) -> None:
        super().__init__(force_close=True, limit=0)

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,  # noqa: ARG002
        traces: object,  # noqa: ARG002
        timeout: object,  # noqa: ARG002, ASYNC109
    ) -> ResponseHandler:
        sock = ready_connection.get().take()
        # So little is read at a time that one service cannot hold up the visitors of others.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ_BYTES)
        _, protocol = await self._loop.create_connection(lambda: _BoundedHandler(self._loop), sock=sock)
        return protocol


def service_session() -> aiohttp.ClientSession:
    """Return a session whose requests go through `ready_connection`; nothing is added to or taken from them."""
    return aiohttp.ClientSession(
        connector=_ReadyConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_AUTO_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        max_field_size=MAX_FIELD,
    )
