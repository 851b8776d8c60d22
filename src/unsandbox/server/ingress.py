"""The ingress: requests for the host name of a service, handed to the program inside it.

Request and response bodies pass through as they come, in both directions and without a bound; WebSockets become
a plain tunnel once the program has agreed. What is between us and our neighbours (RFC 9110, 7.6.1) stays there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar

import aiohttp
from aiohttp import hdrs, web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from unsandbox.engine import Conflict, Engine, RequestError, UnknownObject
from unsandbox.engine.services.router import Target, Unreachable
from unsandbox.protocol.endpoints.jobs import CHALLENGE_HEADER, OTP_HEADER
from unsandbox.sandbox.errors import SandboxError
from unsandbox.server.call import SERVICE_DOMAIN
from unsandbox.server.hosts import host_name, label_of
from unsandbox.server.ingress_pages import ingress_answer
from unsandbox.server.tunnel import tunnel

logger = logging.getLogger("unsandbox.server.ingress")

ANSWER_S = 120.0
"""How long a program has for the head of its answer, counted from the last that was sent to it."""
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
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _Connection:
    """A connected socket until somebody takes it over."""

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


_connection: ContextVar[_Connection] = ContextVar("connection")
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
        _, protocol = await self._loop.create_connection(self._factory, sock=_connection.get().take())
        return protocol


class Ingress:
    """Hands requests to services.

    Args:
        engine: Has the services.
        domain: Services are reached at hosts below it, and below `localhost` in any case.
    """

    def __init__(self, engine: Engine, domain: str = SERVICE_DOMAIN) -> None:
        self._engine = engine
        self._domains = tuple(dict.fromkeys((domain.lower(), SERVICE_DOMAIN)))
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End what is under way."""
        if self._session is not None:
            await self._session.close()

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer requests for the host name of a service; all others go on to the API."""
        hosts = request.headers.getall(hdrs.HOST, [])
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            if not hosts and request.version < aiohttp.HttpVersion11:
                return await handler(request)
            return _refuse(request, 400, "bad_host", "The request does not name one host")
        label, router = label_of(name, self._domains), self._engine.services.router
        if router.is_reserved(name):
            return await handler(request)
        if label is not None:
            target = router.named(label)
        elif router.is_domain(name):
            target = router.with_domain(name)
        else:
            return await handler(request)
        if target is None:
            return ingress_answer(
                request,
                404,
                "service_not_found",
                "There is no such service",
                "No service has this name, or it has no port that could be reached under it.",
            )
        return await self._serve(request, target, hosts[0])

    async def _serve(self, request: web.Request, target: Target, host: str) -> web.StreamResponse:
        if request.headers.get(hdrs.AUTHORIZATION, "").lower().startswith(_KEY_PREFIX):
            return _refuse(
                request, 421, "misdirected_request", "This host is a service, and not the API; keys stay out"
            )
        if not request.raw_path.startswith("/") or not request.raw_path.isascii():
            return _refuse(request, 400, "bad_target", "The target of the request must be an ASCII path")
        work = asyncio.ensure_future(self._forward(request, target, host))
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

    async def _forward(self, request: web.Request, target: Target, host: str) -> web.StreamResponse:
        try:
            descriptor = await self._engine.services.router.connect(target)
        except Unreachable as reason:
            return _unreachable(request, target, reason)
        except UnknownObject:
            return ingress_answer(
                request, 404, "service_not_found", "There is no such service", "It was deleted."
            )
        except (RequestError, Conflict, SandboxError, OSError) as error:
            logger.warning("service %s cannot be reached: %s", target.record.object_id, error)
            return _bad_gateway(request, "service_unavailable", "The service cannot be started right now")
        connection = _Connection(descriptor)
        _connection.set(connection)
        try:
            async with asyncio.timeout(ANSWER_S) as limit:
                answer = await self._send(request, target, host, limit)
        except TimeoutError:
            return _refuse(request, 504, "service_timeout", "The service does not answer")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            logger.info("service %s: no answer: %s", target.record.object_id, type(error).__name__)
            return _bad_gateway(request, "bad_answer", "The service closed the connection without an answer")
        finally:
            connection.close()
        async with answer:
            if answer.status == 101:
                if not _wants_websocket(request):
                    return _bad_gateway(
                        request, "bad_answer", "The service switched to a protocol that was not requested"
                    )
                headers = _forwarded(answer.headers)
                headers.update(_upgrade(answer.headers))
                return await tunnel(request, answer, headers)
            return await _pass_on(request, answer)

    async def _send(
        self, request: web.Request, target: Target, host: str, limit: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_ReadyConnector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_AUTO_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                max_field_size=64 * 1024,
            )
        headers = _forwarded(request.headers)
        headers[hdrs.HOST] = host
        _tell_origin(headers, request, host)
        body = _sent_body(request, limit) if request.can_read_body else None
        if body is None:
            headers.popall(hdrs.CONTENT_LENGTH, None)
        if _wants_websocket(request):
            headers.update(_upgrade(request.headers))
        # The address is not used: the connection is there already.
        place = URL(f"http://127.0.0.1:{target.port}{request.raw_path}", encoded=True)
        return await self._session.request(
            request.method, place, headers=headers, data=body, allow_redirects=False
        )


async def _sent_body(request: web.Request, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
    """Yield the body as it comes; as long as it does, the program need not answer."""
    loop = asyncio.get_running_loop()
    async for chunk in request.content.iter_any():
        yield chunk
        # The answer may have begun before the body has ended.
        with contextlib.suppress(RuntimeError):
            limit.reschedule(loop.time() + ANSWER_S)


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(
        status=answer.status, reason=_sendable(answer.reason or ""), headers=_forwarded(answer.headers)
    )
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


def _wants_websocket(request: web.Request) -> bool:
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def _upgrade(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict({hdrs.CONNECTION: "Upgrade", hdrs.UPGRADE: headers.get(hdrs.UPGRADE, "websocket")})


def _tell_origin(headers: CIMultiDict[str], request: web.Request, host: str) -> None:
    """Say who asks and how. A proxy on this machine is believed about what it says itself."""
    peer = request.remote or ""
    before = headers.popall("X-Forwarded-For", [])
    told = {"X-Forwarded-Proto": request.scheme, "X-Forwarded-Host": host}
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(peer).is_loopback:
            told = {name: headers.get(name, value) for name, value in told.items()}
        else:
            before = []
            for name in ("Forwarded", "X-Real-IP"):
                headers.popall(name, None)
    headers["X-Forwarded-For"] = ", ".join([*before, peer])
    for name, value in told.items():
        headers[name] = value


def _unreachable(request: web.Request, target: Target, reason: Unreachable) -> web.Response:
    if reason.code == "service_frozen":
        return ingress_answer(
            request,
            503,
            reason.code,
            "This service is frozen",
            "It is paused and uses no resources. Its owner can resume it.",
            retry_s=60,
            as_page=target.record.show_freeze_page,
        )
    if reason.code == "nothing_listens":
        return ingress_answer(
            request,
            502,
            reason.code,
            "The service does not listen",
            f"Nothing answers on its port {target.port}. It may still be starting; its log says more.",
            retry_s=5,
        )
    return ingress_answer(
        request, 503, reason.code, "This service is not running", "Its program has ended; its log says why."
    )


def _bad_gateway(request: web.Request, code: str, title: str) -> web.Response:
    return ingress_answer(request, 502, code, title, "Its log may say why.", retry_s=5)


def _refuse(request: web.Request, status: int, code: str, title: str) -> web.Response:
    return ingress_answer(request, status, code, title, "Nothing was passed on.")
