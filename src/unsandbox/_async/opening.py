"""Opens event streams and WebSockets."""

from __future__ import annotations

import time
from collections.abc import Mapping

from unsandbox._async.connection import Connection
from unsandbox._async.server_connection import error_of
from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox._shared.hooks import RequestEvent
from unsandbox._shared.request import failed_attempt
from unsandbox._shared.signer import Signer
from unsandbox._shared.streaming import StreamEndpoint
from unsandbox._shared.tracing import inject, span
from unsandbox._transports.aiohttp_live import AiohttpSocket, AiohttpStream
from unsandbox._transports.common import RawResponse
from unsandbox.errors import APIError, ConnectionFailedError, InvalidResponseError
from unsandbox.protocol.signing import build_target

__all__ = ["STREAM_IDLE_S", "open_socket", "open_stream"]

STREAM_IDLE_S = 60.0
"""Seconds without a byte, keep-alives included, after which a stream counts as broken."""

_SWITCHED = 101
"""HTTP status of an answer that opens a WebSocket."""


async def open_stream(
    connection: Connection,
    endpoint: StreamEndpoint,
    params: Mapping[str, str],
    *,
    query: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline = NEVER,
    idle_s: float = STREAM_IDLE_S,
) -> AiohttpStream:
    """Open a streamed answer, which the caller closes.

    It does not use a connection of the pool, because it may stay open for hours.

    Args:
        connection: The server.
        endpoint: The endpoint of the stream.
        params: Values for the placeholders of its path.
        query: Members of the query.
        headers: Further headers.
        deadline: The caller's deadline.
        idle_s: Seconds without a byte after which it counts as broken.

    Raises:
        APIError: The server answered with an error status.
        ConnectionFailedError: There was no answer.
    """
    server, keys = connection.server, connection.keys()
    server.enter()
    address, transport = await server.open()
    target = address.prefix + build_target(endpoint.path, params, query)
    signer = Signer(server.clock, address.keys or keys)
    number = 0
    with span(endpoint.name, "GET", endpoint.path, address.origin) as current:
        while True:
            number += 1
            event = server.observer.event(endpoint.name, "GET", endpoint.path, number)
            sent = dict(headers or {})
            inject(sent)
            await server.observer.asks(event)
            began = time.monotonic()
            try:
                try:
                    sent |= signer.headers("GET", target)
                    stream = await transport.open_stream("GET", target, sent, server.time_for(deadline), idle_s)
                except ConnectionFailedError as error:
                    server.observer.failed(event, address.origin, error, began)
                    raise
                await _tell_opened(connection, stream, event, stream.status, stream.headers, began)
                if signer.clock_was_wrong(stream.status, stream.headers):
                    await stream.close()
                    number -= 1
                    continue
                if 200 <= stream.status < 300:
                    server.note_features(stream.headers, stream.status)
                    if current is not None:
                        current.set_attribute("http.response.status_code", stream.status)
                    return stream
                raise await _refusal(stream)
            except (ConnectionFailedError, APIError) as error:
                failed = failed_attempt("GET", number, error, deadline)
                await server.pause(endpoint.name, failed, error, server.retry)


async def open_socket(
    connection: Connection, endpoint: StreamEndpoint, params: Mapping[str, str], subprotocol: str
) -> AiohttpSocket:
    """Open a WebSocket, which the caller closes.

    Args:
        connection: The server.
        endpoint: The endpoint of the WebSocket.
        params: Values for the placeholders of its path.
        subprotocol: The protocol to be spoken.

    Raises:
        APIError: The server answered with an error status.
        ConnectionFailedError: There was no answer.
        InvalidResponseError: It answered, but opened no WebSocket.
    """
    server, keys = connection.server, connection.keys()
    server.enter()
    address, transport = await server.open()
    target = address.prefix + build_target(endpoint.path, params)
    signer = Signer(server.clock, address.keys or keys)
    event = server.observer.event(endpoint.name, "GET", endpoint.path, 1)
    with span(endpoint.name, "GET", endpoint.path, address.origin):
        while True:
            headers: dict[str, str] = {}
            inject(headers)
            await server.observer.asks(event)
            began = time.monotonic()
            try:
                headers |= signer.headers("GET", target)
                made = await transport.open_socket(target, headers, subprotocol, server.timeout)
            except ConnectionFailedError as error:
                server.observer.failed(event, address.origin, error, began)
                raise
            if not isinstance(made, RawResponse):
                await _tell_opened(connection, made, event, _SWITCHED, {}, began)
                return made
            await server.observer.answered(event, address.origin, made.status, made.headers, began)
            if not signer.clock_was_wrong(made.status, made.headers):
                break
        if made.status >= 400 and not made.body:
            # The library drops the body of a refused handshake, and with it the reason.
            headers = signer.headers("GET", target)
            plain = await transport.send("GET", target, headers, b"", server.timeout)
            made = plain if plain.status == made.status else made
        if made.status < 300:
            raise InvalidResponseError(f"the server at {endpoint.path} does not speak {subprotocol}")
        raise error_of(made)


async def _tell_opened(
    connection: Connection,
    opened: AiohttpStream | AiohttpSocket,
    event: RequestEvent | None,
    status: int,
    headers: Mapping[str, str],
    began: float,
) -> None:
    """Report that a stream is open; close it if a hook raises, because the caller will not get it."""
    server = connection.server
    try:
        await server.observer.answered(event, server.origin, status, headers, began)
    except BaseException:
        await opened.close()
        raise


async def _refusal(stream: AiohttpStream) -> APIError:
    """Read the answer that came instead of a stream."""
    pieces = []
    try:
        while piece := await stream.read():
            pieces.append(piece)
    finally:
        await stream.close()
    return error_of(RawResponse(stream.status, stream.headers, b"".join(pieces)))
