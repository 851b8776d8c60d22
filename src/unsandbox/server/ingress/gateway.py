"""One port for API and services: listens, and leads every connection to the process that serves it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import hdrs, web

from unsandbox.server.config import ServerConfig
from unsandbox.server.hosts import host_name
from unsandbox.server.ingress.handoff import hand_over, misdirected, settle
from unsandbox.server.ingress.listening import Listening
from unsandbox.server.ingress.pages import ingress_answer
from unsandbox.server.ingress.routing import ServiceHosts
from unsandbox.server.ingress.supervisor import IngressProcess

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
        self.port = Listening(config.host, config.port, config.tls, config.idle_s)
        self.ingress = IngressProcess(hosts, self.port.take_back, tls=config.tls, idle_s=config.idle_s)

    async def start(self, server: web.Server) -> int:
        """Listen, and serve the API's connections with `server`; return the port.

        Raises:
            OSError: The address cannot be bound, or certificate and key cannot be read.
        """
        return await self.port.start(server, self._hosts.is_service, self._give)

    async def stop(self) -> None:
        """Stop listening, and end the ingress."""
        self.port.stop()
        await self.ingress.close()

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
