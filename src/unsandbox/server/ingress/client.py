"""The ingress as a client of services: HTTP through a connection that exists already, within bounds."""

from __future__ import annotations

import socket
from contextvars import ContextVar

import aiohttp
from aiohttp.client_proto import ResponseHandler

from unsandbox.engine.bounded_http import BoundedHandler

MAX_FIELD = 64 * 1024
_READ_BYTES = 64 * 1024
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


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
        _, protocol = await self._loop.create_connection(lambda: BoundedHandler(self._loop), sock=sock)
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
