"""Open connections on the async side: streamed answers and WebSockets."""

# ruff: noqa: ASYNC109 - the sync twin has no other way to be given a time limit

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from unsandbox._transports.common import GOOD_CLOSES, wait_s
from unsandbox.errors import ConnectionFailedError, RequestTimeoutError, with_base

if TYPE_CHECKING:
    import aiohttp

LIBRARY = "aiohttp"
"""Additional base class of this transport's errors."""


class AiohttpStream:
    """An answer whose body is read as it comes.

    Attributes:
        status: HTTP status.
        headers: Of the answer, looked up without regard to case.
    """

    def __init__(self, response: aiohttp.ClientResponse, where: str, idle_s: float) -> None:
        self._response = response
        self._where = where
        self._idle_s = idle_s
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self, within: float | None = None) -> bytes:
        """Return the next bytes; empty at the end of the body.

        Args:
            within: Seconds to wait at most, where that is less than the stream may be idle.

        Raises:
            RequestTimeoutError: Nothing came for too long.
            ConnectionFailedError: The connection broke before the end.
        """
        import aiohttp

        seconds = wait_s(self._idle_s, within)
        try:
            async with asyncio.timeout(seconds):
                return await self._response.content.readany()
        except TimeoutError as error:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"{self._where}: nothing came for {seconds:g} s"
            ) from error
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise with_base(ConnectionFailedError, LIBRARY)(f"{self._where}: {reason(error)}") from error

    async def close(self) -> None:
        """Close the connection, or return it to the pool if the body was read to its end."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class AiohttpSocket:
    """A WebSocket. `receive` may run in one task while `send` runs in others."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, where: str) -> None:
        self._socket = socket
        self._where = where

    @property
    def failure(self) -> ConnectionFailedError:
        """The error that says that the connection broke."""
        return with_base(ConnectionFailedError, LIBRARY)(f"{self._where}: the connection broke")

    async def send(self, data: bytes | str) -> None:
        """Send one message, binary or text.

        Raises:
            ConnectionFailedError: The connection is broken.
        """
        import aiohttp

        try:
            if isinstance(data, str):
                await self._socket.send_str(data)
            else:
                await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise self.failure from error

    async def receive(self, timeout: float | None = None) -> bytes | str | None:
        """Return the next message: bytes, text, or None when the server closed in good order.

        Raises:
            RequestTimeoutError: None came in time.
            ConnectionFailedError: The connection broke.
        """
        import aiohttp

        try:
            async with asyncio.timeout(timeout):
                message = await self._socket.receive()
        except TimeoutError as error:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"{self._where}: nothing came within {timeout:g} s"
            ) from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise self.failure from error
        if message.type is aiohttp.WSMsgType.BINARY or message.type is aiohttp.WSMsgType.TEXT:
            data: bytes | str = message.data
            return data
        if message.type is aiohttp.WSMsgType.CLOSE and message.data in GOOD_CLOSES:
            return None
        raise self.failure

    async def close(self) -> None:
        """Close it. Closing twice does no harm."""
        await self._socket.close()


def reason(error: BaseException) -> str:
    """Return the text of an error of the library, with its name."""
    text = str(error).strip()
    name = type(error).__name__
    return f"{name}: {text}" if text and text != "None" else name
