"""One server as seen from here: where it is, the connections to it, what it can do, and calls to it."""

# ruff: noqa: ASYNC109 - the sync twin has no other way to be given a time limit

from __future__ import annotations

import contextlib
import copy
import logging
import os
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unsandbox._async.events import Observer
from unsandbox._compat.aio import Lock, OneTimeCode, in_thread, maybe_await, owner, sleep
from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox._shared.hooks import NO_HOOKS, Hooks, RequestEvent
from unsandbox._shared.request import PreparedRequest, clock_offset, library_error
from unsandbox._shared.server import LOCAL, Server, parse_base
from unsandbox._shared.tracing import inject, span
from unsandbox._transports.aiohttp import AiohttpTransport, load, loaded
from unsandbox._transports.aiohttp_live import LIBRARY, AiohttpSocket, AiohttpStream
from unsandbox._transports.common import MAX_CONNECTIONS, RawResponse
from unsandbox.credentials import Credentials
from unsandbox.errors import (
    APIError,
    ClientStateError,
    ConnectionFailedError,
    InvalidRequestError,
    InvalidResponseError,
    SudoRequiredError,
    UnavailableError,
    UnsandboxError,
)
from unsandbox.protocol.answers import api_error, read_object
from unsandbox.protocol.contents import Pieces
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import (
    BY_NAME,
    CHALLENGE_HEADER,
    FEATURES_HEADER,
    IDEMPOTENCY_HEADER,
    OTP_HEADER,
)
from unsandbox.protocol.retry import Attempt, RetryPolicy, retry_delay
from unsandbox.protocol.signing import CLOCK_TOLERANCE_S, build_target, signed_headers
from unsandbox.protocol.splitting import restored

if TYPE_CHECKING:
    from unsandbox.engine import EngineConfig

__all__ = ["DEFAULT_TIMEOUT_S", "STREAM_IDLE_S", "ServerConnection"]

logger = logging.getLogger("unsandbox.client")

_SWITCHED = 101
"""HTTP status of an answer that opens a WebSocket."""

DEFAULT_TIMEOUT_S = 120.0

STREAM_IDLE_S = 60.0
"""Seconds without a byte, keep-alives included, after which a stream counts as broken."""

_MISSING = {
    "stdin": "this server gives programs no standard input; send the data as an input file instead",
    "args": "this server gives programs no arguments; send them as an input file or in env instead",
    "isolation": "this server does not let the isolation be chosen, and it could be weaker than you ask for",
}

_WORST_CLOCK_S = 86400.0
"""A `Date` farther away is not believed: a signature for a later day could be kept, and used then."""

_INSTEAD_OF_ACTING = frozenset({429, 503})
"""Statuses of a server that has done nothing of what it was asked."""

_CODES_ASKED = 3
"""How often somebody who types a one-time code may get it wrong."""


class _State:
    """What links over the same connections share."""

    __slots__ = (
        "announced",
        "clock_offset",
        "closed",
        "features",
        "opening",
        "owner",
        "pid",
        "server",
        "transport",
    )

    def __init__(self, server: Server | None) -> None:
        self.server = server
        self.transport: AiohttpTransport | None = None
        self.features: frozenset[str] | None = None
        self.announced: str | None = None
        self.owner: object = None
        self.opening = Lock()
        self.clock_offset = 0.0
        self.pid = os.getpid()
        self.closed = False


class _Signer:
    """Signs the attempts of one call, and notes once by how much our clock is wrong.

    Args:
        state: Holds how far the server's clock is ahead.
        keys: What to sign with; None where nothing is signed.
    """

    __slots__ = ("_corrected", "_keys", "_offset", "_state")

    def __init__(self, state: _State, keys: Credentials | None) -> None:
        self._state = state
        self._keys = keys
        self._offset = 0.0
        self._corrected = False

    def headers(self, method: str, target: str, body: bytes | Pieces = b"") -> dict[str, str]:
        """Return the headers that sign one attempt, now."""
        keys = self._keys
        if keys is None:
            return {}
        self._offset = self._state.clock_offset
        timestamp = int(time.time() + self._offset)
        return signed_headers(keys.public_key, keys.secret_key, timestamp, method, target, body)

    def clock_was_wrong(self, status: int, headers: Mapping[str, str]) -> bool:
        """Tell whether a refusal came of the clock that was signed with; from then on the server's is taken.

        Another call may have found out meanwhile: what this one was signed with was wrong all the same.
        """
        if status != 401 or "Date" not in headers:
            return False
        offset = clock_offset(headers)
        wrong = abs(offset - self._offset) > CLOCK_TOLERANCE_S and abs(offset) < _WORST_CLOCK_S
        if not wrong or self._corrected:
            return False
        self._corrected = True
        if self._state.clock_offset == self._offset:
            logger.warning("this machine's clock is %.0f s off the server's, which is taken instead", -offset)
        self._state.clock_offset = offset
        return True


