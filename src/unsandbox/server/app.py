"""The server: aiohttp.web around the handlers."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace

from aiohttp import web

from unsandbox._version import __version__
from unsandbox.engine import (
    Conflict,
    Damaged,
    Engine,
    Forbidden,
    InsufficientStorage,
    InvalidRequest,
    LimitReached,
    NotImplementedHere,
    RequestError,
    Stopping,
    StorageUnavailable,
    TooLarge,
    UnknownJob,
    UnknownObject,
)
from unsandbox.engine.accounts.audit import code_hash
from unsandbox.engine.accounts.keys import KeyRing, KeySettings
from unsandbox.engine.store.disk_full import is_disk_full
from unsandbox.protocol import codec
from unsandbox.protocol.bounds import SMALL_BODY
from unsandbox.protocol.contents import ChunkReader, Pieces
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import (
    ENDPOINTS,
    FEATURES,
    FEATURES_HEADER,
    IDEMPOTENCY_HEADER,
    JOBS,
    REQUEST_ID_HEADER,
)
from unsandbox.protocol.models import Job
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.spec import MIB
from unsandbox.server import tracing
from unsandbox.server.auth import Unauthorized, check_headers
from unsandbox.server.body import read_body, too_large
from unsandbox.server.call import HOLD_S, SERVICE_DOMAIN, Call, Handler, read_flag
from unsandbox.server.handlers import HANDLERS
from unsandbox.server.ingress import Ingress
from unsandbox.server.metrics import CONTENT_TYPE as METRICS_TYPE
from unsandbox.server.metrics import Metrics, from_this_machine
from unsandbox.server.openapi import openapi_document
from unsandbox.server.rate import Rates
from unsandbox.server.shell import serve_shell
from unsandbox.server.streams import LOG_STREAM_PATHS, stream_events, stream_logs, stream_service_log
from unsandbox.server.sudo import Sudo, SudoNeeded

logger = logging.getLogger("unsandbox.server")
_http_logger = logging.getLogger("unsandbox.server.http")

_STATUS_OF_REFUSAL: dict[type[RequestError], int] = {
    InvalidRequest: 400,
    UnknownJob: 404,
    UnknownObject: 404,
    Forbidden: 403,
    NotImplementedHere: 501,
    Conflict: 409,
    TooLarge: 413,
    LimitReached: 429,
    Damaged: 409,
    InsufficientStorage: 507,
    StorageUnavailable: 503,
    Stopping: 503,
}
_RETRY_AFTER_S = "1"
_DISK_FULL = "the server's disk, or the quota of a work folder on it, is full; free space and send it again"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_FEATURES = ",".join(FEATURES)
_owner: ContextVar[str] = ContextVar("owner", default="")
"""Who signed the request that this task serves, for the log."""
_request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set while a handler of the API is at work, which may begin to send its answer."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how to listen.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 picks a free one.
        ssl_context: Serve https with this.
        body_bytes: Largest request body; more is answered with 413.
        hold_s: Seconds that `/execute` holds its answer before it says `running`.
        idle_s: Seconds within which a connection must have sent the headers of its next request.
        service_domain: Services are reached at hosts below it, and below `localhost` in any case.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    ssl_context: ssl.SSLContext | None = None
    body_bytes: int = 192 * MIB
    hold_s: float = HOLD_S
    idle_s: float = 75.0
    service_domain: str = SERVICE_DOMAIN


class Server:
    """The API over HTTP. Owns neither engine nor keys: whoever made them starts and stops them.

    Args:
        engine: A started engine.
        keys: Where secrets are found.
        config: Where and how to listen.
    """

    def __init__(self, engine: Engine, keys: KeyRing, config: ServerConfig | None = None) -> None:
        self._engine = engine
        self._keys = keys
        self._config = config or ServerConfig()
        self._sudo = Sudo()
        self._rates = Rates()
        self._metrics = Metrics(engine)
        self._ingress = Ingress(engine, self._config.service_domain)
        engine.quotas.rings.append(keys)
        self._site: web.TCPSite | None = None
        self._runner: web.AppRunner | None = None
        self.port = self._config.port

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        scheme = "https" if self._config.ssl_context else "http"
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"{scheme}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be bound.
        """
        app = web.Application(
            client_max_size=self._config.body_bytes, middlewares=[self._ingress.middleware, self._guard]
        )
        app.on_response_prepare.append(_introduce_stream)
        for endpoint in ENDPOINTS:
            handler = self._serve(endpoint, HANDLERS[endpoint.name])
            for method, path in ((endpoint.method, endpoint.path), *endpoint.aliases):
                if method == "GET":
                    app.router.add_get(path, handler)  # serves HEAD too
                else:
                    app.router.add_route(method, path, handler)
        app.router.add_get("/openapi.json", _serve_openapi)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/sessions/{id}/shell", self._serve_shell)
        app.router.add_get("/jobs/{id}/events", self._stream_events)
        for path in LOG_STREAM_PATHS:
            app.router.add_get(path, self._stream_logs)
        app.router.add_get("/services/{id}/logs/stream", self._stream_service_log)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_http_logger,
            handle_signals=False,
            shutdown_timeout=5.0,
            # By default an hour: who sends headers a byte a minute would hold a connection as long.
            keepalive_timeout=self._config.idle_s,
            # A body is passed on, and its signature checked, as it was sent; nor can a small one grow large.
            auto_decompress=False,
        )
        await self._runner.setup()
        self._site = web.TCPSite(
            self._runner,
            self._config.host,
            self._config.port,
            ssl_context=self._config.ssl_context,
            backlog=4096,
        )
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def stop(self) -> None:
        """Close every connection. Stop the engine before, so that held answers get their results."""
        await self.stop_listening()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._ingress.close()

    def sockets(self) -> list[int]:
        """Return the file descriptors that listen (a forked child must let go of them)."""
        server = None if self._site is None else self._site._server
        return [sock.fileno() for sock in getattr(server, "sockets", ())]

    def _serve(
        self, endpoint: Endpoint, handler: Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        has_files = endpoint.request is not None and "input_files" in endpoint.request.__struct_fields__

        async def serve(request: web.Request) -> web.StreamResponse:
            call = await self._read(
                request, signed=endpoint.auth == "signed", has_files=has_files, most=endpoint.body_bytes
            )
            if endpoint.name == "service_logs" and read_flag(call.query, "follow"):
                return await stream_service_log(request, call)
            if self._engine.audit is None or endpoint.method == "GET" or endpoint in JOBS:
                return await answer_to(call, request)
            status = 500
            try:
                response = await answer_to(call, request)
                status = response.status
            except RequestError as refusal:
                status = _STATUS_OF_REFUSAL.get(type(refusal), 400)
                raise
            else:
                return response
            finally:
                self._engine.audit.note(
                    endpoint.name,
                    owner=call.owner,
                    **{name: _logged(value) for name, value in call.params.items()},
                    # Of a short secret, a hash tells as much as the secret to whoever can guess.
                    body_sha256=None if endpoint.name == "set_vault" else call.body_sha256,
                    status=status,
                )

        async def answer_to(call: Call, request: web.Request) -> web.Response:
            if endpoint.protected:
                self._check_one_time_code(call.owner, request)

            async def answer() -> bytes:
                return codec.encode(await handler(call))

            if endpoint.creates and call.idempotency_key and endpoint not in JOBS:
                # Of a large body what is in memory says nothing of its files.
                said = call.body_sha256.encode() if call.marks else call.body
                fingerprint = hashlib.sha256(request.raw_path.encode() + b"\0" + said).hexdigest()
                body = await self._engine.replies.once(
                    call.owner, call.idempotency_key, fingerprint, answer, lambda *made: _describe(call, *made)
                )
                return _json(endpoint.status, body)
            found = await handler(call)
            encoded = self._engine.jobs.encoded(found) if type(found) is Job else codec.encode_pieces(found)
            return _json(endpoint.status, encoded)

        return serve

    async def _read(
        self,
        request: web.Request,
        *,
        signed: bool = True,
        has_files: bool = False,
        most: int | None = SMALL_BODY,
    ) -> Call:
        """Authenticate a request and read its body, of at most so many bytes or what this server takes.

        Raises:
            Unauthorized: It must be signed by a valid key and is not.
            TooLarge: The body is larger than the limit.
        """
        caller = check_headers(request, self._keys, time.time()) if signed else None
        limit = self._config.body_bytes if most is None else min(most, self._config.body_bytes)
        body = await read_body(request, caller, limit, has_files=has_files)
        if caller is not None:
            caller.check_expiry(time.time())
            _owner.set(caller.public_key)
            self._rates.take(caller.public_key, caller.settings)
        return Call(
            engine=self._engine,
            owner=caller.public_key if caller else "",
            settings=caller.settings if caller else KeySettings(),
            params=request.match_info,
            query=request.query,
            body=body.data,
            marks=body.marks,
            digest=body.digest,
            idempotency_key=request.headers.get(IDEMPOTENCY_HEADER),
            hold_s=self._config.hold_s,
            path=request.path,
            base_url=f"{request.scheme}://{request.host}",
            service_domain=self._config.service_domain,
        )

    async def _stream_events(self, request: web.Request) -> web.StreamResponse:
        return await stream_events(request, await self._read(request))

    async def _stream_logs(self, request: web.Request) -> web.StreamResponse:
        return await stream_logs(request, await self._read(request))

    async def _stream_service_log(self, request: web.Request) -> web.StreamResponse:
        return await stream_service_log(request, await self._read(request))

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        """Answer anybody on this machine, and any valid key from elsewhere."""
        if not from_this_machine(request):
            await self._read(request)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": METRICS_TYPE})

    async def _serve_shell(self, request: web.Request) -> web.StreamResponse:
        # Unsigned: by the protocol, knowing the id of a session is the permission.
        return await serve_shell(request, self._engine)

    def _check_one_time_code(self, owner: str, request: web.Request) -> None:
        secret = self._keys.otp_secret_of(owner)
        if secret is not None:
            self._sudo.check(owner, secret, f"{request.method} {request.path}", request.headers)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with tracing.serving(request) as span:
            response = await self._answer(request, handler)
            tracing.answered(span, response.status)
            return response

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Give every request an id, turn every failure into a JSON answer, log without secrets or code."""
        started = time.perf_counter()
        _owner.set("")
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.match(given) else "req_" + secrets.token_hex(8)
        _request_id.set(request_id)
        try:
            response = await handler(request)
        except Unauthorized as refusal:
            extra: dict[str, str | bool] = (
                {"valid": False, "reason": refusal.reason, **refusal.details}
                if request.path == "/keys/validate"
                else {}
            )
            response = _error(401, refusal.code, refusal.message, request_id, **extra)
        except SudoNeeded as needed:
            response = _error(
                428, "sudo_otp_required", needed.message, request_id, challenge_id=needed.challenge_id
            )
        except RequestError as refusal:
            status = _STATUS_OF_REFUSAL.get(type(refusal), 400)
            response = _error(status, refusal.code, refusal.message, request_id, **refusal.details)
            if status in {429, 503}:
                response.headers["Retry-After"] = str(refusal.details.get("retry_after", _RETRY_AFTER_S))
        except web.HTTPRequestEntityTooLarge:
            large = too_large(self._config.body_bytes)
            response = _error(413, large.code, large.message, request_id)
        except web.HTTPException as error:
            name = error.reason.lower().replace(" ", "_")
            text = "no such path; /openapi.json lists what there is" if error.status == 404 else error.reason
            response = _error(error.status, name, text, request_id)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except SandboxUnavailable as error:
            response = _error(400, "isolation_unavailable", str(error), request_id)
        except SandboxError as error:
            # Its sandbox ended or failed under the call: asked again, most things are well.
            logger.warning("request %s: %s", request_id, error)
            response = _error(409, "sandbox_failed", str(error), request_id)
        except Exception as error:
            if is_disk_full(error):
                logger.error("request %s: a disk is full", request_id)  # noqa: TRY400 - the trace says no more
                response = _error(507, InsufficientStorage.code, _DISK_FULL, request_id)
            else:
                logger.exception("request %s failed", request_id)
                response = _error(
                    500, "internal_error", f"the server failed; its log says why ({request_id})", request_id
                )
        _request_id.set("")
        if not response.prepared:
            _introduce(response, request_id)
        known = tracing.route_of(request)
        route = known or "?"
        seconds = time.perf_counter() - started
        self._metrics.note(request.method if known else "?", route, response.status, seconds)
        tracing.measure(request, response.status, seconds)
        self._engine.logbook.note(
            "api",
            _owner.get(),
            f"{request_id} {request.method} {route} {response.status} {seconds * 1000:.1f} ms",
        )
        return response


def _introduce(response: web.StreamResponse, request_id: str) -> None:
    """Say in an answer of the API who gives it, and under which id."""
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[FEATURES_HEADER] = _FEATURES
    response.headers["Server"] = f"unsandbox/{__version__}"


async def _introduce_stream(_request: web.Request, response: web.StreamResponse) -> None:
    if request_id := _request_id.get():
        _introduce(response, request_id)


def _logged(name: str) -> str:
    """Return an id as logs have it: of a session's, which opens its terminal, only a hash."""
    return f"session_sha256:{code_hash(name)[:16]}" if name.startswith("session_") else name


async def _describe(call: Call, kind: str, object_id: str) -> bytes | None:
    """Return the answer for an object that exists; None when it does not."""
    handler = HANDLERS.get(f"get_{kind}")
    if handler is None:
        return None
    try:
        return codec.encode(await handler(replace(call, params={"id": object_id})))
    except UnknownObject:
        return None


def _without_content(record: logging.LogRecord) -> bool:
    """Reduce what aiohttp logs of broken requests to the fact: their bytes may be secrets or code."""
    record.msg, record.args = "a connection sent what is not a usable HTTP request", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return logger.isEnabledFor(logging.INFO)


_http_logger.addFilter(_without_content)


async def _serve_openapi(_request: web.Request) -> web.Response:
    return _json(200, openapi_document())


def _json(status: int, body: bytes | Pieces) -> web.Response:
    if isinstance(body, bytes):
        return web.Response(status=status, body=body, content_type="application/json")
    reader = ChunkReader(body.chunks())
    headers = {"Content-Length": str(len(body))}
    return web.Response(status=status, body=reader, content_type="application/json", headers=headers)


def _error(status: int, code: str, message: str, request_id: str, **details: int | str | bool) -> web.Response:
    # The order matters to clients that search the text: what is read at top level comes first.
    members = {"error": code, "message": message, "request_id": request_id, **details}
    return _json(status, codec.encode(members))
