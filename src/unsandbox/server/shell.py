"""The terminal of a session over a WebSocket (wire document, 8.6)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiohttp import WSMsgType, hdrs, web
from yarl import URL

from unsandbox.engine import Engine, LimitReached
from unsandbox.engine.sessions.attachments import Attachment
from unsandbox.engine.sessions.terminal import MOST_VIEWERS, Terminal, Viewer
from unsandbox.protocol import codec
from unsandbox.protocol.sessions import SHELL_SUBPROTOCOL
from unsandbox.server.auth import Unauthorized
from unsandbox.server.reader import RequestReader, terminal_sender

logger = logging.getLogger("unsandbox.server.shell")

_MAX_FRAME = 1 << 20
_HEARTBEAT_S = 30.0
_STALLED_S = 60.0
"""A viewer that reads nothing for this time is disconnected."""


async def serve_shell(request: web.Request, engine: Engine, reader: RequestReader) -> web.StreamResponse:
    """Connect a viewer to the terminal of a session.

    Binary frames are keystrokes one way and raw output the other; `{"type":"resize"}` comes in as text,
    `{"type":"exit","exit_code":N}` and `{"type":"detached"}` go out.
    """
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return web.json_response(
            {"error": "upgrade_required", "message": "open this path as a WebSocket; POST runs one command"},
            status=426,
            headers={"Upgrade": "websocket"},
        )
    session_id = request.match_info["id"]
    await _check_permission(request, engine, reader, session_id)
    try:
        attachment = await engine.sessions.terminals.attach(session_id)
    except KeyError:
        raise web.HTTPNotFound(reason="No such session") from None
    terminal = attachment.terminal
    try:
        if terminal.viewers >= MOST_VIEWERS:
            raise LimitReached(f"the terminal already has {MOST_VIEWERS} viewers", code="too_many_viewers")
        socket = web.WebSocketResponse(
            protocols=(SHELL_SUBPROTOCOL,), max_msg_size=_MAX_FRAME, heartbeat=_HEARTBEAT_S
        )
        await socket.prepare(request)
        viewer = terminal.attach(replay=attachment.keep or terminal.viewers > 0)
        try:
            await _join(socket, request, attachment, viewer, engine, session_id)
        finally:
            terminal.detach(viewer)
    finally:
        engine.sessions.terminals.detach(session_id, attachment)
    return socket


async def _check_permission(
    request: web.Request, engine: Engine, reader: RequestReader, session_id: str
) -> None:
    """Refuse a viewer who knows the id of a session and nothing more.

    A ticket suffices, and a signature. The oldest clients have neither: they may open it from an address from
    which the session's key has signed a request.

    Raises:
        Unauthorized: There is no permission, or the signature is wrong.
        HTTPForbidden: A page of another server opens it.
        HTTPNotFound: There is no such session of this key.
    """
    terminals = engine.sessions.terminals
    owner = terminals.owner_of(session_id)
    ticket = request.query.get("ticket")
    if ticket is not None:
        if not terminals.tickets.take(ticket, session_id):
            raise Unauthorized(
                "invalid_ticket", "the ticket is used up, too old, or of another session; get the session again"
            )
        return
    if hdrs.AUTHORIZATION in request.headers:
        if (await reader.read(request)).owner != owner:
            raise web.HTTPNotFound(reason="No such session")
        return
    if not _is_same_origin(request):
        raise web.HTTPForbidden(reason="Foreign Origin")
    if owner is None:
        raise web.HTTPNotFound(reason="No such session")
    if not terminals.tickets.has_signed_from(owner, terminal_sender(request)):
        raise Unauthorized(
            "missing_credentials",
            "the id of a session opens its terminal only from an address that has signed a request; sign the "
            "handshake, use the websocket_url of a session that you got, or list your sessions from here first",
        )


def _is_same_origin(request: web.Request) -> bool:
    """Return whether the client is not a browser, or a browser with a page of this server."""
    origin = request.headers.get("Origin")
    return origin is None or URL(origin).authority.lower() == URL(f"//{request.host}").authority.lower()


async def _join(
    socket: web.WebSocketResponse,
    request: web.Request,
    attachment: Attachment,
    viewer: Viewer,
    engine: Engine,
    session_id: str,
) -> None:
    terminal = attachment.terminal
    showing = asyncio.create_task(_show(socket, request, terminal, viewer))
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                typed, leaves = attachment.keys.feed(message.data)
                engine.sessions.terminals.note_input(session_id, typed)
                terminal.write(typed)
                await terminal.drain()
                if leaves:
                    viewer.end()
            elif message.type is WSMsgType.TEXT:
                _control(terminal, message.data)
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await showing


async def _show(
    socket: web.WebSocketResponse, request: web.Request, terminal: Terminal, viewer: Viewer
) -> None:
    try:
        while data := await viewer.read():
            async with asyncio.timeout(_STALLED_S):
                await socket.send_bytes(data)
        if viewer.lagging:
            async with asyncio.timeout(_STALLED_S):
                await socket.close(code=1013, message=b"too slow")
            return
    except TimeoutError:
        # The viewer reads nothing, and may send pings all the same.
        if request.transport is not None:
            request.transport.abort()
        return
    code = terminal.exit_code
    # The older clients look at the type alone.
    await socket.send_str('{"type":"detached"}' if code is None else f'{{"type":"exit","exit_code":{code}}}')
    await socket.close()


def _control(terminal: Terminal, text: str) -> None:
    """Execute a text frame; invalid frames and unknown kinds are ignored, as the protocol requires."""
    with contextlib.suppress(ValueError):
        message = codec.loads_object(text.encode("utf-8", "replace"))
        if message.get("type") == "resize":
            columns, rows = message.get("cols"), message.get("rows")
            if type(columns) is int and type(rows) is int:
                terminal.resize(columns, rows)
