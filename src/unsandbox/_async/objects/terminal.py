"""The terminal of a session: bytes in both directions over a WebSocket."""

# ruff: noqa: ASYNC109 - the sync twin has no other way to be given a time limit

from __future__ import annotations

import json
from collections import deque
from types import TracebackType
from typing import Self

from unsandbox._async.connection import Connection
from unsandbox._async.opening import open_socket
from unsandbox._shared.request import failed_attempt
from unsandbox._shared.streaming import TERMINAL
from unsandbox._transports.aiohttp_live import AiohttpSocket
from unsandbox.errors import APIError, ClientStateError, ConnectionFailedError, RequestTimeoutError
from unsandbox.protocol.retry import RetryPolicy
from unsandbox.protocol.sessions import SHELL_SUBPROTOCOL

_PATIENCE = RetryPolicy(max_retries=6, base_s=0.25, cap_s=4.0)


class AsyncTerminal:
    """An interactive terminal. Iterating over it yields the program's output as bytes until it ends.

    Attributes:
        exited: Whether the program in the terminal has ended.
        exit_code: Its exit code, if the server reports it.
        detached: Whether the server detached the terminal while the program continues.
    """

    __module__ = "unsandbox"

    def __init__(
        self, connection: Connection, session_id: str, columns: int, rows: int, reconnect: int
    ) -> None:
        self._connection = connection
        self._session_id = session_id
        self._size = (columns, rows)
        self._reconnects_left = reconnect
        self._socket: AiohttpSocket | None = None
        self._unsent: deque[bytes] = deque()
        self._over = False
        self.exited = False
        self.exit_code: int | None = None
        self.detached = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._session_id}>"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def read(self, timeout: float | None = None) -> bytes:
        """Return the next output of the program; empty at the end.

        Args:
            timeout: Maximum seconds to wait; None means no limit.

        Raises:
            RequestTimeoutError: There was no output in time. The terminal is still usable.
            ConnectionFailedError: The connection broke and could not be reopened.
        """
        while not self._over:
            socket = self._opened()
            try:
                message = await socket.receive(timeout)
            except RequestTimeoutError:
                raise
            except ConnectionFailedError:
                await self._reopen(socket)
                continue
            if isinstance(message, bytes):
                if message:
                    return message
            elif message is None:
                self._over = True
            else:
                self._note(message)
        return b""

    async def write(self, data: bytes | str) -> None:
        """Send input. Input during a broken connection is sent after the reconnect.

        Args:
            data: Keystrokes; text is sent as UTF-8.
        """
        keys = data.encode() if isinstance(data, str) else bytes(data)
        if self._over:
            raise ClientStateError("the program of this terminal has ended, or its connection was closed")
        try:
            await self._opened().send(keys)
        except ConnectionFailedError:
            if self._reconnects_left <= 0:
                raise
            self._unsent.append(keys)

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window.

        Args:
            columns: Width in characters.
            rows: Height in lines.
        """
        self._size = (columns, rows)
        if not self._over:
            try:
                await self._send_size(self._opened())
            except ConnectionFailedError:
                if self._reconnects_left <= 0:
                    raise

    async def close(self) -> None:
        """Close the terminal. The session is kept. Further calls have no effect."""
        self._over = True
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    def _opened(self) -> AiohttpSocket:
        if self._socket is None:
            raise ClientStateError("this terminal is not open; use it in an `async with` block")
        return self._socket

    async def _open(self) -> None:
        params = {"id": self._session_id}
        self._socket = await open_socket(self._connection, TERMINAL, params, SHELL_SUBPROTOCOL)
        await self._send_size(self._socket)
        while self._unsent:
            await self._socket.send(self._unsent[0])
            self._unsent.popleft()

    async def _reopen(self, broken: AiohttpSocket) -> None:
        """Reopen the connection with retries; raises the last error when they are used up."""
        await broken.close()
        if self._reconnects_left <= 0:
            self._over = True
            raise broken.failure
        self._reconnects_left -= 1
        number = 0
        while not self._over:
            number += 1
            try:
                await self._open()
            except (ConnectionFailedError, APIError) as error:
                try:
                    failed = failed_attempt("GET", number, error)
                    await self._connection.server.pause(TERMINAL.name, failed, error, _PATIENCE)
                except Exception:
                    self._over = True
                    raise
            else:
                return

    async def _send_size(self, socket: AiohttpSocket) -> None:
        columns, rows = self._size
        await socket.send(json.dumps({"type": "resize", "cols": columns, "rows": rows}))

    def _note(self, message: str) -> None:
        try:
            members = json.loads(message)
            kind, code = members.get("type"), members.get("exit_code")
        except (ValueError, AttributeError):
            return
        if kind == "exit":
            self.exited = self._over = True
            self.exit_code = code if isinstance(code, int) else None
        elif kind == "detached":
            self.detached = self._over = True
