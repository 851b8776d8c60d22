# Generated from src/unsandbox/_async/objects/port.py by scripts/unasync.py; change that one.
"""A connection to a port of a session."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from unsandbox._shared.streaming import PORT
from unsandbox._sync.connection import Connection
from unsandbox._sync.objects.process import ask
from unsandbox._sync.opening import open_socket
from unsandbox._transports.requests_live import RequestsSocket
from unsandbox.errors import ClientStateError
from unsandbox.protocol.processes import PORT_END, PORT_SUBPROTOCOL, ExposedPort, ExposedPorts

_WRITE_BYTES = 1 << 18


class Port:
    r"""A byte stream to a program that listens in a session; opened by a block around it.

    Example:
        ```python
        with session.connect(8000) as port:
            port.write(b"GET / HTTP/1.0\r\n\r\n")
            print(port.read_all())
        ```
    """

    __module__ = "unsandbox"

    def __init__(self, connection: Connection, session_id: str, port: int) -> None:
        self._connection = connection
        self._params = {"id": session_id, "port": str(port)}
        self._socket: RequestsSocket | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._params['port']}>"

    def __enter__(self) -> Self:
        self._socket = open_socket(self._connection, PORT, self._params, PORT_SUBPROTOCOL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, timeout: float | None = None) -> bytes:
        """Return the next bytes; empty when the program sends no more.

        Args:
            timeout: Maximum seconds to wait; None means no limit.

        Raises:
            RequestTimeoutError: Nothing came in time. The connection is still usable.
            ConnectionFailedError: The connection broke.
        """
        while not self._ended:
            message = self._opened().receive(timeout)
            if isinstance(message, bytes):
                if message:
                    return message
            elif message is None or message == PORT_END:
                self._ended = True
        return b""

    def read_all(self) -> bytes:
        """Return all bytes up to the end."""
        data = bytearray()
        while part := self.read():
            data += part
        return bytes(data)

    def write(self, data: bytes) -> None:
        """Send bytes.

        Args:
            data: The bytes.

        Raises:
            ConnectionFailedError: The connection broke.
        """
        view = memoryview(data)
        while view:
            self._opened().send(bytes(view[:_WRITE_BYTES]))
            view = view[_WRITE_BYTES:]

    def write_eof(self) -> None:
        """Tell the program that no more bytes follow."""
        self._opened().send(PORT_END)

    def close(self) -> None:
        """Close the connection. Further calls have no effect."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def _opened(self) -> RequestsSocket:
        if self._socket is None:
            raise ClientStateError("this connection is not open; use it in an `with` block")
        return self._socket


class Ports:
    """The ports of a session that visitors reach under host names of the server.

    Example:
        ```python
        session.start(["python3", "-m", "http.server", "8000"], detach=True)
        port = session.ports.expose(8000)
        print(port.url)  # http://8000-unsb-vm-1d0f8a2c3b.localhost:8787
        print(port.url_with_token)  # for a browser
        ```
    """

    __module__ = "unsandbox"

    def __init__(self, connection: Connection, session_id: str) -> None:
        self._connection = connection
        self._params = {"id": session_id}

    def expose(self, port: int, *, public: bool = False) -> ExposedPort:
        """Let visitors reach a port, also over WebSockets, and return its URL and token.

        Args:
            port: The port on the session's loopback interface.
            public: Whether visitors need no token.

        Raises:
            RateLimitError: The session has too many exposed ports.
        """
        members = {"port": port, "public": public}
        return ask(self._connection, "expose_port", ExposedPort, self._params, members)

    def list(self) -> ExposedPorts:
        """Return the ports that visitors reach."""
        return ask(self._connection, "list_ports", ExposedPorts, self._params)

    def close(self, port: int) -> None:
        """Let visitors no longer reach a port. Its token is not valid any more; open connections continue.

        Args:
            port: The port.
        """
        params = {**self._params, "port": str(port)}
        ask(self._connection, "close_port", ExposedPort, params)
