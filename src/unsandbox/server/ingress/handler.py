"""What the ingress does with a request: it hands it to the program inside the service, and the answer back.

Request and response bodies pass through as they come, in both directions and without a bound; WebSockets become
a plain tunnel once the program has agreed. What is between us and our neighbours (RFC 9110, 7.6.1) stays there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from unsandbox.protocol.endpoints.jobs import CHALLENGE_HEADER, OTP_HEADER
from unsandbox.server.hosts import host_name
from unsandbox.server.ingress.client import ServiceConnection, ready_connection, service_session
from unsandbox.server.ingress.handoff import settle
from unsandbox.server.ingress.pages import ingress_answer, refusal_of
from unsandbox.server.ingress.passes import Pass, pass_of, wants_page, with_cookie, without_token
from unsandbox.server.ingress.tunnel import tunnel

logger = logging.getLogger("unsandbox.server.ingress")

ANSWER_S = 120.0
"""How long a program has for the head of its answer, counted from the last that was sent to it."""
MOST_PER_SERVICE = 1000
"""Requests that one service serves at a time; its visitors cannot take the place of those of others."""
_LOOK_EVERY_S = 5.0
_KEY_PREFIX = "bearer unsb-pk-"
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED = _HOP_BY_HOP | {"host", "expect", OTP_HEADER.lower(), CHALLENGE_HEADER.lower()}
_SAID_BY_PROXIES = ("Forwarded", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Way:
    """A connection to the program of a service.

    Attributes:
        service: Id of the service.
        port: Port inside it.
        descriptor: The connected socket; it belongs to whoever gets this.
    """

    service: str
    port: int
    descriptor: int


class NotReachedError(Exception):
    """There is no way into a service.

    Attributes:
        code: Why.
        port: Port that was meant.
        freeze_page: Whether visitors of the frozen service see a page; None: as they ask for.
    """

    def __init__(self, code: str, port: int = 0, freeze_page: bool | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.port = port
        self.freeze_page = freeze_page


class NotAServiceError(Exception):
    """A host name is not a service's: the request is for the API."""


