"""`/files` of envd: whole files over plain HTTP, with a token or a signed URL."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import mimetypes
import posixpath
import urllib.parse
import zlib
from collections.abc import AsyncIterable, AsyncIterator
from email.message import Message
from typing import Any

from aiohttp import BodyPartReader, web

from unsandbox.engine.errors import RequestError
from unsandbox.protocol.files import PART_BYTES
from unsandbox.server.e2b.errors import E2bError, json_answer
from unsandbox.server.e2b.filesystem import USER
from unsandbox.server.e2b.paths import inside, outside
from unsandbox.server.e2b.sandboxes import E2bSandbox, E2bSandboxes

_CHUNK = 1 << 16
_MOST_PARTS = 1000
OPERATIONS = {"GET": "read", "HEAD": "read", "POST": "write"}


def is_signed(request: web.Request, token: str, now: float) -> bool:
    """Return whether a request has a valid signature in its query.

    Args:
        request: The request.
        token: The secret of the sandbox.
        now: Unix time in seconds.
    """
    query = request.query
    given, expires = query.get("signature", ""), query.get("signature_expiration")
    parts = [query.get("path", ""), OPERATIONS.get(request.method, ""), query.get("username", ""), token]
    if expires is not None:
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15) or int(expires) < now:
            return False
        parts.append(expires)
    digest = base64.b64encode(hashlib.sha256(":".join(parts).encode()).digest()).decode().rstrip("=")
    return hmac.compare_digest(given.encode(), f"v1_{digest}".encode())


def check_user(name: str) -> None:
    """Refuse a user that sandboxes do not have.

    Args:
        name: The name; empty for the default.

    Raises:
        E2bError: It is not `user`.
    """
    if name not in ("", USER):
        raise E2bError(
            "unauthenticated", f"invalid username: '{name}'; sandboxes of this server have one user, 'user'"
        )


class Files:
    """The calls.

    Args:
        sandboxes: The sandboxes.
    """

    def __init__(self, sandboxes: E2bSandboxes) -> None:
        self._workspaces = sandboxes.engine.workspaces

    async def read(self, request: web.Request, sandbox: E2bSandbox) -> web.StreamResponse:
        """Send a file, or a range of it."""
        check_user(request.query.get("username", ""))
        given = request.query.get("path", "")
        path = inside(given)
        try:
            found = await self._call(sandbox, "stat", path=path)
        except RequestError as error:
            if error.code == "file_not_found":
                raise E2bError("not_found", f"path '{given}' does not exist") from error
            raise
        if found.get("type") == "directory":
            raise E2bError("invalid_argument", f"path '{given}' is a directory")
        size = max(0, int(found.get("size", 0)))
        try:
            start, stop, step = request.http_range.indices(size) if "Range" in request.headers else (0, size, 1)
        except ValueError:
            raise web.HTTPRequestRangeNotSatisfiable from None
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        response.content_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        response.headers["Accept-Ranges"] = "bytes"
        name = urllib.parse.quote(posixpath.basename(path), safe="")
        response.headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}"
        if step != 1 or (response.status == 206 and start >= stop):
            raise web.HTTPRequestRangeNotSatisfiable
        if response.status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        # Files of /proc say that they are empty: their length is not known.
        if size:
            response.content_length = stop - start
        version: str | None = None
        first = await self._part(sandbox, path, start, stop - start if size else PART_BYTES, version)
        await response.prepare(request)
        while True:
            data = base64.b64decode(first.get("content_base64") or "")
            await response.write(data)
            start += len(data)
            if not data or (size and start >= stop):
                break
            version = str(first.get("version")) if size else None
            first = await self._part(sandbox, path, start, stop - start if size else PART_BYTES, version)
        await response.write_eof()
        return response

    async def write(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Store a file, or those of a form."""
        check_user(request.query.get("username", ""))
        path = request.query.get("path")
        written: list[dict[str, Any]] = []
        if request.content_type == "multipart/form-data":
            parts = 0
            async for part in await request.multipart():
                parts += 1
                if parts > _MOST_PARTS:
                    raise E2bError("invalid_argument", f"a form has at most {_MOST_PARTS} parts")
                await asyncio.sleep(0)
                if not isinstance(part, BodyPartReader) or part.name != "file":
                    continue
                name = path or _file_name(part)
                if not name:
                    raise E2bError("invalid_argument", "the part has no file name, and the query no path")
                written.append(await self._store(sandbox, name, _pieces(part)))
        else:
            if not path:
                raise E2bError("invalid_argument", "the query needs a path")
            pieces: AsyncIterable[bytes] = request.content.iter_chunked(_CHUNK)
            if request.headers.get("Content-Encoding") == "gzip":
                pieces = _unpacked(pieces)
            written.append(await self._store(sandbox, path, pieces))
        return json_answer(written)

    async def _store(self, sandbox: E2bSandbox, name: str, pieces: AsyncIterable[bytes]) -> dict[str, Any]:
        path, upload, offset, waiting = inside(name), None, 0, bytearray()
        async for piece in pieces:
            waiting += piece
            while len(waiting) > PART_BYTES:
                data = bytes(waiting[:PART_BYTES])
                del waiting[:PART_BYTES]
                answer = await self._put(sandbox, path, data, upload, offset, final=False)
                upload, offset = answer.get("upload"), offset + len(data)
        await self._put(sandbox, path, bytes(waiting), upload, offset, final=True)
        shown = outside(path)
        return {"path": shown, "name": posixpath.basename(shown), "type": "file"}

    async def _put(
        self, sandbox: E2bSandbox, path: str, data: bytes, upload: str | None, offset: int, *, final: bool
    ) -> dict[str, Any]:
        members = {"content_base64": base64.b64encode(data).decode(), "offset": offset, "final": final}
        if upload:
            members["upload"] = upload
        try:
            return await self._call(sandbox, "write", path=path, **members)
        except RequestError as error:
            if error.code == "is_a_directory":
                raise E2bError("invalid_argument", f"path is a directory: {outside(path)}") from error
            raise

    async def _part(
        self, sandbox: E2bSandbox, path: str, offset: int, length: int, version: str | None
    ) -> dict[str, Any]:
        members: dict[str, Any] = {"offset": offset, "length": min(length, PART_BYTES)}
        if version:
            members["version"] = version
        return await self._call(sandbox, "read", path=path, **members)

    async def _call(self, sandbox: E2bSandbox, operation: str, **members: Any) -> dict[str, Any]:
        return await self._workspaces.file(sandbox.owner, sandbox.session_id, operation, members)


def _file_name(part: BodyPartReader) -> str | None:
    """Return the name of a file in a form. aiohttp takes slashes at its begin away, and here it is a path."""
    header = Message()
    header["Content-Disposition"] = part.headers.get("Content-Disposition", "")
    return header.get_filename()


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    while piece := await part.read_chunk(_CHUNK):
        yield piece


async def _unpacked(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        async for piece in pieces:
            rest = piece
            while rest:
                yield unpack.decompress(rest, PART_BYTES)
                rest = unpack.unconsumed_tail
    except zlib.error as error:
        raise E2bError("invalid_argument", "the body is not gzip") from error
