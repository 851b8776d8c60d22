"""The async client's way onto the network: one aiohttp session, made in the loop that first sends."""

# ruff: noqa: ASYNC109 - the sync twin has no other way to be given a time limit

from __future__ import annotations

import asyncio
import functools
import io
import ssl
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from unsandbox._transports.aiohttp_live import LIBRARY, AiohttpSocket, AiohttpStream, reason
from unsandbox._transports.common import (
    MAX_CONNECTIONS,
    USER_AGENT,
    AnswerReader,
    RawResponse,
    ca_bundle,
    place,
    proxy_for,
    scheme_hint,
    tls_context,
    tls_problem,
)
from unsandbox._transports.timeouts import Limits
from unsandbox.errors import ClientStateError, ConnectionFailedError, RequestTimeoutError, with_base
from unsandbox.protocol.contents import ChunkReader, Pieces

if TYPE_CHECKING:
    import aiohttp
    import yarl


def loaded() -> bool:
    """Return whether the library is loaded; otherwise `load` takes a tenth of a second, too long for a loop."""
    return LIBRARY in sys.modules


def load() -> None:
    """Import the library; can be called in a thread."""
    import aiohttp  # noqa: F401


_LARGE_BODY = 1 << 20
"""Bytes above which aiohttp wants a file object, from which it writes piece by piece."""

_HEARTBEAT_S = 20.0
"""Seconds between two looks whether the other end of a WebSocket is still there."""

_CLOSE_S = 2.0
"""Seconds that a server has to say goodbye to a WebSocket, too."""


class _Opened(NamedTuple):
    """The session, and the names of the library, which is imported when the session is made."""

    session: aiohttp.ClientSession
    proxy: str | None
    make_url: type[yarl.URL]
    error: type[aiohttp.ClientError]
    not_connected: type[aiohttp.ClientConnectorError]


