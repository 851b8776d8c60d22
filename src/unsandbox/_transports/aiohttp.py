"""The async client's way onto the network: one aiohttp session, made in the loop that first sends."""

# ruff: noqa: ASYNC109 - the sync twin has no other way to be given a time limit

from __future__ import annotations

import asyncio
import io
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unsandbox._transports.common import MAX_CONNECTIONS, USER_AGENT, RawResponse, ca_bundle, place, proxy_for
from unsandbox.errors import ClientStateError, ConnectionFailedError, RequestTimeoutError, with_base

if TYPE_CHECKING:
    import aiohttp
    import yarl

LIBRARY = "aiohttp"
"""What the errors of this transport also are."""


def loaded() -> bool:
    """Tell whether the library is there; else `load` takes a tenth of a second, which no loop should lose."""
    return LIBRARY in sys.modules


def load() -> None:
    """Import the library; can be called in a thread."""
    import aiohttp  # noqa: F401


_LARGE_BODY = 1 << 20
"""Bytes above which aiohttp wants a file object, from which it writes piece by piece."""

_CEIL_S = 60.0
"""Above this many seconds aiohttp may round a time limit up to whole ones, which saves timers."""


class _Opened(NamedTuple):
    """The session, and the names of the library, which is imported when the session is made."""

    session: aiohttp.ClientSession
    proxy: str | None
    make_url: type[yarl.URL]
    make_timeout: type[aiohttp.ClientTimeout]
    error: type[aiohttp.ClientError]
    not_connected: type[aiohttp.ClientConnectorError]


class AiohttpTransport:
    """A pool of connections to one server. Makes no connection and needs no loop until the first `acquire`."""

    def __init__(self, origin: str, max_connections: int = MAX_CONNECTIONS) -> None:
        self._origin = origin
        self._max_connections = max_connections
        self._slots: asyncio.Semaphore | None = None
        self._opened: _Opened | None = None
        self._timeout: tuple[float, aiohttp.ClientTimeout | None] = (-1.0, None)
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
        body: bytes,
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
        """
        opened = self._opened or self._open()
        if timeout != self._timeout[0]:
            self._timeout = (timeout, opened.make_timeout(total=timeout, ceil_threshold=_CEIL_S))
        try:
            async with opened.session.request(
                method,
                opened.make_url(self._origin + target, encoded=True),
                data=io.BytesIO(body) if len(body) > _LARGE_BODY else body or None,
                headers=headers,
                proxy=opened.proxy,
                timeout=self._timeout[1],
                allow_redirects=False,
            ) as response:
                return RawResponse(response.status, response.headers, await response.read())
        except TimeoutError as error:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"{place(method, self._origin, target)}: no answer within {timeout:g} s"
            ) from error
        except (opened.error, OSError, EOFError) as error:
            failure = with_base(ConnectionFailedError, LIBRARY)(
                f"{place(method, self._origin, target)}: {_reason(error)}"
            )
            failure.sent = not isinstance(error, opened.not_connected)
            raise failure from error

    async def close(self) -> None:
        """Close all connections; the transport cannot be used any more."""
        self._closed = True
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.session.close()

    def _open(self) -> _Opened:
        import aiohttp
        from yarl import URL

        if self._closed:
            raise ClientStateError("this client is closed: make a new one")
        proxy = proxy_for(self._origin)
        # The semaphore limits the connections, so the connector need not: waiting in its queue would count as
        # HTTP time, and the request would have been signed long before it is sent.
        connector = aiohttp.TCPConnector(limit=0, ssl=_trust(self._origin))
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
        )
        self._opened = _Opened(
            session, proxy, URL, aiohttp.ClientTimeout, aiohttp.ClientError, aiohttp.ClientConnectorError
        )
        return self._opened


def _trust(origin: str) -> ssl.SSLContext | bool:
    bundle = ca_bundle() if origin.startswith("https:") else None
    if bundle is None:
        return True
    if Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    name = type(error).__name__
    return f"{name}: {text}" if text and text != "None" else name
