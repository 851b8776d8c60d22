"""Open connections on the sync side: streamed answers (urllib3) and WebSockets (websockets)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unsandbox._transports.common import GOOD_CLOSES, USER_AGENT, RawResponse, proxy_for, tls_context, wait_s
from unsandbox.errors import ConnectionFailedError, RequestTimeoutError, with_base

if TYPE_CHECKING:
    import requests
    from websockets.sync.client import ClientConnection

LIBRARY = "requests"
"""Additional base class of this transport's errors."""
_CHUNK = 1 << 16
_CLOSE_S = 2.0
"""Seconds that a server has to say goodbye, too."""


class RequestsStream:
    """An answer whose body is read as it comes.

    Attributes:
        status: HTTP status.
        headers: Of the answer, looked up without regard to case.
    """

    def __init__(self, response: requests.Response, where: str, idle_s: float) -> None:
        self._response = response
        self._where = where
        self._idle_s = idle_s
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def read(self, within: float | None = None) -> bytes:
        """Return the next bytes; empty at the end of the body.

        Args:
            within: Seconds to wait at most, where that is less than the stream may be idle.

        Raises:
            RequestTimeoutError: Nothing came for too long.
            ConnectionFailedError: The connection broke before the end.
        """
        import http.client

        import urllib3

        raw = self._response.raw
        read = getattr(raw, "read1", raw.read)
        seconds = wait_s(self._idle_s, within)
        if within is not None:
            _limit(raw, seconds)
        try:
            data: bytes = read(_CHUNK, decode_content=True)
        except (urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"{self._where}: nothing came for {seconds:g} s"
            ) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise with_base(ConnectionFailedError, LIBRARY)(f"{self._where}: {type(error).__name__}") from error
        return data

    def close(self) -> None:
        """Close the connection, or return it to the pool if the body was read to its end."""
        self._response.close()


def _limit(raw: Any, seconds: float) -> None:
    """Let the reads of an answer that has begun wait no longer than this; urllib3 has no way to say so."""
    for name in ("_fp", "fp", "raw", "_sock"):
        raw = getattr(raw, name, None)
    if raw is not None:
        raw.settimeout(seconds)


class RequestsSocket:
    """A WebSocket. `receive` may run in one thread while `send` runs in others."""

    def __init__(self, socket: ClientConnection, where: str) -> None:
        self._socket = socket
        self._where = where

    @property
    def failure(self) -> ConnectionFailedError:
        """The error that says that the connection broke."""
        return with_base(ConnectionFailedError, LIBRARY)(f"{self._where}: the connection broke")

    def send(self, data: bytes | str) -> None:
        """Send one message, binary or text.

        Raises:
            ConnectionFailedError: The connection is broken.
        """
        from websockets.exceptions import WebSocketException

        try:
            self._socket.send(data)
        except (WebSocketException, OSError) as error:
            raise self.failure from error

    def receive(self, timeout: float | None = None) -> bytes | str | None:
        """Return the next message: bytes, text, or None when the server closed in good order.

        Raises:
            RequestTimeoutError: None came in time.
            ConnectionFailedError: The connection broke.
        """
        from websockets.exceptions import ConnectionClosed, WebSocketException

        try:
            return self._socket.recv(timeout)
        except TimeoutError as error:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"{self._where}: nothing came within {timeout:g} s"
            ) from error
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in GOOD_CLOSES:
                return None
            raise self.failure from error
        except (WebSocketException, OSError, EOFError) as error:
            raise self.failure from error

    def close(self) -> None:
        """Close it. Closing twice does no harm."""
        with contextlib.suppress(OSError):
            self._socket.close()


def connect_socket(
    origin: str, target: str, headers: Mapping[str, str], subprotocol: str, timeout: float, ca_file: str | None
) -> ClientConnection | RawResponse:
    """Open a WebSocket, or return the answer that refused it.

    Raises:
        TimeoutError: It took too long.
        OSError: There was no connection.
        websockets.exceptions.WebSocketException: The server does not speak the protocol.
    """
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    known = inspect.signature(connect).parameters
    # Later versions need this option to return the same as earlier ones.
    options: dict[str, Any] = {
        name: value for name, value in (("legacy", True), ("proxy", proxy_for(origin))) if name in known
    }
    if origin.startswith("https:"):
        options["ssl"] = tls_context(ca_file)
    try:
        connection: ClientConnection = connect(
            "ws" + origin.removeprefix("http") + target,
            subprotocols=[Subprotocol(subprotocol)],
            additional_headers=dict(headers),
            user_agent_header=USER_AGENT,
            open_timeout=timeout,
            close_timeout=_CLOSE_S,
            max_size=None,
            **options,
        )
    except InvalidStatus as error:
        response = error.response
        return RawResponse(response.status_code, response.headers, bytes(response.body or b""))
    return connection
