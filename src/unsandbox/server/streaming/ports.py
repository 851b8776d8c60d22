"""A connection to a port in a session, over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from aiohttp import WSMsgType, web

from unsandbox.engine import Conflict, InvalidRequest
from unsandbox.protocol.processes import PORT_END, PORT_SUBPROTOCOL
from unsandbox.server.call import Call, read_port

_MAX_FRAME = 1 << 20
_READ_BYTES = 1 << 16
_HEARTBEAT_S = 30.0
_STALLED_S = 60.0
"""A client that takes nothing for so long is disconnected."""


async def serve_port(request: web.Request, call: Call) -> web.StreamResponse:
    """Join a WebSocket and a port on the loopback interface of a session.

    Binary frames are bytes of the connection. The text `end` says that a side sends no more.

    Raises:
        InvalidRequest: The port is not a number from 1 to 65535.
        Conflict: Nothing listens there, or the session is frozen.
    """
    port = read_port(call.params["port"])
    async with call.engine.sessions.in_use(call.owner, call.params["id"]) as opened:
        try:
            descriptor = await opened.sandbox.connect(port)
        except ConnectionError as error:
            raise Conflict(f"nothing listens on port {port} of the session", code="port_closed") from error
        connection = socket.socket(fileno=descriptor)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            # Refused last: a client that asks without it wants to know why its WebSocket was refused.
            connection.close()
            raise InvalidRequest("open this path as a WebSocket", code="upgrade_required")
        reader, writer = await asyncio.open_connection(sock=connection)
        web_socket = web.WebSocketResponse(
            protocols=(PORT_SUBPROTOCOL,), max_msg_size=_MAX_FRAME, heartbeat=_HEARTBEAT_S
        )
        try:
            await web_socket.prepare(request)
            await _join(web_socket, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return web_socket


async def _join(
    web_socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    sending = asyncio.create_task(_send(web_socket, reader))
    try:
        async for message in web_socket:
            if message.type is WSMsgType.BINARY:
                writer.write(message.data)
                async with asyncio.timeout(_STALLED_S):
                    await writer.drain()
            elif message.type is WSMsgType.TEXT and message.data == PORT_END:
                writer.write_eof()
    except (OSError, TimeoutError):
        await web_socket.close()
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sending


async def _send(web_socket: web.WebSocketResponse, reader: asyncio.StreamReader) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            async with asyncio.timeout(_STALLED_S):
                await web_socket.send_bytes(data)
        await web_socket.send_str(PORT_END)
    except (OSError, TimeoutError):
        await web_socket.close()
