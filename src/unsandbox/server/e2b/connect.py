"""The Connect protocol in JSON (https://connectrpc.com/docs/protocol): unary calls and streams."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from unsandbox.server.e2b.errors import E2bError, as_e2b_error, json_answer

T = TypeVar("T")

MAX_MESSAGE = 8 << 20
STREAM_TYPE = "application/connect+json"
_HEAD = struct.Struct(">BI")
_END = 2
_MAX_TIMEOUT_MS = 30 * 86_400_000


def decode(data: bytes, model: type[T]) -> T:
    """Return a message as its type. Members that it does not know are ignored.

    Args:
        data: The JSON text.
        model: The type.

    Raises:
        E2bError: It is not JSON, or a member has the wrong type.
    """
    try:
        return msgspec.json.decode(data or b"{}", type=model, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise E2bError("invalid_argument", str(error)) from error


async def unary_message(request: web.Request, model: type[T]) -> T:
    """Return the message of a unary call.

    Args:
        request: The request.
        model: Its type.
    """
    return decode(await request.read(), model)


async def stream_messages(request: web.Request, model: type[T]) -> AsyncIterator[T]:
    """Yield the messages of a stream.

    Args:
        request: The request.
        model: Their type.

    Raises:
        E2bError: A message is too large or is not valid.
    """
    if not request.content_type.startswith(STREAM_TYPE):
        raise E2bError("unimplemented", "streams are supported with the JSON codec only", 415)
    while True:
        head = await request.content.read(1)
        if not head:
            return
        head += await _exactly(request, _HEAD.size - 1)
        flags, size = _HEAD.unpack(head)
        if flags & 1:
            raise E2bError("unimplemented", "compressed messages are not supported")
        if size > MAX_MESSAGE:
            raise E2bError(
                "resource_exhausted", f"a message has {size} bytes; at most {MAX_MESSAGE} are allowed"
            )
        data = await _exactly(request, size)
        if not flags & _END:
            yield decode(data, model)


async def first_message(request: web.Request, model: type[T]) -> T:
    """Return the only message of a stream that the client begins with one.

    Args:
        request: The request.
        model: Its type.
    """
    async with contextlib.aclosing(stream_messages(request, model)) as messages:  # type: ignore[type-var]
        async for message in messages:
            return message
    raise E2bError("invalid_argument", "the request has no message")


async def _exactly(request: web.Request, size: int) -> bytes:
    try:
        return await request.content.readexactly(size)
    except EOFError as error:
        raise E2bError("invalid_argument", "the request ended within a message") from error


def timeout_ms(request: web.Request) -> int | None:
    """Return the time limit that the client gave; None without one.

    Args:
        request: The request.
    """
    text = request.headers.get("Connect-Timeout-Ms", "")
    return min(int(text), _MAX_TIMEOUT_MS) if text.isascii() and text.isdigit() and len(text) < 12 else None


def keepalive_s(request: web.Request) -> float:
    """Return the seconds of silence after which the client wants an event.

    Args:
        request: The request.
    """
    text = request.headers.get("Keepalive-Ping-Interval", "")
    return min(max(int(text), 1), 90) if text.isascii() and text.isdigit() and len(text) < 6 else 90


class Stream:
    """An answer of several messages. An error after its begin is its last message.

    Args:
        request: The request.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Content-Type": STREAM_TYPE})

    async def send(self, message: dict[str, Any], flags: int = 0) -> None:
        """Send a message."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
        data = msgspec.json.encode(message)
        await self.response.write(_HEAD.pack(flags, len(data)) + data)

    async def end(self, error: Exception | None = None, sandbox_id: str = "") -> web.StreamResponse:
        """Send the end.

        Args:
            error: The error that ended it.
            sandbox_id: The sandbox of the request.
        """
        known = None if error is None else as_e2b_error(error, sandbox_id)
        trailer = {} if known is None else {"error": {"code": known.code, "message": known.message}}
        with contextlib.suppress(ConnectionError):
            await self.send(trailer, _END)
            await self.response.write_eof()
        return self.response


def empty() -> web.Response:
    """Return the empty message."""
    return json_answer({})
