"""A connection that has stopped to be HTTP: bytes as they are, both ways, with back-pressure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

_BUFFER_BYTES = 256 * 1024


class _Bytes:
    """Replaces aiohttp's reader of WebSocket frames and forwards the bytes."""

    def __init__(self, protocol: BaseProtocol) -> None:
        self.reader = aiohttp.StreamReader(protocol, limit=_BUFFER_BYTES)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Receive bytes."""
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """Receive the end of the stream."""
        self.reader.feed_eof()


async def tunnel(
    request: web.BaseRequest, answer: aiohttp.ClientResponse, headers: CIMultiDict[str]
) -> web.StreamResponse:
    """Tell the visitor that the protocol is switched, then join both ends until one of them closes.

    Args:
        request: The visitor's, which asked for it.
        answer: The program's, which agreed (101).
        headers: Of that answer.
    """
    connection = answer.connection
    if connection is None or connection.protocol is None or request.protocol is None:
        raise ConnectionResetError("the connection is gone")
    response = web.StreamResponse(status=101, reason=answer.reason, headers=headers)
    response.force_close()
    from_visitor, from_program = _Bytes(request.protocol), _Bytes(connection.protocol)
    to_program = StreamWriter(connection.protocol, asyncio.get_running_loop())
    connection.protocol.set_parser(from_program, from_program.reader)
    await response.prepare(request)
    request.protocol.set_parser(from_visitor)  # type: ignore[arg-type]
    pumps = [
        asyncio.create_task(_pump(from_visitor.reader, to_program.write)),
        asyncio.create_task(_pump(from_program.reader, response.write)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if not pumps[1].done():
            return response
        # What the program said last still goes out, before the connection is closed.
        await asyncio.gather(pumps[1], return_exceptions=True)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        answer.close()
    return response


async def _pump(reader: aiohttp.StreamReader, write: Callable[[bytes], Awaitable[None]]) -> None:
    async for data in reader.iter_any():
        await write(data)