class AiohttpTransport:
    """A pool of connections to one server. Makes no connection and needs no loop until the first `acquire`."""

    def __init__(self, origin: str, max_connections: int = MAX_CONNECTIONS, ca_file: str | None = None) -> None:
        self._origin = origin
        self._ca_file = ca_file
        self._answered = False
        self._max_connections = max_connections
        self._slots: asyncio.Semaphore | None = None
        self._opened: _Opened | None = None
        self._limits = Limits()
        self._reading: WeakSet[aiohttp.ClientResponse] = WeakSet()
        """Answers whose bodies are being read."""
        self._closed = False

    async def acquire(self, timeout: float | None) -> None:
        """Take one of the connections, or wait until one is free; each `acquire` needs one `release`.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Raises:
            RequestTimeoutError: None was free in time; nothing was sent.
        """
        slots = self._slots
        if slots is None:
            slots = self._slots = asyncio.Semaphore(self._max_connections)
        if timeout is None or not slots.locked():
            await slots.acquire()
            return
        try:
            async with asyncio.timeout(timeout):
                await slots.acquire()
        except TimeoutError:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"all {self._max_connections} connections of this client were busy for {timeout:g} s"
            ) from None

    def release(self) -> None:
        """Give the connection back."""
        if self._slots is not None:
            self._slots.release()

    async def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Pieces,
        timeout: float,
    ) -> RawResponse:
        """Send one request and read the whole answer.

        Args:
            method: HTTP method.
            target: Path and query, percent-encoded; sent as it is.
            headers: Request headers.
            body: Request body; empty when there is none.
            timeout: Seconds for all of it: connecting, sending and reading.

        Raises:
            RequestTimeoutError: It took longer.
            ConnectionFailedError: There was no answer, or not all of it.
            InvalidRequestError: A file that is part of the body cannot be read.
        """
        opened = self._opened or self._open()
        data: io.IOBase | bytes | None = body if isinstance(body, bytes) and body else None
        if isinstance(body, Pieces):
            data, headers = ChunkReader(body.chunks()), {**headers, "Content-Length": str(len(body))}
        elif len(body) > _LARGE_BODY:
            data = io.BytesIO(body)
        try:
            with self._limits.of(timeout):
                response = await opened.session.request(
                    method,
                    opened.make_url(self._origin + target, encoded=True),
                    data=data,
                    headers={_header(name): value for name, value in headers.items()},
                    proxy=opened.proxy,
                    allow_redirects=False,
                )
                self._answered = True
                self._reading.add(response)
                try:
                    return await _read(response)
                except BaseException:
                    response.close()
                    raise
        except TimeoutError as error:
            raise self._too_late(method, target, timeout) from error
        except (opened.error, OSError, EOFError) as error:
            if isinstance(data, ChunkReader) and data.failure is not None:
                raise data.failure from error
            raise self._failure(method, target, error) from error

    async def open_stream(
        self, method: str, target: str, headers: Mapping[str, str], timeout: float, idle_s: float
    ) -> AiohttpStream:
        """Send one request without a body, and return the answer as soon as its headers are there.

        Args:
            method: HTTP method.
            target: Path and query, percent-encoded; sent as it is.
            headers: Request headers.
            timeout: Seconds until the headers are there.
            idle_s: Seconds that may pass later without a byte.

        Raises:
            RequestTimeoutError: It took longer.
            ConnectionFailedError: There was no answer.
        """
        opened = self._opened or self._open()
        try:
            async with asyncio.timeout(timeout):
                response = await opened.session.request(
                    method,
                    opened.make_url(self._origin + target, encoded=True),
                    headers=headers,
                    proxy=opened.proxy,
                    allow_redirects=False,
                )
        except TimeoutError as error:
            raise self._too_late(method, target, timeout) from error
        except (opened.error, OSError, EOFError) as error:
            raise self._failure(method, target, error) from error
        self._reading.add(response)
        return AiohttpStream(response, place(method, self._origin, target), idle_s)

    async def open_socket(
        self, target: str, headers: Mapping[str, str], subprotocol: str, timeout: float
    ) -> AiohttpSocket | RawResponse:
        """Open a WebSocket, or return the answer that refused it.

        Args:
            target: Path and query, percent-encoded.
            headers: Request headers.
            subprotocol: The WebSocket subprotocol.
            timeout: Seconds until it is open.

        Raises:
            RequestTimeoutError: It took longer.
            ConnectionFailedError: There was no answer, or an invalid one.
        """
        import aiohttp

        opened = self._opened or self._open()
        try:
            async with asyncio.timeout(timeout):
                socket = await opened.session.ws_connect(
                    opened.make_url(self._origin + target, encoded=True),
                    protocols=(subprotocol,),
                    headers=headers,
                    proxy=opened.proxy,
                    heartbeat=_HEARTBEAT_S,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                    max_msg_size=0,
                )
        except TimeoutError as error:
            raise self._too_late("GET", target, timeout) from error
        except aiohttp.WSServerHandshakeError as error:
            return RawResponse(error.status, error.headers or {}, b"")
        except (opened.error, OSError, EOFError) as error:
            raise self._failure("GET", target, error) from error
        return AiohttpSocket(socket, place("GET", self._origin, target))

    def _too_late(self, method: str, target: str, timeout: float) -> RequestTimeoutError:
        return with_base(RequestTimeoutError, LIBRARY)(
            f"{place(method, self._origin, target)}: no answer within {timeout:g} s"
        )

    def _failure(self, method: str, target: str, error: BaseException) -> ConnectionFailedError:
        problem = tls_problem(error)
        hint = "" if self._answered else scheme_hint(error, self._origin)
        failure = with_base(ConnectionFailedError, LIBRARY)(
            f"{place(method, self._origin, target)}: {problem or reason(error) + hint}"
        )
        failure.retryable = problem is None
        failure.sent = not isinstance(error, self._opened.not_connected if self._opened else ())
        return failure

    async def close(self) -> None:
        """Close all connections; the transport cannot be used any more."""
        self._closed = True
        self._limits.close()
        opened, self._opened = self._opened, None
        # The session closes the connections below them, and tells no reader.
        for response in tuple(self._reading):
            response.close()
        if opened is not None:
            await opened.session.close()

    def _trust(self) -> ssl.SSLContext | bool:
        named = self._origin.startswith("https:") and ca_bundle(self._ca_file) is not None
        return tls_context(self._ca_file) if named else True

    def _open(self) -> _Opened:
        import aiohttp
        from yarl import URL

        if self._closed:
            raise ClientStateError("this client is closed: make a new one")
        proxy = proxy_for(self._origin)
        # The semaphore limits the connections, so the connector need not: waiting in its queue would count as
        # HTTP time, and the request would have been signed long before it is sent.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._trust())
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._opened = _Opened(session, proxy, URL, aiohttp.ClientError, aiohttp.ClientConnectorError)
        return self._opened


async def _read(response: aiohttp.ClientResponse) -> RawResponse:
    """Read an answer to its end, at which its connection is free again."""
    content = response.content
    if content.is_eof():
        # It came with the headers, so it is small, and in memory.
        return RawResponse(response.status, response.headers, content.read_nowait())
    reader = AnswerReader()
    async for piece in content.iter_any():
        reader.feed(piece)
    return reader.answer(response.status, response.headers)


@functools.cache
def _header(name: str) -> str:
    """Return the name of a header in aiohttp's type, so that aiohttp does not convert it for each request."""
    from multidict import istr

    return istr(name)
