"""The content of one file of a session, read or written by whoever has its signed URL."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from urllib.parse import quote
from weakref import WeakValueDictionary

from aiohttp import hdrs, web

from unsandbox.engine import Engine, InvalidRequest, TooLarge
from unsandbox.engine.accounts.keys import KeyRing
from unsandbox.protocol.file_urls import is_valid_file_url
from unsandbox.protocol.files import PART_BYTES
from unsandbox.server.auth import Caller, Unauthorized
from unsandbox.server.responses import json_response

_PATIENCE_S = 60.0
"""A client that neither takes nor sends anything for so long is disconnected."""
_AT_ONCE = 8
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?\Z")
_turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


def check_url(request: web.Request, keys: KeyRing) -> Caller:
    """Return the key that signed the URL of a request.

    Raises:
        Unauthorized: None did, or the URL has ended.
    """
    members = dict(request.query)
    public_key = members.get("key", "")
    known = keys.find(public_key) if public_key.isascii() else None
    method = "GET" if request.method == "HEAD" else request.method
    now = time.time()
    repeated = len(members) != len(request.query)
    if (
        known is None
        or repeated
        or not is_valid_file_url(known.secret_key, method, request.match_info["id"], members, now)
    ):
        raise Unauthorized("invalid_url", "this URL has ended, or it is not signed for this file and method")
    caller = Caller(public_key, known.secret_key, known.settings, "", "")
    caller.check_expiry(now)
    return caller


async def serve_content(request: web.Request, engine: Engine, owner: str) -> web.StreamResponse:
    """Send or receive the file that the query names.

    Args:
        request: The request.
        engine: The engine.
        owner: The key that lets it do so.
    """
    session, path = request.match_info["id"], request.query.get("path", "")
    turn = _turns.setdefault(f"{owner} {session}", asyncio.Semaphore(_AT_ONCE))
    async with turn:
        if request.method == "PUT":
            return await _receive(request, engine, owner, session, path)
        return await _send(request, engine, owner, session, path)


async def _send(
    request: web.Request, engine: Engine, owner: str, session: str, path: str
) -> web.StreamResponse:
    read = engine.workspaces.read_part
    match = _RANGE.match(request.headers.get(hdrs.RANGE, ""))
    if match and match[2] and int(match[2]) < int(match[1]):
        match = None  # Such a range is to be ignored (RFC 9110, 14.1.1).
    first = int(match[1]) if match else 0
    info, data = await read(owner, session, path, first, PART_BYTES)
    size = max(0, int(info.get("size") or 0))
    if match and first >= size:
        raise web.HTTPRequestRangeNotSatisfiable(headers={hdrs.CONTENT_RANGE: f"bytes */{size}"})
    last = min(int(match[2]), size - 1) if match and match[2] else size - 1
    name = quote(path.rpartition("/")[2] or "file", safe="", errors="replace")
    headers = {
        # The content is the tenant's: a browser must not run it as a page of this server.
        hdrs.CONTENT_TYPE: "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        hdrs.CACHE_CONTROL: "private, no-store",
        "Referrer-Policy": "no-referrer",
        hdrs.ACCEPT_RANGES: "bytes",
    }
    response = web.StreamResponse(status=206 if match else 200, headers=headers)
    if size:  # A file of /proc says that it is empty, and is not.
        response.content_length = last - first + 1
    if match:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {first}-{last}/{size}"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    try:
        while data and (not size or first <= last):
            part = data[: last + 1 - first] if size else data
            async with asyncio.timeout(_PATIENCE_S):
                await response.write(part)
            first += len(data)
            if info.get("eof"):
                break
            info, data = await read(owner, session, path, first, PART_BYTES, info.get("version"))
    except BaseException:
        # Half a file must not look like a whole one.
        if request.transport is not None:
            request.transport.abort()
        raise
    await response.write_eof()
    return response


async def _receive(
    request: web.Request, engine: Engine, owner: str, session: str, path: str
) -> web.StreamResponse:
    upload, offset, final = "", 0, False
    write = engine.workspaces.write_part
    parts = _parts(request)
    try:
        part = await anext(parts, b"")
        while not final:
            following = await anext(parts, b"")
            final = not following
            info = await write(owner, session, path, part, upload=upload, offset=offset, final=final)
            upload = str(info.get("upload") or "")
            offset += len(part)
            part = following
    except BaseException:
        if upload:
            with contextlib.suppress(Exception):
                await engine.workspaces.file(owner, session, "abort", {"path": path, "upload": upload})
        raise
    return json_response(201, b'{"size":%d}' % offset)


async def _parts(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body in parts of the size that files are written in.

    Raises:
        InvalidRequest: It ends early, or comes too slowly.
        TooLarge: It is larger than this server takes.
    """
    part, total = bytearray(), 0
    try:
        while True:
            async with asyncio.timeout(_PATIENCE_S):
                data = await request.content.readany()
            total += len(data)
            if total > request.client_max_size:
                raise TooLarge(f"the file has more than {request.client_max_size} bytes")
            part += data
            while len(part) >= PART_BYTES or (part and not data):
                yield bytes(part[:PART_BYTES])
                del part[:PART_BYTES]
            if not data:
                return
    except TimeoutError:
        raise InvalidRequest("the body comes too slowly") from None
