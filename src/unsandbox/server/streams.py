"""Answers without an end: Server-Sent Events (HTML Living Standard, 9.2)."""

from __future__ import annotations

import contextlib

from aiohttp import web

from unsandbox.protocol import codec
from unsandbox.protocol.logs import LogLine
from unsandbox.server.call import Call
from unsandbox.server.handlers.logs import log_query

KEEPALIVE_S = 15.0
LOG_STREAM_PATHS = (
    "/logs/stream",
    "/paas/logs/stream",
    "/logs/all/stream",
    "/logs/api/stream",
    "/logs/portal/stream",
    "/logs/pool/{pool}/stream",
)


async def stream_logs(request: web.Request, call: Call) -> web.StreamResponse:
    """Send lines as they are noted, and a keep-alive when there are none."""
    query = log_query(call)
    call.engine.logbook.read(call.owner, query, 1)  # Refuses what makes no sense while it still can.
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(b": following\n\n")
        async for entry in call.engine.logbook.follow(call.owner, query, KEEPALIVE_S):
            if entry is None:
                await response.write(b": keepalive\n\n")
            else:
                line = codec.encode(LogLine(source=entry.source, line=entry.line))
                await response.write(b"data: " + line + b"\n\n")
        await response.write_eof()
    return response
