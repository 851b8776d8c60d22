"""Connections that were accepted elsewhere, given to aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import weakref
from collections.abc import Callable

from aiohttp import StreamReader, hdrs, web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

SERVER_NAME = "unsandbox"
_HANDSHAKE_S = 20.0
_LONGEST_TEXT = 200
LONGEST_HANDED_OVER = 1 << 20


class Accepting:
    """Serves connections, and tells when each has ended.

    Args:
        server: Serves them.
        context: For those that begin with a TLS handshake.
    """

    def __init__(self, server: web.Server, context: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._context = context
        self._on_end: dict[object, Callable[[], None]] = {}
        self._beginning: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        lost = server.connection_lost

        def connection_lost(handler: RequestHandler, exc: BaseException | None = None) -> None:
            lost(handler, exc)
            self._end(handler)

        # The one place where aiohttp says that a connection has ended.
        server.connection_lost = connection_lost  # type: ignore[method-assign]

    def take(self, sock: socket.socket, prefix: bytes, on_end: Callable[[], None]) -> None:
        """Serve a connection.

        Args:
            sock: Belongs to this object from now on.
            prefix: Bytes of it that were read already; only of one that is not encrypted.
            on_end: Called when it has ended.
        """
        # What `Server.__call__` does, with a class of ours.
        handler = ConnectionHandler(self._server, loop=self._loop, **self._server._kwargs)  # noqa: SLF001
        self._on_end[handler] = on_end
        protocol: asyncio.Protocol = _Prefixed(handler, prefix) if prefix else handler
        context = None if prefix else self._context
        beginning = self._loop.create_task(self._begin(sock, protocol, handler, context))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)

    async def _begin(
        self, sock: socket.socket, protocol: asyncio.Protocol, handler: object, context: ssl.SSLContext | None
    ) -> None:
        try:
            handshake_s = None if context is None else _HANDSHAKE_S
            await self._loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=context, ssl_handshake_timeout=handshake_s
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            with contextlib.suppress(OSError):
                sock.close()
            self._end(handler)

    def _end(self, handler: object) -> None:
        if (on_end := self._on_end.pop(handler, None)) is not None:
            on_end()


def http_logger() -> logging.Logger:
    """Return where aiohttp logs broken requests: the fact alone, since their bytes may be secrets or code."""
    logger = logging.getLogger("unsandbox.server.http")
    if _without_content not in logger.filters:
        logger.addFilter(_without_content)
    return logger


def _without_content(record: logging.LogRecord) -> bool:
    record.msg, record.args = "a connection sent what is not a usable HTTP request", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return logging.getLogger("unsandbox.server").isEnabledFor(logging.INFO)


class ConnectionHandler(RequestHandler):
    """Serves one connection, within bounds; its answers to unusable requests do not name the library."""

    __slots__ = ("_body", "_raw", "_settled")

    _raw: bytearray | None
    """What has come of the present request until `settle`, which sets it to None."""
    _body: StreamReader | None
    """That of the last request whose head has come."""
    _settled: weakref.ref[web.BaseRequest] | None
    """The request that `settle` was last called for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._raw = bytearray()
        self._body = self._settled = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what has come; nothing more is read after what is no request.

        aiohttp goes on and keeps an error for every piece, which holds the piece in its text and traceback.
        """
        if self._raw is None and (self._body is None or self._body.is_eof()):
            # Another request begins, maybe before the answer to the last one has been sent.
            self._raw = bytearray()
        if self._raw is not None and len(self._raw) <= LONGEST_HANDED_OVER:
            self._raw += data
        super().data_received(data)
        if not self._messages:
            return
        error, payload = self._messages[-1]
        self._body = payload
        if isinstance(error, _ErrInfo):
            error.exc.with_traceback(None)
            short = _ErrInfo(error.status, ValueError(), error.message[:_LONGEST_TEXT])
            self._messages[-1] = (short, payload)
            if self.transport is not None:
                self.transport.pause_reading()

    def settle(self, request: web.BaseRequest) -> bytes | None:
        """Return all bytes of a request that have come so far, and keep no more of it.

        Returns:
            None when they are not known, since they did not come separately, or are too many; and when this was
            called before: the next request may have begun to come by then.
        """
        if self._settled is not None and self._settled() is request:
            return None
        self._settled = weakref.ref(request)
        raw, self._raw = self._raw, None
        if raw is None or len(raw) > LONGEST_HANDED_OVER:
            return None
        first_word = request.method.encode("utf-8", "surrogateescape") + b" "
        return bytes(raw) if raw.startswith(first_word) else None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that cannot be read."""
        response = super().handle_error(request, status, exc, message)
        response.headers[hdrs.SERVER] = SERVER_NAME
        return response


class _Prefixed(asyncio.Protocol):
    """Gives a protocol the bytes that were read before it, and then the transport."""

    def __init__(self, inner: asyncio.Protocol, prefix: bytes) -> None:
        self._inner = inner
        self._prefix = prefix

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Step aside."""
        transport.set_protocol(self._inner)
        self._inner.connection_made(transport)
        self._inner.data_received(self._prefix)
