"""The server: aiohttp.web around the endpoint table."""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from aiohttp import web

from unsandbox.engine import Engine
from unsandbox.engine.accounts.keys import KeyRing
from unsandbox.protocol.endpoints.jobs import ENDPOINTS, REQUEST_ID_HEADER
from unsandbox.protocol.file_urls import CONTENT_PATH
from unsandbox.server import tracing
from unsandbox.server.auth import Caller
from unsandbox.server.config import ServerConfig
from unsandbox.server.hosts import from_this_machine
from unsandbox.server.ingress.connections import Connections
from unsandbox.server.ingress.gateway import Gateway
from unsandbox.server.ingress.html_page import FRONT_PAGE, FRONT_TITLE, html_page
from unsandbox.server.ingress.routing import ServiceHosts
from unsandbox.server.metrics import CONTENT_TYPE as METRICS_TYPE
from unsandbox.server.metrics import Budget, Metrics
from unsandbox.server.openapi import openapi_document
from unsandbox.server.operation import Operation
from unsandbox.server.protocols import http_logger
from unsandbox.server.reader import RequestReader, signer
from unsandbox.server.responses import error_response, introduce, json_response
from unsandbox.server.shell import serve_shell
from unsandbox.server.streaming.file_content import serve_content
from unsandbox.server.streaming.ports import serve_port
from unsandbox.server.streams import LOG_STREAM_PATHS, stream_events, stream_logs, stream_service_log
from unsandbox.server.sudo import Sudo
from unsandbox.server.watchdog import LoopWatchdog

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Mount = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
"""Answers a request of another protocol, which the key of the caller has sent."""


