# Generated from src/unsandbox/_async/opening.py by scripts/unasync.py; change that one.
"""Opens event streams and WebSockets."""

from __future__ import annotations

import time
from collections.abc import Mapping

from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox._shared.hooks import RequestEvent
from unsandbox._shared.request import failed_attempt
from unsandbox._shared.signer import Signer
from unsandbox._shared.streaming import StreamEndpoint
from unsandbox._shared.tracing import inject, span
from unsandbox._sync.connection import Connection
from unsandbox._sync.server_connection import error_of
from unsandbox._transports.common import RawResponse
from unsandbox._transports.requests_live import RequestsSocket, RequestsStream
from unsandbox.errors import APIError, ConnectionFailedError, InvalidResponseError
from unsandbox.protocol.signing import build_target

__all__ = ["STREAM_IDLE_S", "open_socket", "open_stream"]

STREAM_IDLE_S = 60.0
"""Seconds without a byte, keep-alives included, after which a stream counts as broken."""

_SWITCHED = 101
"""HTTP status of an answer that opens a WebSocket."""


def open_stream(
    connection: Connection,
    endpoint: StreamEndpoint,
    params: Mapping[str, str],
    *,
    query: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline = NEVER,
    idle_s: float = STREAM_IDLE_S,
) -> RequestsStream:
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
    address, transport = server.open()
    target = address.prefix + build_target(endpoint.path, params, query)
    signer = Signer(server.clock, address.keys or keys)
    number = 0
    with span(endpoint.name, "GET", endpoint.path, address.origin) as current:
        while True:
            number += 1
            event = server.observer.event(endpoint.name, "GET", endpoint.path, number)
            sent = dict(headers or {})
            inject(sent)
            server.observer.asks(event)
            began = time.monotonic()
            try:
                try:
                    sent |= signer.headers("GET", target)
                    stream = transport.open_stream("GET", target, sent, server.time_for(deadline), idle_s)
                except ConnectionFailedError as error:
                    server.observer.failed(event, address.origin, error, began)
                    raise
                _tell_opened(connection, stream, event, stream.status, stream.headers, began)
                if signer.clock_was_wrong(stream.status, stream.headers):
                    stream.close()
                    number -= 1
                    continue
                if 200 <= stream.status < 300:
                    server.note_features(stream.headers, stream.status)
                    if current is not None:
                        current.set_attribute("http.response.status_code", stream.status)
                    return stream
                raise _refusal(stream)
            except (ConnectionFailedError, APIError) as error:
                failed = failed_attempt("GET", number, error, deadline)
                server.pause(endpoint.name, failed, error, server.retry)


def open_socket(
    connection: Connection, endpoint: StreamEndpoint, params: Mapping[str, str], subprotocol: str
) -> RequestsSocket:
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
    address, transport = server.open()
    target = address.prefix + build_target(endpoint.path, params)
    signer = Signer(server.clock, address.keys or keys)
    event = server.observer.event(endpoint.name, "GET", endpoint.path, 1)
    with span(endpoint.name, "GET", endpoint.path, address.origin):
        while True:
            headers: dict[str, str] = {}
            inject(headers)
            server.observer.asks(event)
            began = time.monotonic()
            try:
                headers |= signer.headers("GET", target)
                made = transport.open_socket(target, headers, subprotocol, server.timeout)
            except ConnectionFailedError as error:
                server.observer.failed(event, address.origin, error, began)
                raise
            if not isinstance(made, RawResponse):
                _tell_opened(connection, made, event, _SWITCHED, {}, began)
                return made
            server.observer.answered(event, address.origin, made.status, made.headers, began)
            if not signer.clock_was_wrong(made.status, made.headers):
                break
        if made.status >= 400 and not made.body:
            # The library drops the body of a refused handshake, and with it the reason.
            headers = signer.headers("GET", target)
            plain = transport.send("GET", target, headers, b"", server.timeout)
            made = plain if plain.status == made.status else made
        if made.status < 300:
            raise InvalidResponseError(f"the server at {endpoint.path} does not speak {subprotocol}")
        raise error_of(made)


def _tell_opened(
    connection: Connection,
    opened: RequestsStream | RequestsSocket,
    event: RequestEvent | None,
    status: int,
    headers: Mapping[str, str],
    began: float,
) -> None:
    """Report that a stream is open; close it if a hook raises, because the caller will not get it."""
    server = connection.server
    try:
        server.observer.answered(event, server.origin, status, headers, began)
    except BaseException:
        opened.close()
        raise


def _refusal(stream: RequestsStream) -> APIError:
    """Read the answer that came instead of a stream."""
    pieces = []
    try:
        while piece := stream.read():
            pieces.append(piece)
    finally:
        stream.close()
    return error_of(RawResponse(stream.status, stream.headers, b"".join(pieces)))
