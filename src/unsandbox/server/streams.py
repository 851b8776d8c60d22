"""Streamed answers: Server-Sent Events (HTML Living Standard, 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from aiohttp import web

from unsandbox.engine import InvalidRequest
from unsandbox.engine.encoding import encode_answer
from unsandbox.protocol import codec, models
from unsandbox.protocol.contents import chunks_of
from unsandbox.protocol.events import (
    CURSOR_HEADER,
    CURSOR_QUERY,
    OUTPUT_EVENT,
    RESULT_EVENT,
    Cursor,
    OutputChunk,
)
from unsandbox.protocol.logs import LogLine
from unsandbox.server.call import Call
from unsandbox.server.handlers.logs import log_query
from unsandbox.server.handlers.services import log_lines

KEEPALIVE_S = 15.0
_LONGEST_POSITION = 20
LOG_STREAM_PATHS = (
    "/logs/stream",
    "/paas/logs/stream",
    "/logs/all/stream",
    "/logs/api/stream",
    "/logs/portal/stream",
    "/logs/pool/{pool}/stream",
)


async def stream_events(request: web.Request, call: Call) -> web.StreamResponse:
    """Stream the output of a job with the cursor after each piece, then its result."""
    given = request.headers.get(CURSOR_HEADER) or call.query.get(CURSOR_QUERY)
    try:
        cursor = Cursor.parse(given) if given else Cursor()
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    job_id = call.params["id"]
    await call.engine.jobs.get(call.owner, job_id)  # Refuses an unknown job while it still can.
    response = await _open_stream(request)
    with contextlib.suppress(ConnectionError):
        async for event in call.engine.jobs.follow(call.owner, job_id, cursor, KEEPALIVE_S):
            for piece in await _event_pieces(event):
                await response.write(piece)
        await response.write_eof()
    return response


async def _event_pieces(event: tuple[str, bytes, Cursor] | models.Job | None) -> Iterable[bytes]:
    if event is None:
        return (b": keepalive\n\n",)
    if isinstance(event, models.Job):
        if any(artifact.LAZY_FIELD for artifact in event.artifacts or ()):
            event = event.replace(artifacts=None, artifacts_apart=True)
        encoded = chunks_of(await encode_answer(event))
        return (f"event: {RESULT_EVENT}\ndata: ".encode(), *encoded, b"\n\n")
    stream, data, cursor = event
    chunk = codec.encode(OutputChunk.of(stream, data))
    return (f"event: {OUTPUT_EVENT}\nid: {cursor}\ndata: ".encode() + chunk + b"\n\n",)


async def _open_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    return response


async def stream_logs(request: web.Request, call: Call) -> web.StreamResponse:
    """Stream log lines, and keep-alives in between."""
    query = log_query(call)
    call.engine.logbook.read(call.owner, query, 1)  # Refuses what makes no sense while it still can.
    response = await _open_stream(request)
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


async def stream_service_log(request: web.Request, call: Call) -> web.StreamResponse:
    """Send the last lines of a service's program, and further ones as they are written.

    The `id` of each event is the position after its line; a stream with this `Last-Event-ID` continues there.
    """
    services = call.engine.services
    log = services.log(call.owner, call.params["id"])
    name = services.get(call.owner, call.params["id"]).name
    last = request.headers.get(CURSOR_HEADER, "")
    if last.isascii() and last.isdigit() and len(last) <= _LONGEST_POSITION and int(last) <= log.end:
        position = int(last)
    else:
        data, end = await asyncio.to_thread(log.tail, log_lines(call))
        position = end - len(data)
    response = await _open_stream(request)
    with contextlib.suppress(ConnectionError):
        await response.write(b": following\n\n")
        async for lines in log.follow(position, KEEPALIVE_S):
            await response.write(b"".join(_line_bytes(name, *line) for line in lines) or b": keepalive\n\n")
        await response.write_eof()
    return response


def _line_bytes(name: str | None, position: int, text: bytes) -> bytes:
    line = codec.encode(LogLine(source=name, line=text.decode("utf-8", "replace")))
    return b"id: %d\ndata: %b\n\n" % (position, line)