class ServerConnection:
    """The connections to one server, for any number of credentials.

    Args:
        base_url: Base URL, or `local` for the engine inside this process.
        timeout: Seconds for one HTTP request.
        retry: How often a failed request is repeated.
        max_connections: Connections at a time; further requests wait for one.
        engine_config: Bounds of the embedded engine.
        hooks: Whom to tell about requests.
        whole: Whether answers hold large files as text; else those lie on disk, and marks stand for them.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_connections: int = MAX_CONNECTIONS,
        engine_config: EngineConfig | None = None,
        hooks: Hooks = NO_HOOKS,
        whole: bool = False,
    ) -> None:
        self.base_url = base_url
        self.timeout = timeout
        self.retry = retry or RetryPolicy()
        self.told = Observer(hooks)
        self._whole = whole
        self._max_connections = max_connections
        self._engine_config = engine_config
        self._state = _State(None if base_url == LOCAL else parse_base(base_url))

    @property
    def features(self) -> frozenset[str] | None:
        """What the server announced; None before its first answer."""
        return self._state.features

    def with_options(
        self, timeout: float | None = None, retry: RetryPolicy | None = None, hooks: Hooks | None = None
    ) -> ServerConnection:
        """Return a link over the same connections with some options changed."""
        other = copy.copy(self)
        other.timeout = self.timeout if timeout is None else timeout
        other.retry = retry or self.retry
        other.told = self.told if hooks is None else Observer(hooks)
        return other

    def cleaning(self) -> ServerConnection:
        """Return a link over the same connections for a clean-up, which no error of a hook stops."""
        other = copy.copy(self)
        other.told = Observer(self.told.hooks, cleaning=True)
        return other

    def enter(self) -> None:
        """Belong to the running event loop from now on.

        Raises:
            ClientStateError: It is closed, or belongs to another loop.
        """
        if self._state.closed:
            raise ClientStateError("this client is closed: make a new one")
        running = owner()
        if self._state.owner is None:
            self._state.owner = running
        elif self._state.owner is not running:
            raise ClientStateError(
                "this client belongs to another event loop: make one client per loop, inside it"
            )

    async def close(self) -> None:
        """Close the connections. Closing twice does no harm."""
        self._state.closed = True
        transport, self._state.transport = self._state.transport, None
        if transport is not None:
            await transport.close()

    async def call(
        self,
        keys: Credentials | None,
        name: str,
        *,
        params: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
        order: PreparedRequest | None = None,
        deadline: Deadline = NEVER,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        urgent: bool = False,
        otp: OneTimeCode | None = None,
    ) -> dict[str, Any]:
        """Do one operation of the API, with retries.

        Args:
            keys: What to sign with; unused where the endpoint or the server needs none.
            name: Name of the operation in the endpoint table.
            params: Values for the placeholders of its path.
            query: Members of its query.
            order: Body and idempotency key; notes whether anything was sent.
            deadline: The caller's deadline.
            timeout: Seconds for one HTTP request instead of the link's own.
            retry: Policy instead of the link's own.
            urgent: Not to wait for a free connection: ending jobs must be possible while all are held by them.
            otp: The one-time code for a protected call, or what returns it when the server asks.

        Returns:
            The JSON object of the answer.

        Raises:
            APIError: The server answered with an error status.
            ConnectionFailedError: There was no answer.
            InvalidResponseError: The answer is not a JSON object.
        """
        self.enter()
        endpoint = BY_NAME[name]
        server, transport = await self._open()
        target = server.prefix + build_target(endpoint.path, params or {}, query)
        signer = _Signer(self._state, (server.keys or keys) if endpoint.auth == "signed" else None)
        with span(endpoint.name, endpoint.method, endpoint.path, server.origin) as current:
            answer = await self._repeat(
                transport,
                server.origin,
                signer,
                endpoint,
                target,
                order,
                deadline,
                timeout or self.timeout,
                retry or self.retry,
                urgent,
                otp,
            )
            if current is not None:
                current.set_attribute("http.response.status_code", answer.status)
            return self._read(answer)

    async def _repeat(
        self,
        transport: AiohttpTransport,
        origin: str,
        signer: _Signer,
        endpoint: Endpoint,
        target: str,
        order: PreparedRequest | None,
        deadline: Deadline,
        timeout: float,
        retry: RetryPolicy,
        urgent: bool,
        otp: OneTimeCode | None,
    ) -> RawResponse:
        """Send a request until it succeeds or is not to be sent again."""
        number = 0
        codes_left = _CODES_ASKED if callable(otp) else 1
        sudo: dict[str, str] = {}
        while True:
            number += 1
            try:
                answer = await self._attempt(
                    transport, origin, signer, endpoint, target, order, sudo, deadline, timeout, urgent, number
                )
                if signer.clock_was_wrong(answer.status, answer.headers):
                    number -= 1
                    continue
                self._note_features(answer.headers, answer.status)
                if not 200 <= answer.status < 300:
                    raise self._error(answer)
            except SudoRequiredError as error:
                if otp is None or error.challenge_id is None or not codes_left:
                    raise
                codes_left -= 1
                number -= 1  # A question is no failure.
                sudo = await _code_for(error.challenge_id, otp)
                if not sudo:
                    raise
            except (ConnectionFailedError, APIError) as error:
                if number == 1 <= retry.max_retries and _may_have_acted(error):
                    await self._find_out(order, deadline, retry, urgent)
                repeatable = endpoint.idempotent or self._honours_key(order)
                await self.pause(endpoint.name, endpoint.method, number, error, retry, deadline, repeatable)
            else:
                return answer

    async def require(self, order: PreparedRequest, deadline: Deadline = NEVER) -> None:
        """Refuse an order of which the server would drop a part in silence.

        Raises:
            InvalidRequestError: The server does not announce what the order needs.
        """
        if not order.needs:
            return
        if self.features is None:
            await self.call(None, "health", deadline=deadline)
        for feature in order.needs:
            if feature not in (self.features or ()):
                raise InvalidRequestError(_MISSING[feature])

    async def open_stream(
        self,
        keys: Credentials | None,
        operation: str,
        path: str,
        params: Mapping[str, str],
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        deadline: Deadline = NEVER,
        idle_s: float = STREAM_IDLE_S,
    ) -> AiohttpStream:
        """Open an answer that comes piece by piece; whoever gets it closes it.

        It takes none of the connections of the pool: it may stay open for hours.

        Args:
            keys: What to sign with.
            operation: What hooks and spans call it.
            path: Template of the path.
            params: Values for its placeholders.
            query: Members of the query.
            headers: Further headers.
            deadline: The caller's deadline.
            idle_s: Seconds without a byte after which it counts as broken.

        Raises:
            APIError: The server answered with an error status.
            ConnectionFailedError: There was no answer.
        """
        self.enter()
        server, transport = await self._open()
        target = server.prefix + build_target(path, params, query)
        signer = _Signer(self._state, server.keys or keys)
        number = 0
        with span(operation, "GET", path, server.origin) as current:
            while True:
                number += 1
                event = self.told.event(operation, "GET", path, number)
                sent = dict(headers or {})
                inject(sent)
                await self.told.asks(event)
                began = time.monotonic()
                try:
                    try:
                        stream = await transport.open_stream(
                            "GET",
                            target,
                            sent | signer.headers("GET", target),
                            self._time_for(deadline),
                            idle_s,
                        )
                    except ConnectionFailedError as error:
                        self.told.failed(event, server.origin, error, began)
                        raise
                    await self._told_opened(stream, event, server.origin, stream.status, stream.headers, began)
                    if signer.clock_was_wrong(stream.status, stream.headers):
                        await stream.close()
                        number -= 1
                        continue
                    if 200 <= stream.status < 300:
                        self._note_features(stream.headers, stream.status)
                        if current is not None:
                            current.set_attribute("http.response.status_code", stream.status)
                        return stream
                    raise await self._refusal(stream)
                except (ConnectionFailedError, APIError) as error:
                    await self.pause(operation, "GET", number, error, self.retry, deadline)

    async def open_socket(
        self, keys: Credentials | None, operation: str, path: str, params: Mapping[str, str], subprotocol: str
    ) -> AiohttpSocket:
        """Open a WebSocket; whoever gets it closes it.

        Args:
            keys: What to sign the opening request with.
            operation: What hooks and spans call it.
            path: Template of the path.
            params: Values for its placeholders.
            subprotocol: What is to be spoken.

        Raises:
            APIError: The server answered with an error status.
            ConnectionFailedError: There was no answer.
            InvalidResponseError: It answered, but opened no WebSocket.
        """
        self.enter()
        server, transport = await self._open()
        target = server.prefix + build_target(path, params)
        signer = _Signer(self._state, server.keys or keys)
        event = self.told.event(operation, "GET", path, 1)
        with span(operation, "GET", path, server.origin):
            while True:
                headers: dict[str, str] = {}
                inject(headers)
                await self.told.asks(event)
                began = time.monotonic()
                try:
                    made = await transport.open_socket(
                        target, headers | signer.headers("GET", target), subprotocol, self.timeout
                    )
                except ConnectionFailedError as error:
                    self.told.failed(event, server.origin, error, began)
                    raise
                if not isinstance(made, RawResponse):
                    await self._told_opened(made, event, server.origin, _SWITCHED, {}, began)
                    return made
                await self.told.answered(event, server.origin, made.status, made.headers, began)
                if not signer.clock_was_wrong(made.status, made.headers):
                    break
            if made.status < 300:
                raise InvalidResponseError(f"what answers at {path} does not speak {subprotocol}")
            raise self._error(made)

    async def _told_opened(
        self,
        opened: AiohttpStream | AiohttpSocket,
        event: RequestEvent | None,
        origin: str,
        status: int,
        headers: Mapping[str, str],
        began: float,
    ) -> None:
        """Tell that something is open; closed again when nobody will get it, as a hook failed."""
        try:
            await self.told.answered(event, origin, status, headers, began)
        except BaseException:
            await opened.close()
            raise

    async def pause(
        self,
        operation: str,
        method: str,
        number: int,
        error: UnsandboxError,
        policy: RetryPolicy,
        deadline: Deadline = NEVER,
        repeatable: bool = False,
        *,
        at_once: bool = False,
    ) -> None:
        """Wait until it is time for the next attempt; raises the error when there is to be none.

        Args:
            operation: What hooks call it.
            method: HTTP method.
            number: Which attempt failed, from 1.
            error: How.
            policy: The bounds.
            deadline: The caller's deadline.
            repeatable: Whether the server acts once however often it is sent.
            at_once: Not to wait, if there is to be another attempt.
        """
        delay = retry_delay(
            Attempt(
                method,
                number,
                status=getattr(error, "status", None),
                has_idempotency_key=repeatable,
                sent=getattr(error, "sent", True),
                retry_after_s=getattr(error, "retry_after", None),
                remaining_s=deadline.remaining(),
            ),
            policy,
            random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
        if delay is None:
            raise error
        delay = 0.0 if at_once else delay
        await self.told.repeats(operation, number, delay, error)
        await sleep(delay)

    def _honours_key(self, order: PreparedRequest | None) -> bool:
        """Tell whether the server is known to run a request once that comes twice under the same key.

        Another server might run the program again: there, a request that may have arrived is not repeated.
        """
        return order is not None and order.key is not None and "idempotency" in (self.features or ())

    async def _find_out(
        self, order: PreparedRequest | None, deadline: Deadline, retry: RetryPolicy, urgent: bool
    ) -> None:
        """Ask what the server can do, when that decides whether an order is sent again and is not known."""
        remaining = deadline.remaining()
        in_time = remaining is None or remaining > retry.base_s / 2
        if in_time and self.features is None and order is not None and order.key is not None:
            # If this fails, too, the order is not repeated: the error of its own says more.
            with contextlib.suppress(UnsandboxError):
                await self.call(None, "health", deadline=deadline, retry=retry, urgent=urgent)

    async def _open(self) -> tuple[Server, AiohttpTransport]:
        if self.base_url == LOCAL and self._state.pid != os.getpid():
            # After a fork: the engine lives in the parent only.
            self._state.pid, self._state.server, self._state.transport = os.getpid(), None, None
        server, transport = self._state.server, self._state.transport
        if server is not None and transport is not None:
            return server, transport
        async with self._state.opening:
            if not loaded():
                await in_thread(load)
            server = self._state.server
            if server is None:
                from unsandbox import local

                engine = await in_thread(local.ensure_started, self._engine_config)
                server = parse_base(engine.url)._replace(
                    keys=Credentials(engine.public_key, engine.secret_key, "the embedded engine")
                )
            if self._state.transport is None:
                self._state.transport = AiohttpTransport(server.origin, self._max_connections)
            self._state.server = server
            return server, self._state.transport

    async def _attempt(
        self,
        transport: AiohttpTransport,
        origin: str,
        signer: _Signer,
        endpoint: Endpoint,
        target: str,
        order: PreparedRequest | None,
        sudo: Mapping[str, str],
        deadline: Deadline,
        timeout: float,
        urgent: bool,
        number: int,
    ) -> RawResponse:
        body = b"" if order is None else order.body
        headers = {"Content-Type": order.content_type} if order is not None and body else {}
        headers |= sudo
        inject(headers)
        event = self.told.event(endpoint.name, endpoint.method, endpoint.path, number, len(body))
        await self.told.asks(event)
        began = time.monotonic()
        if not urgent:
            await transport.acquire(deadline.remaining())
        try:
            # Signed only now: a signature lasts five minutes, and the queue may have been longer.
            if isinstance(body, bytes):
                headers |= signer.headers(endpoint.method, target, body)
            else:
                headers |= await in_thread(signer.headers, endpoint.method, target, body)
            before = False
            if order is not None:
                before, order.sent = order.sent, True
                if order.key is not None:
                    headers[IDEMPOTENCY_HEADER] = order.key
            answer = await transport.send(
                endpoint.method, target, headers, body, self._time_for(deadline, timeout)
            )
            if order is not None and answer.status in _INSTEAD_OF_ACTING:
                order.sent = before
        except ConnectionFailedError as error:
            if order is not None and not error.sent:
                order.sent = before
            self.told.failed(event, origin, error, began)
            raise
        finally:
            if not urgent:
                transport.release()
        await self.told.answered(event, origin, answer.status, answer.headers, began, answer.size)
        return answer

    def _time_for(self, deadline: Deadline, timeout: float | None = None) -> float:
        """Return the seconds that one request may take."""
        remaining = deadline.remaining()
        usual = timeout or self.timeout
        return usual if remaining is None else max(0.001, min(usual, remaining))

    def _read(self, answer: RawResponse) -> dict[str, Any]:
        found = read_object(answer.status, answer.headers, answer.body, 0.0)
        return restored(found, answer.marks, whole=self._whole) if answer.marks else found

    def _note_features(self, headers: Mapping[str, str], status: int) -> None:
        announced = headers.get(FEATURES_HEADER)
        if announced is not None:
            if announced != self._state.announced:
                self._state.announced = announced
                self._state.features = frozenset(announced.replace(",", " ").split())
        elif self.features is None and status < 300:
            # Only a success tells: an error may come from a proxy on the way.
            self._state.features = frozenset()

    def _error(self, answer: RawResponse) -> APIError:
        status, headers = answer.status, answer.headers
        return library_error(api_error(status, headers, answer.body, time.time()), LIBRARY, headers)

    async def _refusal(self, stream: AiohttpStream) -> APIError:
        """Read the answer that came instead of a stream."""
        pieces = []
        try:
            while piece := await stream.read():
                pieces.append(piece)
        finally:
            await stream.close()
        return self._error(RawResponse(stream.status, stream.headers, b"".join(pieces)))


async def _code_for(challenge_id: str, otp: OneTimeCode) -> dict[str, str]:
    """Return the headers that answer the server's question for a one-time code; empty when nobody gives one."""
    given = await maybe_await(otp(challenge_id)) if callable(otp) else otp
    code = str(given or "").strip()  # None when whoever was asked gave up.
    if not (code.isascii() and code.isprintable()):
        raise InvalidRequestError("the one-time code holds characters that no code has")
    return {OTP_HEADER: code, CHALLENGE_HEADER: challenge_id} if code else {}


def _may_have_acted(error: ConnectionFailedError | APIError) -> bool:
    """Tell whether a server may have acted on a request that failed so, and repeating it might yet help."""
    if isinstance(error, APIError):
        return isinstance(error, UnavailableError) and error.status not in _INSTEAD_OF_ACTING
    return error.sent
