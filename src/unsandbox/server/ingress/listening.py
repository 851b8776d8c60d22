"""A port: its sockets, and the bounds on the connections and request heads that come in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from aiohttp import web

from unsandbox.server.config import TlsFiles
from unsandbox.server.ingress.connections import Connections, HeldBytes
from unsandbox.server.ingress.front import Front
from unsandbox.server.protocols import Accepting

_BACKLOG = 4096


def _never(_name: str) -> bool:
    return False


class Listening:
    """Listens, and gives every connection to a server of aiohttp, or to the ingress.

    Args:
        host: Address to bind.
        port: Port; 0 picks a free one.
        tls: Serve https with this.
        idle_s: Seconds within which a connection must have sent the headers of its next request.
        connections: Counts the connections, if another port counts them too.
    """

    def __init__(
        self, host: str, port: int, tls: TlsFiles | None, idle_s: float, connections: Connections | None = None
    ) -> None:
        self._host, self._port, self._tls, self._idle_s = host, port, tls, idle_s
        self._fronts: list[Front] = []
        self._accepting: Accepting | None = None
        self.connections = Connections() if connections is None else connections

    async def start(
        self,
        server: web.Server,
        is_service: Callable[[str], bool] = _never,
        to_ingress: Callable[[socket.socket], None] = socket.socket.close,
    ) -> int:
        """Listen, and return the port.

        Args:
            server: Serves the connections.
            is_service: Whether connections to a host name are for the ingress.
            to_ingress: Takes those connections.

        Raises:
            OSError: The address cannot be bound, or certificate and key cannot be read.
        """
        context = None
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
        listeners = await _listeners(self._host, self._port)
        self._accepting = accepting = Accepting(server, context)
        for listener in listeners:
            front = Front(
                listener,
                is_service=is_service,
                to_api=lambda sock, on_end: accepting.take(sock, b"", on_end),
                to_ingress=to_ingress,
                connections=self.connections,
                tls=context is not None,
                patience_s=self._idle_s,
            )
            self._fronts.append(front)
        return int(listeners[0].getsockname()[1])

    def stop(self) -> None:
        """Refuse new connections; those that are open go on."""
        for front in self._fronts:
            front.close()
        self._fronts.clear()

    def take_back(self, sock: socket.socket, prefix: bytes) -> None:
        """Serve a connection that the ingress has returned, with the bytes that it has read."""
        address = ""
        with contextlib.suppress(OSError):
            address = str(sock.getpeername()[0])
        if self._accepting is None or not self._fronts or not self.connections.add(address):
            sock.close()
            return
        self._accepting.take(sock, prefix, lambda: self.connections.remove(address))

    @property
    def open_connections(self) -> int:
        """Connections to the server: those of strangers, and those on which a key has signed."""
        return len(self.connections) + (0 if self._accepting is None else self._accepting.proved)

    @property
    def held(self) -> HeldBytes:
        """Bytes of requests whose heads are not complete."""
        return HeldBytes() if self._accepting is None else self._accepting.held

    def sockets(self) -> list[int]:
        """Return the file descriptors that listen."""
        return [front.fileno() for front in self._fronts]


async def _listeners(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of a host."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            listeners.append(socket.create_server(address, family=family, backlog=_BACKLOG))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