class Ingress:
    """Hands requests to services.

    Args:
        is_service: Tells whether a host name, lower-case and without a port, is for services.
        connect: Returns a way to the service of a host name, lower-case and without a port, or to the port of a
            session for a visitor with a token.
        misdirected: Answers a request whose host is not a service's, and that is not settled yet.
    """

    def __init__(
        self,
        is_service: Callable[[str], Awaitable[bool]],
        connect: Callable[[str, str], Awaitable[Way]],
        misdirected: Callable[[web.BaseRequest], web.StreamResponse],
    ) -> None:
        self._is_service = is_service
        self._connect = connect
        self._misdirected = misdirected
        self._session: aiohttp.ClientSession | None = None
        self._under_way: Counter[str] = Counter()

    async def close(self) -> None:
        """End what is under way."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._handle(request)
        finally:
            settle(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        hosts = request.headers.getall(hdrs.HOST, [])
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return _refuse(request, 400, "bad_host", "The request does not name one host")
        refusal = _unusable(request)
        if refusal is not None and not await self._is_service(name):
            return self._misdirected(request)
        if refusal is not None:
            return refusal
        work = asyncio.ensure_future(self._serve(request, name, hosts[0]))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=_LOOK_EVERY_S)
                if request.transport is None or request.transport.is_closing():
                    # A visitor who leaves must not keep the program busy.
                    work.cancel()
                    await asyncio.wait({work})
                    return web.Response(status=499, reason="Client Closed Request")
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _serve(self, request: web.BaseRequest, name: str, host: str) -> web.StreamResponse:
        shown = pass_of(request, name, host)
        try:
            way = await self._connect(name, shown.token)
        except NotAServiceError:
            return self._misdirected(request)
        except NotReachedError as error:
            return refusal_of(request, error.code, error.port, error.freeze_page)
        settle(request)
        connection = ServiceConnection(way.descriptor)
        try:
            if shown.in_address and wants_page(request):
                return with_cookie(request, shown)
            if self._under_way[way.service] >= MOST_PER_SERVICE:
                return refusal_of(request, "service_busy", way.port)
            self._under_way[way.service] += 1
            try:
                return await self._forward(request, way, connection, shown)
            finally:
                self._under_way[way.service] -= 1
                if not self._under_way[way.service]:
                    del self._under_way[way.service]
        finally:
            connection.close()

    async def _forward(
        self, request: web.BaseRequest, way: Way, connection: ServiceConnection, shown: Pass
    ) -> web.StreamResponse:
        ready_connection.set(connection)
        try:
            async with asyncio.timeout(ANSWER_S) as limit:
                answer = await self._send(request, way, shown, limit)
        except TimeoutError:
            return _refuse(request, 504, "service_timeout", "The service does not answer")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            logger.info("service %s: no answer: %s", way.service, type(error).__name__)
            return _bad_gateway(request, "bad_answer", "The service closed the connection without an answer")
        async with answer:
            if answer.status == 101:
                if not _wants_websocket(request):
                    return _bad_gateway(
                        request, "bad_answer", "The service switched to a protocol that was not requested"
                    )
                headers = _forwarded(answer.headers)
                headers.update(_upgrade(answer.headers))
                return await tunnel(request, answer, headers)
            if not 200 <= answer.status <= 999:
                return _bad_gateway(request, "bad_answer", "The service sent a status that there is not")
            return await _pass_on(request, answer)

    async def _send(
        self, request: web.BaseRequest, way: Way, shown: Pass, limit: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = service_session()
        headers = _forwarded(request.headers)
        headers[hdrs.HOST] = shown.host
        _tell_origin(headers, request, shown.host)
        if shown.token:
            without_token(headers)
        body = _sent_body(request, limit) if request.can_read_body else None
        if body is None:
            headers.popall(hdrs.CONTENT_LENGTH, None)
        if _wants_websocket(request):
            headers.update(_upgrade(request.headers))
        # The address is not used: the connection is there already.
        place = URL(f"http://127.0.0.1:{way.port}{shown.target}", encoded=True)
        return await self._session.request(
            request.method, place, headers=headers, data=body, allow_redirects=False
        )


def _unusable(request: web.BaseRequest) -> web.Response | None:
    """Return the refusal of a request that no service may get."""
    if request.headers.get(hdrs.AUTHORIZATION, "").lower().startswith(_KEY_PREFIX):
        return _refuse(
            request, 421, "misdirected_request", "This host is a service, and not the API; keys stay out"
        )
    if not request.raw_path.startswith("/") or not request.raw_path.isascii():
        return _refuse(request, 400, "bad_target", "The target of the request must be an ASCII path")
    return None


class PassedOn(web.StreamResponse):
    """An answer of a service, with its headers and no further one but `Date`."""

    async def _prepare_headers(self) -> None:
        own = hdrs.SERVER in self.headers
        await super()._prepare_headers()
        if not own:
            self.headers.popall(hdrs.SERVER, None)


async def _sent_body(request: web.BaseRequest, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
    """Yield the body as it comes; as long as it does, the program need not answer."""
    loop = asyncio.get_running_loop()
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)
    async for chunk in request.content.iter_any():
        yield chunk
        # The answer may have begun before the body has ended.
        with contextlib.suppress(RuntimeError):
            limit.reschedule(loop.time() + ANSWER_S)


async def _pass_on(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = PassedOn(
        status=answer.status, reason=_sendable(answer.reason or ""), headers=_forwarded(answer.headers)
    )
    if is_proxied(request):
        # A proxy uses its connection for any host, and this one is the ingress's.
        response.force_close()
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, OSError):
        # Half an answer must not look like a whole one.
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _forwarded(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the headers that are meant for the other end."""
    named = {name.strip().lower() for value in headers.getall(hdrs.CONNECTION, []) for name in value.split(",")}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in _NOT_FORWARDED and name.lower() not in named:
            kept.add(name, _sendable(value))
    return kept


def _sendable(text: str) -> str:
    """Return a header value or reason that can be sent: control characters could end a line."""
    # Bytes that are no UTF-8 came as surrogates, which cannot be sent.
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _CONTROL.sub(" ", decoded)


def _wants_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def _upgrade(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict({hdrs.CONNECTION: "Upgrade", hdrs.UPGRADE: headers.get(hdrs.UPGRADE, "websocket")})


def _tell_origin(headers: CIMultiDict[str], request: web.BaseRequest, host: str) -> None:
    """Say who asks and how. A proxy on this machine is believed about what it says itself."""
    peer = request.remote or ""
    told = {"X-Forwarded-Proto": request.scheme, "X-Forwarded-Host": host}
    said = {name: headers.popall(name, []) for name in _SAID_BY_PROXIES}
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(peer).is_loopback:
            for name, values in said.items():
                for value in values:
                    headers.add(name, value)
    before = headers.popall("X-Forwarded-For", [])
    headers["X-Forwarded-For"] = ", ".join([*before, peer])
    for name, value in told.items():
        headers.setdefault(name, value)


def is_proxied(request: web.BaseRequest) -> bool:
    """Whether a request says that a proxy passed it on."""
    return any(name in request.headers for name in ("Via", *_SAID_BY_PROXIES))


def _bad_gateway(request: web.BaseRequest, code: str, title: str) -> web.Response:
    return ingress_answer(request, 502, code, title, "Its log may say why.", retry_s=5)


def _refuse(request: web.BaseRequest, status: int, code: str, title: str) -> web.Response:
    return ingress_answer(request, status, code, title, "Nothing was passed on.")
