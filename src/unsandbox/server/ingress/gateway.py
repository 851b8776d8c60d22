"""One port for API and services: listens, and leads every connection to the process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import hdrs, web

from unsandbox.server.config import ServerConfig
from unsandbox.server.hosts import host_name
from unsandbox.server.ingress.connections import Connections, HeldBytes
from unsandbox.server.ingress.front import Front
from unsandbox.server.ingress.handoff import hand_over, misdirected, settle
from unsandbox.server.ingress.pages import ingress_answer
from unsandbox.server.ingress.routing import ServiceHosts
from unsandbox.server.ingress.supervisor import IngressProcess
from unsandbox.server.protocols import Accepting

_BACKLOG = 4096

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Listens for a server.

    Args:
        hosts: The host names of services.
        config: Where to listen.
    """

    def __init__(self, hosts: ServiceHosts, config: ServerConfig) -> None:
        self._hosts = hosts
        self._config = config
        self._fronts: list[Front] = []
        self._accepting: Accepting | None = None
        self.connections = Connections()
        self.ingress = IngressProcess(hosts, self._take_back, tls=config.tls, idle_s=config.idle_s)

    async def start(self, server: web.Server) -> int:
        """Listen, and serve the API's connections with `server`; return the port.

        Raises:
            OSError: The address cannot be bound, or certificate and key cannot be read.
        """
        context = None
        if self._config.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._config.tls.certificate, self._config.tls.key)
        listeners = await _listeners(self._config.host, self._config.port)
        self._accepting = accepting = Accepting(server, context)
        for listener in listeners:
            front = Front(
                listener,
                is_service=self._hosts.is_service,
                to_api=lambda sock, on_end: accepting.take(sock, b"", on_end),
                to_ingress=lambda sock: self._give(sock),
                connections=self.connections,
                tls=context is not None,
                patience_s=self._config.idle_s,
            )
            self._fronts.append(front)
        return int(listeners[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open go on."""
        for front in self._fronts:
            front.close()
        self._fronts.clear()

    async def stop(self) -> None:
        """End the ingress."""
        self.stop_listening()
        await self.ingress.close()

    @property
    def open_connections(self) -> int:
        """Connections of the API: those of strangers, and those on which a key has signed."""
        return len(self.connections) + (0 if self._accepting is None else self._accepting.proved)

    @property
    def held(self) -> HeldBytes:
        """Bytes of requests for the API whose heads are not complete."""
        return HeldBytes() if self._accepting is None else self._accepting.held

    def sockets(self) -> list[int]:
        """Return the file descriptors that listen."""
        return [front.fileno() for front in self._fronts]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let requests for the API pass; lead others away."""
        hosts = request.headers.getall(hdrs.HOST, [])
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is not None and self._hosts.is_service(name):
            return hand_over(request, self.ingress.give) or misdirected(request)
        settle(request)
        if name is None:
            if not hosts and request.version < aiohttp.HttpVersion11:
                return await handler(request)
            return ingress_answer(
                request, 400, "bad_host", "The request does not name one host", "Nothing was passed on."
            )
        return await handler(request)

    def _give(self, sock: socket.socket) -> None:
        with sock:
            self.ingress.give(os.dup(sock.fileno()))

    def _take_back(self, sock: socket.socket, prefix: bytes) -> None:
        address = ""
        with contextlib.suppress(OSError):
            address = str(sock.getpeername()[0])
        if self._accepting is None or not self._fronts or not self.connections.add(address):
            sock.close()
            return
        self._accepting.take(sock, prefix, lambda: self.connections.remove(address))


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
