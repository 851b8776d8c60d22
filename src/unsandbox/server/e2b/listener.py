"""The listener: leads requests to the control plane, or to a sandbox by headers, host name or token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import BasicAuth, hdrs, web

from unsandbox.server.app import Server
from unsandbox.server.config import TlsFiles
from unsandbox.server.e2b import control, filesystem, processes
from unsandbox.server.e2b.errors import (
    E2bError,
    SandboxGoneError,
    as_e2b_error,
    connect_error,
    json_answer,
    plain_error,
    text_error,
)
from unsandbox.server.e2b.files import Files, check_user, is_signed
from unsandbox.server.e2b.interpreter import Interpreter
from unsandbox.server.e2b.sandboxes import E2bSandbox, E2bSandboxes
from unsandbox.server.ingress.handoff import settle
from unsandbox.server.ingress.listening import Listening
from unsandbox.server.protocols import SERVER_NAME, http_logger

logger = logging.getLogger("unsandbox.server.e2b")

_HOST = re.compile(r"(\d{1,5})-([a-z0-9]+(?:-[a-z0-9]+)?)\.", re.IGNORECASE)
_IDLE_S = 75.0
_BEGUN = "answer has begun"
_BODY_BYTES = 4 << 20
"""Of one message; files come in pieces and have no such bound."""
_INTERPRETER = ("/execute", "/contexts")
_PURPOSES = (("X-Access-Token", "envd"), ("E2B-Traffic-Access-Token", "traffic"))

Shape = Callable[[E2bError], web.Response]
Call = Callable[[web.Request, E2bSandbox], Awaitable[web.StreamResponse]]


class E2bListener:
    """Serves E2B's clients on a port.

    Args:
        server: The started server, which authenticates keys and counts connections.
        host: Address to listen on.
        port: Port; 0 picks a free one.
        tls: Serve https with this; the certificate is for `*.DOMAIN`.
    """

    def __init__(self, server: Server, host: str, port: int, tls: TlsFiles | None = None) -> None:
        self._sandboxes = E2bSandboxes(server.engine)
        self._reader = server.reader
        self._host, self.port, self._tls = host, port, tls
        self._listening = Listening(host, port, tls, _IDLE_S, server.connections)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be bound.
        """
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[_settled])
        app.on_response_prepare.append(_begin)
        self._add_routes(app.router)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=http_logger(),
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=_IDLE_S,
            auto_decompress=False,
        )
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the runner is not set up")
        self.port = await self._listening.start(self._runner.server)

    async def stop(self) -> None:
        """Stop listening, and end all sandboxes."""
        self._listening.stop()
        await self._sandboxes.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/health", self._health)
        keyed = control.Control(self._sandboxes)
        for method, path, name in control.ROUTES:
            router.add_route(method, path, self._with_key(getattr(keyed, name)))
        for service, methods, calls in (
            ("process.Process", processes.METHODS, processes.Processes(self._sandboxes)),
            ("filesystem.Filesystem", filesystem.METHODS, filesystem.Filesystem(self._sandboxes)),
        ):
            for method, name in methods.items():
                router.add_post(f"/{service}/{method}", self._in_sandbox(getattr(calls, name), connect_error))
        files = Files(self._sandboxes)
        router.add_get("/files", self._in_sandbox(files.read, plain_error))
        router.add_post("/files", self._in_sandbox(files.write, plain_error))
        router.add_get("/metrics", self._in_sandbox(self._metrics, plain_error))
        router.add_get("/envs", self._in_sandbox(_envs, plain_error))
        interpreter = Interpreter()
        for method, path, call in (
            ("POST", "/execute", interpreter.execute),
            ("POST", "/contexts", interpreter.create),
            ("GET", "/contexts", interpreter.list),
            ("DELETE", "/contexts/{id}", interpreter.remove),
            ("POST", "/contexts/{id}/restart", interpreter.restart),
        ):
            router.add_route(method, path, self._in_sandbox(call, text_error))

    def _with_key(
        self, call: Callable[..., Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                caller = self._reader.read_token(request, request.headers.get("X-API-KEY", ""))
                return await call(request, caller.public_key, caller.settings)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - logged there where it is not expected
                known = as_e2b_error(error)
                return plain_error(
                    E2bError("not_found", known.message) if isinstance(known, SandboxGoneError) else known
                )

        return serve

    def _in_sandbox(self, call: Call, shape: Shape) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            sandbox_id = ""
            try:
                sandbox = self._addressed(request)
                sandbox_id = sandbox.sandbox_id
                self._check_token(request, sandbox)
                self._reader.admit(request, sandbox.owner)
                if not self._sandboxes.is_alive(sandbox) or sandbox.paused:
                    raise SandboxGoneError(sandbox_id)  # noqa: TRY301 - shaped below like the others
                check_user(_user_of(request))
                return await call(request, sandbox)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - logged there where it is not expected
                answer = shape(as_e2b_error(error, sandbox_id))
                if request.get(_BEGUN) and request.transport is not None:
                    # Half an answer must not look like a whole one, nor contain another one.
                    request.transport.abort()
                return answer

        return serve

    def _addressed(self, request: web.Request) -> E2bSandbox:
        """Return the sandbox of a request: by header, by host name, or by the token that it brings."""
        sandbox_id = request.headers.get("E2b-Sandbox-Id", "")
        if not sandbox_id and (match := _HOST.match(request.host)):
            sandbox_id = match[2].lower()
        if sandbox_id:
            return self._sandboxes.find(sandbox_id)
        # Signed URLs, and some clients when they use files, say no more than this.
        if token := request.headers.get("X-Access-Token", ""):
            found = self._sandboxes.by_token(lambda known: _equal(token, known))
        else:
            found = self._sandboxes.by_token(lambda known: is_signed(request, known, time.time()))
        if found is None and "signature" in request.query:
            raise E2bError("unauthenticated", "the signature is not valid, or has expired")
        if found is None:
            raise SandboxGoneError("")
        return found

    def _check_token(self, request: web.Request, sandbox: E2bSandbox) -> None:
        # The other token is for the programs in a sandbox, of which the interpreter is one.
        purposes = _PURPOSES if request.path.startswith(_INTERPRETER) else _PURPOSES[:1]
        for header, purpose in purposes:
            given = request.headers.get(header, "")
            if given and _equal(given, self._sandboxes.token(sandbox, purpose)):
                return
        if request.path == "/files" and is_signed(request, self._sandboxes.token(sandbox, "envd"), time.time()):
            return
        raise E2bError("unauthenticated", "the access token or the signature is missing or not valid")

    async def _metrics(self, _request: web.Request, sandbox: E2bSandbox) -> web.Response:
        found = control.metrics_of(await self._sandboxes.usage(sandbox))
        names = ("cpu_count", "cpu_used_pct", "mem_used", "mem_total", "mem_cache", "disk_used", "disk_total")
        values = list(found.values())
        return json_answer({"ts": values[1], **dict(zip(names, values[2:], strict=True))})

    async def _health(self, request: web.Request) -> web.Response:
        """Answer for the control plane, or for a sandbox if the request names one."""
        if "E2b-Sandbox-Id" not in request.headers and not _HOST.match(request.host):
            return web.Response(text="Health check successful")
        try:
            sandbox = self._addressed(request)
            if not self._sandboxes.is_alive(sandbox) or sandbox.paused:
                raise SandboxGoneError(sandbox.sandbox_id)  # noqa: TRY301
        except SandboxGoneError as error:
            return plain_error(error)
        return web.Response(status=204)


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _user_of(request: web.Request) -> str:
    """Return the user that a request names; empty if none."""
    header = request.headers.get(hdrs.AUTHORIZATION, "")
    if not header.lower().startswith("basic "):
        return ""
    try:
        return str(BasicAuth.decode(header).login)
    except ValueError as error:
        raise E2bError("unauthenticated", "the header Authorization is not usable") from error


async def _begin(request: web.Request, response: web.StreamResponse) -> None:
    request[_BEGUN] = True
    response.headers[hdrs.SERVER] = SERVER_NAME


@web.middleware
async def _settled(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Keep no bytes of requests, which no other process will serve."""
    settle(request)
    return await handler(request)


async def _envs(_request: web.Request, sandbox: E2bSandbox) -> web.Response:
    return json_answer(sandbox.env)


@contextlib.asynccontextmanager
async def serve_e2b(server: Server, port: int) -> AsyncIterator[dict[str, str]]:
    """Serve E2B's clients beside a server, until the block ends.

    Args:
        server: The server; its engine has been started.
        port: The port; 0 picks a free one.

    Yields:
        A member for the first line of `un serve`: `e2b_url`.
    """
    config = server.config
    listener = E2bListener(server, config.host, port, config.tls)
    await listener.start()
    try:
        yield {"e2b_url": listener.url}
    finally:
        await listener.stop()