_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_SHUTDOWN_S = 5.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens on all, and how to reach it
_request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Set while a handler of the API is at work, which may begin to send its answer."""


class Server:
    """The API over HTTP. Owns neither engine nor keys: their owner starts and stops them.

    Args:
        engine: A started engine.
        keys: The lookup of secrets.
        config: Address and options of the server.

    Attributes:
        engine: As given.
        config: As given.
        reader: Authenticates requests.
    """

    def __init__(self, engine: Engine, keys: KeyRing, config: ServerConfig | None = None) -> None:
        self._engine = self.engine = engine
        self._keys = keys
        self._config = self.config = config or ServerConfig()
        self._reader = self.reader = RequestReader(engine, keys, self._config)
        self._sudo = Sudo()
        watchdog_s = self._config.watchdog_s
        self._watchdog = None if watchdog_s is None else LoopWatchdog(watchdog_s)
        self._metrics = Metrics(engine, self._budget, self._watchdog)
        self._gateway: Gateway | None = None
        engine.quotas.rings.append(keys)
        self._loopback: web.SockSite | None = None
        self._mounts: dict[str, Mount] = {}
        self._runner: web.AppRunner | None = None
        self.port = self._config.port

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        scheme = "https" if self._config.tls else "http"
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"{scheme}://{host}:{self.port}"

    def mount(self, path: str, serve: Mount) -> None:
        """Serve requests to a path with another protocol, whose clients send a key pair as a bearer token.

        Args:
            path: The path.
            serve: Answers authenticated requests. Must be given before the start.
        """
        self._mounts[path] = serve

    @property
    def connections(self) -> Connections | None:
        """The count of strangers' connections, for further ports; None before the start."""
        return None if self._gateway is None else self._gateway.port.connections

    async def loopback_url(self) -> str:
        """Return a URL of the API for programs on this machine that need no certificate.

        With TLS, the first call opens a further port on the loopback interface.
        """
        if self._config.tls is None:
            host = _LOOPBACK.get(self._config.host, self._config.host)
            return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        if self._loopback is None:
            if self._runner is None:
                raise RuntimeError("the server is not started")
            self._loopback = web.SockSite(self._runner, socket.create_server(("127.0.0.1", 0)))
            await self._loopback.start()
        return self._loopback.name

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be bound.
        """
        hosts = ServiceHosts(self._engine.services.router, self._engine.sessions, self._config.service_domain)
        gateway = self._gateway = Gateway(hosts, self._config)
        self._runner = web.AppRunner(
            self._application(gateway),
            access_log=None,
            logger=http_logger(),
            handle_signals=False,
            shutdown_timeout=_SHUTDOWN_S,
            # By default an hour: a client that sends a byte of its headers a minute would stay as long.
            keepalive_timeout=self._config.idle_s,
            # A body is passed on, and its signature checked, as it was sent; nor can a small one grow large.
            auto_decompress=False,
        )
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the runner is not set up")
        self.port = await gateway.start(self._runner.server)
        if self._watchdog is not None:
            self._watchdog.start()
        if len(self._engine.services):
            gateway.ingress.start()

    async def stop_listening(self) -> None:
        """Refuse new connections; open ones continue."""
        if self._gateway is not None:
            self._gateway.port.stop()

    async def stop(self) -> None:
        """Close every connection. Stop the engine before, so that held answers get their results."""
        if self._watchdog is not None:
            self._watchdog.stop()
        await self.stop_listening()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._gateway is not None:
            await self._gateway.stop()

    def sockets(self) -> list[int]:
        """Return the file descriptors that listen (a forked child must close them)."""
        return [] if self._gateway is None else self._gateway.port.sockets()

    def _application(self, gateway: Gateway) -> web.Application:
        app = web.Application(
            client_max_size=self._config.body_bytes, middlewares=[gateway.middleware, self._guard]
        )
        app.on_response_prepare.append(_introduce_stream)
        for endpoint in ENDPOINTS:
            serve = Operation(endpoint, self._engine, self._reader, self._check_one_time_code).serve
            for method, path in ((endpoint.method, endpoint.path), *endpoint.aliases):
                if method == "GET":
                    app.router.add_get(path, serve)  # serves HEAD too
                else:
                    app.router.add_route(method, path, serve)
        for path in self._mounts:
            app.router.add_route("*", path, self._serve_mount)
        app.router.add_get("/", self._serve_front_page)
        app.router.add_get("/openapi.json", self._serve_openapi)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/sessions/{id}/shell", self._serve_shell)
        app.router.add_get("/sessions/{id}/ports/{port}", self._serve_port)
        for verb in ("GET", "HEAD", "PUT"):
            app.router.add_route(verb, CONTENT_PATH, self._serve_content)
        app.router.add_get("/jobs/{id}/events", self._stream_events)
        for path in LOG_STREAM_PATHS:
            app.router.add_get(path, self._stream_logs)
        app.router.add_get("/services/{id}/logs/stream", self._stream_service_log)
        return app

    async def _stream_events(self, request: web.Request) -> web.StreamResponse:
        return await stream_events(request, await self._reader.read(request))

    async def _serve_content(self, request: web.Request) -> web.StreamResponse:
        """Read or write a file with a signed URL and no other credentials."""
        return await serve_content(request, self._engine, self._reader.read_signed_url(request))

    async def _serve_port(self, request: web.Request) -> web.StreamResponse:
        return await serve_port(request, await self._reader.read(request))

    async def _stream_logs(self, request: web.Request) -> web.StreamResponse:
        return await stream_logs(request, await self._reader.read(request))

    async def _stream_service_log(self, request: web.Request) -> web.StreamResponse:
        return await stream_service_log(request, await self._reader.read(request))

    async def _serve_mount(self, request: web.Request) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        caller = self._reader.read_token(request, token if scheme.lower() == "bearer" else "")
        return await self._mounts[request.path](request, caller)

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        """Answer any request from this machine, and signed ones from elsewhere."""
        if from_this_machine(request):
            self._reader.check_host(request)
        else:
            await self._reader.read(request)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": METRICS_TYPE})

    async def _serve_front_page(self, request: web.Request) -> web.Response:
        """Tell a browser about this server; programs get 404, as for every path without meaning."""
        self._reader.check_host(request)
        if "text/html" not in request.headers.get("Accept", ""):
            raise web.HTTPNotFound
        return html_page(FRONT_TITLE, FRONT_PAGE)

    async def _serve_openapi(self, request: web.Request) -> web.Response:
        self._reader.check_host(request)
        return json_response(200, openapi_document())

    async def _serve_shell(self, request: web.Request) -> web.StreamResponse:
        return await serve_shell(request, self._engine, self._reader)

    def _budget(self) -> Budget:
        """Return what the server holds for others now."""
        gateway, unproved = self._gateway, self._reader.unproved
        if gateway is None:
            return Budget({}, {}, {}, 0)
        visitors = gateway.ingress.last_ping
        return Budget(
            connections={"api": gateway.port.open_connections, "ingress": visitors.connections},
            refused={"connections": gateway.port.connections.refused, "heads": gateway.port.held.refused},
            held_bytes={
                "heads": len(gateway.port.held),
                "ingress_heads": visitors.held,
                "unproved_memory": unproved.in_memory.total(),
                "unproved_disk": unproved.on_disk.total(),
                "job_input": self._engine.jobs.table.input_bytes,
                "job_results": self._engine.jobs.table.ended_bytes,
                "replies": self._engine.replies.total_bytes,
            },
            ingress_starts=gateway.ingress.starts,
        )

    def _check_one_time_code(self, owner: str, request: web.Request) -> None:
        secret = self._keys.otp_secret_of(owner)
        if secret is not None:
            self._sudo.check(owner, secret, f"{request.method} {request.path}", request.headers)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        with tracing.serving(request) as span:
            response = await self._answer(request, handler)
            tracing.answered(span, response.status)
            return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give every request an id, turn every failure into a JSON answer, log without secrets or code."""
        started = time.perf_counter()
        signer.set("")
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.match(given) else "req_" + secrets.token_hex(8)
        _request_id.set(request_id)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - logged there where it is not expected
            response = error_response(error, request, request_id, self._config.body_bytes)
        _request_id.set("")
        if not response.prepared:
            introduce(response, request_id)
        self._record(request, response.status, time.perf_counter() - started, request_id)
        return response

    def _record(self, request: web.Request, status: int, seconds: float, request_id: str) -> None:
        """Count and log an answered request."""
        known = tracing.route_of(request)
        route = known or "?"
        self._metrics.note(request.method if known else "?", route, status, seconds)
        tracing.measure(request, status, seconds)
        line = f"{request_id} {request.method} {route} {status} {seconds * 1000:.1f} ms"
        self._engine.logbook.note("api", signer.get(), line)


async def _introduce_stream(_request: web.Request, response: web.StreamResponse) -> None:
    if request_id := _request_id.get():
        introduce(response, request_id)
