"""Answers requests with an ASGI application (https://asgi.readthedocs.io, HTTP only)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiohttp import hdrs, web

from unsandbox.server.protocols import ConnectionHandler

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

_CHUNK = 1 << 16
_OURS = {hdrs.CONNECTION, hdrs.CONTENT_LENGTH, hdrs.TRANSFER_ENCODING, hdrs.DATE, hdrs.SERVER}
"""Headers that describe the connection, which is aiohttp's."""


async def serve_asgi(application: Application, request: web.Request, **scope: Any) -> web.StreamResponse:
    """Answer a request with an application.

    Args:
        application: The application.
        request: The request.
        scope: Further members of its scope.
    """
    exchange = _Exchange(request)
    # `Host` and the like come as bytes in lower case.
    members: Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path.partition("?")[0].encode(),
        "query_string": request.query_string.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": None,
        "server": None,
        **scope,
    }
    await application(members, exchange.receive, exchange.send)
    if exchange.response is None:
        raise RuntimeError("the application sent no answer")
    return exchange.response


class _Exchange:
    """The events of one request."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._read_all = False
        self.response: web.StreamResponse | None = None

    async def receive(self) -> Message:
        """Return a piece of the body; behind its end, wait for the end of the connection."""
        if self._read_all:
            await self._disconnect()
            return {"type": "http.disconnect"}
        try:
            data = await self._request.content.read(_CHUNK)
        except (OSError, web.HTTPException):
            return {"type": "http.disconnect"}
        self._read_all = self._request.content.at_eof()
        return {"type": "http.request", "body": data, "more_body": not self._read_all}

    async def send(self, message: Message) -> None:
        """Send the head of the answer, or a piece of its body."""
        if message["type"] == "http.response.start":
            self.response = web.StreamResponse(status=message["status"])
            for name, value in message.get("headers", ()):
                text = name.decode("latin-1")
                if text.title() not in _OURS:
                    self.response.headers.add(text, value.decode("latin-1"))
            await self.response.prepare(self._request)
            return
        if self.response is None:
            raise RuntimeError("the application sent a body before the head")
        # The client may be gone; the application hears of it by `receive`.
        with contextlib.suppress(ConnectionError):
            if message.get("body"):
                await self.response.write(message["body"])
            if not message.get("more_body", False):
                await self.response.write_eof()

    async def _disconnect(self) -> None:
        protocol = self._request.protocol
        if isinstance(protocol, ConnectionHandler):
            await protocol.lost.wait()
        else:
            await asyncio.get_running_loop().create_future()
