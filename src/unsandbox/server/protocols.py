"""Connections that were accepted elsewhere, given to aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from unsandbox.protocol import codec
from unsandbox.server.ingress.arriving import Arriving
from unsandbox.server.ingress.connections import HeldBytes, usable_descriptors

SERVER_NAME = "unsandbox"
_HANDSHAKE_S = 20.0
MAX_HEAD = 64 * 1024
"""Bytes of the head of a request, and of chunk extensions and trailers."""
_MAX_TARGET = 8190
_SLICE = 16 * 1024
"""Bytes that are parsed between two checks of the held bytes."""
_DISCARDED = 1 << 20
_LINGER_S = 2.0
"""How long, and how much, is read on after a refusal: a connection closed at once could lose the answer."""


class Accepting:
    """Serves connections, and tells when each has ended.

    Args:
        server: Serves them.
        context: For those that begin with a TLS handshake.

    Attributes:
        held: Bytes of requests whose heads are not complete.
    """

    def __init__(self, server: web.Server, context: ssl.SSLContext | None = None) -> None:
        self.held = HeldBytes()
        self._server = server
        self._context = context
        self._on_end: dict[object, Callable[[], None]] = {}
        self._proved: set[object] = set()
        self._most_proved = usable_descriptors() // 2
        self._beginning: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        lost = server.connection_lost

        def connection_lost(handler: RequestHandler, exc: BaseException | None = None) -> None:
            lost(handler, exc)
            self._end(handler)

        # The one place where aiohttp says that a connection has ended.
        server.connection_lost = connection_lost  # type: ignore[method-assign]

    @property
    def proved(self) -> int:
        """Connections on which a valid signature has come."""
        return len(self._proved)

    def prove(self, handler: object) -> None:
        """Count a connection no longer among those of strangers, since a key has signed on it.

        At most half of the descriptors are such connections; further ones stay where they are.
        """
        on_end = self._on_end.get(handler)
        if on_end is None or handler in self._proved or len(self._proved) >= self._most_proved:
            return
        self._proved.add(handler)
        self._on_end[handler] = functools.partial(self._proved.discard, handler)
        on_end()

    def take(self, sock: socket.socket, prefix: bytes, on_end: Callable[[], None]) -> None:
        """Serve a connection.

        Args:
            sock: Belongs to this object from now on.
            prefix: Bytes of it that were read already; only of one that is not encrypted.
            on_end: Called when it has ended.
        """
        # The same as `Server.__call__`, with this module's class.
        handler = ConnectionHandler(self._server, loop=self._loop, **self._server._kwargs)  # noqa: SLF001
        handler.held = self.held
        handler.accepting = self
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


@dataclass(frozen=True, slots=True)
class _Unusable:
    """How a connection is refused whose request cannot be read."""

    status: int
    code: str
    message: str


_BAD = _Unusable(400, "bad_request", "this is not a usable HTTP/1.1 request")
_LARGE_HEAD = _Unusable(
    431,
    "head_too_large",
    f"the head of the request is too large; send at most 128 headers, each of at most 8 KiB, and "
    f"{MAX_HEAD >> 10} KiB together",
)
_LONG_TARGET = _Unusable(414, "target_too_long", "the target of the request is longer than 8 KiB")
_CROWDED = _Unusable(503, "busy", "too many requests are incomplete; send it again in a moment")
_HOW = {unusable.status: unusable for unusable in (_BAD, _LARGE_HEAD, _LONG_TARGET, _CROWDED)}


class ConnectionHandler(RequestHandler):
    """Serves one connection, within bounds; its answers to unusable requests do not name the library."""

    __slots__ = (
        *("_address", "_arriving", "_begin", "_body", "_charged", "_discarded", "_head"),
        *("accepting", "held", "lost"),
    )

    accepting: Accepting
    """Where the connection is counted. Set by `Accepting`."""

    held: HeldBytes
    """Where the bytes are charged that are held of requests whose heads have not come. Set by `Accepting`."""
    lost: asyncio.Event
    """Set when the connection has ended."""
    _arriving: Arriving
    """The received bytes of the current request, until `settle`."""
    _begin: bytes
    """The beginning of the head that has not come, for the reason of a refusal."""
    _head: int
    """Bytes since the last complete head, or since the body has grown."""
    _charged: int
    _discarded: int | None
    """Bytes that came after a refusal; None before one."""
    _body: StreamReader | None
    """That of the last request whose head has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._arriving, self._begin = Arriving(), b""
        self._body = self._discarded = None
        self._head = self._charged = 0
        self.lost = asyncio.Event()
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self.lost.set()
        self._arriving.forget()
        self._head = 0
        self._charge()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; after an invalid request, keep nothing more.

        aiohttp would continue and keep an error for every piece, with the piece in its text and traceback.
        """
        if len(data) <= _SLICE:
            self._take(data)
            return
        for start in range(0, len(data), _SLICE):
            self._take(data[start : start + _SLICE])

    def _take(self, data: bytes) -> None:
        if self._discarded is not None:
            self._discard(len(data))
            return
        if self._payload_parser is not None or self._upgraded:
            self._arriving.forget(for_good=True)
            super().data_received(data)
            return
        body = self._body
        in_body = body is not None and not body.is_eof()
        body_bytes = 0 if body is None else body.total_bytes
        self._arriving.add(data, self._request_count + 1, in_body=in_body)
        if not in_body and len(self._begin) <= _MAX_TARGET:
            self._begin += data
        begin, before = self._begin, self._request_count
        super().data_received(data)
        new = self._request_count - before
        if new:
            self._begin = b""
            error, self._body = self._messages[-1]
            if isinstance(error, _ErrInfo):
                self._refuse(self._why(error, data if new > 1 else begin))
                return
        waits = self._buffer_paused or self._reading_paused
        self._arriving.parsed(
            self._body, self._request_count, new=new, in_body=in_body, all_read=not self._buffer_paused
        )
        grown = in_body and body is not None and body.total_bytes > body_bytes
        self._head = 0 if grown or (new and not waits) else self._head + len(data)
        if self._head > MAX_HEAD and not waits:
            self._refuse(_LARGE_HEAD)
        elif not self._charge():
            # A complete request can continue, but only in this process.
            self._arriving.forget()
            if not self._charge():
                self._refuse(_CROWDED)

    def _charge(self) -> bool:
        """Charge the held bytes; return False if they are too many."""
        now = self._head + len(self._arriving)
        if now > self._charged and not self.held.add(self._address, now - self._charged):
            return False
        if now < self._charged:
            self.held.remove(self._address, self._charged - now)
        self._charged = now
        return True

    @staticmethod
    def _why(error: _ErrInfo, begin: bytes) -> _Unusable:
        if isinstance(error.exc, LineTooLong):
            return _LARGE_HEAD if b"\n" in begin[: _MAX_TARGET + 1] else _LONG_TARGET
        return _LARGE_HEAD if error.message.startswith("Too many headers") else _BAD

    def _refuse(self, why: _Unusable) -> None:
        """Answer that the present request cannot be read, after those before it; nothing of it is kept."""
        self._discarded, self._head, self._begin = 0, 0, b""
        self._arriving.forget()
        self._charge()
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            # The error contains pieces of the request, and its traceback contains more.
            cast("_ErrInfo", self._messages.pop()[0]).exc.with_traceback(None)
        elif self._body is not None and not self._body.is_eof():
            # The answer may have begun.
            self._body.set_exception(ConnectionResetError("the body is not usable"))
            self.force_close()
            return
        self._messages.append((_ErrInfo(why.status, ValueError(), why.code), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _discard(self, size: int) -> None:
        self._discarded = (self._discarded or 0) + size
        if self._discarded > _DISCARDED and self.transport is not None:
            self.transport.pause_reading()

    def settle(self, request: web.BaseRequest) -> bytes | None:
        """Return all received bytes of a request, and keep no more of it.

        Returns:
            None when they are not known, since they did not come separately, or are too many, or when this was
            called before.
        """
        if request is not self._current_request:
            return None
        kept = self._arriving.take(self._request_count - len(self._messages))
        self._charge()
        return kept

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that cannot be read."""
        response = super().handle_error(request, status, exc, message)
        if self._discarded is not None:
            why = _HOW.get(status, _BAD)
            body = codec.encode({"error": why.code, "message": why.message})
            response = _LastAnswer(self, status=why.status, body=body, content_type="application/json")
            response.force_close()
        response.headers[hdrs.SERVER] = SERVER_NAME
        return response


class _LastAnswer(web.Response):
    """The last answer on a connection, whose client is still sending (RFC 9112, 9.6)."""

    def __init__(self, connection: ConnectionHandler, **options: Any) -> None:
        super().__init__(**options)
        self._connection = connection

    async def write_eof(self, data: bytes = b"") -> None:
        """Send it, and give the client time to read it before the connection is closed."""
        await super().write_eof(data)
        transport = self._connection.transport
        if transport is not None and transport.can_write_eof():
            transport.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._connection.lost.wait()


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
