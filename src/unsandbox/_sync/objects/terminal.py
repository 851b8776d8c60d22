# Generated from src/unsandbox/_async/objects/terminal.py by scripts/unasync.py; change that one.
"""The terminal of a session: bytes in both directions over a WebSocket."""

from __future__ import annotations

import json
from collections import deque
from types import TracebackType
from typing import Self

from unsandbox._shared.request import failed_attempt
from unsandbox._shared.streaming import TERMINAL
from unsandbox._sync.connection import Connection
from unsandbox._sync.opening import open_socket
from unsandbox._transports.requests_live import RequestsSocket
from unsandbox.errors import APIError, ClientStateError, ConnectionFailedError, RequestTimeoutError
from unsandbox.protocol.retry import RetryPolicy
from unsandbox.protocol.sessions import SHELL_SUBPROTOCOL

_PATIENCE = RetryPolicy(max_retries=6, base_s=0.25, cap_s=4.0)


class Terminal:
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
        self._socket: RequestsSocket | None = None
        self._unsent: deque[bytes] = deque()
        self._over = False
        self.exited = False
        self.exit_code: int | None = None
        self.detached = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._session_id}>"

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        data = self.read()
        if not data:
            raise StopIteration
        return data

    def read(self, timeout: float | None = None) -> bytes:
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
                message = socket.receive(timeout)
            except RequestTimeoutError:
                raise
            except ConnectionFailedError:
                self._reopen(socket)
                continue
            if isinstance(message, bytes):
                if message:
                    return message
            elif message is None:
                self._over = True
            else:
                self._note(message)
        return b""

    def write(self, data: bytes | str) -> None:
        """Send input. Input during a broken connection is sent after the reconnect.

        Args:
            data: Keystrokes; text is sent as UTF-8.
        """
        keys = data.encode() if isinstance(data, str) else bytes(data)
        if self._over:
            raise ClientStateError("the program of this terminal has ended, or its connection was closed")
        try:
            self._opened().send(keys)
        except ConnectionFailedError:
            if self._reconnects_left <= 0:
                raise
            self._unsent.append(keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window.

        Args:
            columns: Width in characters.
            rows: Height in lines.
        """
        self._size = (columns, rows)
        if not self._over:
            try:
                self._send_size(self._opened())
            except ConnectionFailedError:
                if self._reconnects_left <= 0:
                    raise

    def close(self) -> None:
        """Close the terminal. The session is kept. Further calls have no effect."""
        self._over = True
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def _opened(self) -> RequestsSocket:
        if self._socket is None:
            raise ClientStateError("this terminal is not open; use it in an `with` block")
        return self._socket

    def _open(self) -> None:
        params = {"id": self._session_id}
        self._socket = open_socket(self._connection, TERMINAL, params, SHELL_SUBPROTOCOL)
        self._send_size(self._socket)
        while self._unsent:
            self._socket.send(self._unsent[0])
            self._unsent.popleft()

    def _reopen(self, broken: RequestsSocket) -> None:
        """Reopen the connection with retries; raises the last error when they are used up."""
        broken.close()
        if self._reconnects_left <= 0:
            self._over = True
            raise broken.failure
        self._reconnects_left -= 1
        number = 0
        while not self._over:
            number += 1
            try:
                self._open()
            except (ConnectionFailedError, APIError) as error:
                try:
                    failed = failed_attempt("GET", number, error)
                    self._connection.server.pause(TERMINAL.name, failed, error, _PATIENCE)
                except Exception:
                    self._over = True
                    raise
            else:
                return

    def _send_size(self, socket: RequestsSocket) -> None:
        columns, rows = self._size
        socket.send(json.dumps({"type": "resize", "cols": columns, "rows": rows}))

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
