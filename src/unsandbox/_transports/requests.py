"""The sync client's way onto the network: the pooling adapter of requests, safe in threads and after fork."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from unsandbox._transports.common import (
    MAX_CONNECTIONS,
    USER_AGENT,
    AnswerReader,
    RawResponse,
    ca_bundle,
    place,
    proxy_for,
    scheme_hint,
    system_store,
    tls_context,
    tls_problem,
)
from unsandbox._transports.requests_live import LIBRARY, RequestsSocket, RequestsStream, connect_socket
from unsandbox.errors import ClientStateError, ConnectionFailedError, RequestTimeoutError, with_base
from unsandbox.protocol.contents import ChunkReader, Pieces

if TYPE_CHECKING:
    import requests
    import urllib3
    from requests.adapters import HTTPAdapter


def loaded() -> bool:
    """Return whether the library is loaded: always, because loading it here blocks no other task."""
    return True


def load() -> None:
    """Do nothing: the library is imported where it is used."""


_CHUNK = 1 << 16
_MAX_CAUSES = 8


class RequestsTransport:
    """A pool of connections to one server, for any number of threads. Opens nothing until the first `send`."""

    def __init__(self, origin: str, max_connections: int = MAX_CONNECTIONS, ca_file: str | None = None) -> None:
        self._origin = origin
        self._ca_file = ca_file
        self._answered = False
        self._max_connections = max_connections
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._opening = threading.Lock()
        self._slots = threading.Semaphore(self._max_connections)
        self._adapter: HTTPAdapter | None = None
        self._proxies: dict[str, str] = {}
        self._verify: str | bool = True

    def acquire(self, timeout: float | None) -> None:
        """Take one of the connections, or wait until one is free; each `acquire` needs one `release`.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Raises:
            RequestTimeoutError: None was free in time; nothing was sent.
        """
        if os.getpid() != self._pid:
            # After a fork: the parent's sockets must not be written to by two processes, and a slot that
            # another thread of the parent held would never come back.
            self._reset()
        if not self._slots.acquire(timeout=timeout):
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"all {self._max_connections} connections of this client were busy for {timeout:g} s"
            )

    def release(self) -> None:
        """Give the connection back."""
        self._slots.release()

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Pieces, timeout: float
    ) -> RawResponse:
        """Send one request and read the whole answer.

        Args:
            method: HTTP method.
            target: Path and query, percent-encoded; sent as it is.
            headers: Request headers.
            body: Request body; empty when there is none.
            timeout: Seconds for all of it: connecting, sending and reading.

        Raises:
            RequestTimeoutError: It took longer.
            ConnectionFailedError: There was no answer, or not all of it.
            InvalidRequestError: A file that is part of the body cannot be read.
        """
        import urllib3

        ends = time.monotonic() + timeout
        with self._translated(method, target, timeout):
            response = self._send(method, target, headers, body, urllib3.Timeout(total=timeout))
            self._answered = True
            with response:
                answer = _read(response, ends)
            if _cut_in_headers(answer):
                raise ConnectionResetError("the answer ends in its headers")
        return answer

    def open_stream(
        self, method: str, target: str, headers: Mapping[str, str], timeout: float, idle_s: float
    ) -> RequestsStream:
        """Send one request without a body, and return the answer as soon as its headers are there.

        Args:
            method: HTTP method.
            target: Path and query, percent-encoded; sent as it is.
            headers: Request headers.
            timeout: Seconds until it is connected.
            idle_s: Seconds that may pass later without a byte.

        Raises:
            RequestTimeoutError: It took longer.
            ConnectionFailedError: There was no answer.
        """
        import urllib3

        with self._translated(method, target, timeout):
            response = self._send(method, target, headers, b"", urllib3.Timeout(connect=timeout, read=idle_s))
        return RequestsStream(response, place(method, self._origin, target), idle_s)

    def open_socket(
        self, target: str, headers: Mapping[str, str], subprotocol: str, timeout: float
    ) -> RequestsSocket | RawResponse:
        """Open a WebSocket, or return the answer that refused it.

        Args:
            target: Path and query, percent-encoded.
            headers: Request headers.
            subprotocol: The WebSocket subprotocol.
            timeout: Seconds until it is open.

        Raises:
            RequestTimeoutError: It took longer.
            ConnectionFailedError: There was no answer, or an invalid one.
        """
        from websockets.exceptions import WebSocketException

        with self._translated("GET", target, timeout, WebSocketException):
            made = connect_socket(self._origin, target, headers, subprotocol, timeout, self._ca_file)
        return (
            made if isinstance(made, RawResponse) else RequestsSocket(made, place("GET", self._origin, target))
        )

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Pieces,
        timeout: urllib3.Timeout,
    ) -> requests.Response:
        adapter = self._adapter
        if adapter is None:
            with self._opening:
                # Two threads at once must not open two pools: there would be twice the connections allowed.
                adapter = self._adapter or self._open()
        data = body if isinstance(body, bytes) else ChunkReader(body.chunks())
        request = self._prepare(method, target, headers, data, len(body))
        try:
            return adapter.send(
                request,
                timeout=timeout,  # type: ignore[arg-type] # the adapter takes one, its stub not
                verify=self._verify,
                proxies=self._proxies,
            )
        except Exception as error:
            if isinstance(data, ChunkReader) and data.failure is not None:
                raise data.failure from error
            raise

    @contextlib.contextmanager
    def _translated(
        self, method: str, target: str, timeout: float, further: type[Exception] = OSError
    ) -> Iterator[None]:
        """Turn the errors of the libraries into ours."""
        import http.client

        import requests
        import urllib3

        try:
            yield
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise with_base(RequestTimeoutError, LIBRARY)(
                f"{place(method, self._origin, target)}: no answer within {timeout:g} s"
            ) from error
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            further,
        ) as error:
            problem = tls_problem(error)
            hint = "" if self._answered else scheme_hint(error, self._origin)
            failure = with_base(ConnectionFailedError, LIBRARY)(
                f"{place(method, self._origin, target)}: {problem or _reason(error) + hint}"
            )
            failure.retryable = problem is None
            reason = getattr(error.args[0], "reason", None) if error.args else None
            failure.sent = not isinstance(reason, urllib3.exceptions.NewConnectionError)
            raise failure from error

    def close(self) -> None:
        """Close all connections; the transport cannot be used any more."""
        self._closed = True
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def _open(self) -> HTTPAdapter:
        from requests.adapters import HTTPAdapter

        if self._closed:
            raise ClientStateError("this client is closed: make a new one")
        proxy = proxy_for(self._origin)
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        if self._origin.startswith("https:"):
            tls_context(self._ca_file)  # Refuses a file that cannot be used.
            # As the async client does: requests brings its own CAs, and a company's is not among them.
            self._verify = ca_bundle(self._ca_file) or system_store() or True
        self._adapter = HTTPAdapter(pool_connections=1, pool_maxsize=self._max_connections, max_retries=0)
        return self._adapter

    def _prepare(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | ChunkReader, size: int
    ) -> requests.PreparedRequest:
        """Make the request by hand: `prepare()` would quote the target again."""
        import requests
        from requests.structures import CaseInsensitiveDict

        request = requests.PreparedRequest()
        request.method = method
        request.url = self._origin + target
        request.body = (body or None) if isinstance(body, bytes) else body  # type: ignore[assignment] # its stub
        request.headers = CaseInsensitiveDict(headers)
        request.headers.setdefault("User-Agent", USER_AGENT)
        request.headers.setdefault("Accept", "*/*")
        request.headers.setdefault("Accept-Encoding", "gzip, deflate")
        if size or method in {"POST", "PUT", "PATCH"}:
            request.headers["Content-Length"] = str(size)
        return request


def _read(response: requests.Response, ends: float) -> RawResponse:
    """Read the body, looking at the clock after each piece, so that a dripping server cannot hold us."""
    raw = response.raw
    # One `recv` per call where urllib3 has it; a plain read waits until the piece is full.
    read = getattr(raw, "read1", raw.read)
    reader = AnswerReader()
    while piece := read(_CHUNK, decode_content=True):
        reader.feed(piece)
        if time.monotonic() > ends:
            raise TimeoutError
    return reader.answer(response.status_code, response.headers)


def _cut_in_headers(answer: RawResponse) -> bool:
    """Return whether an answer ends within its headers, which `http.client` takes for the end of the headers.

    Then nothing says how long the body is, and it is not the JSON that a success holds.
    """
    if answer.status >= 300 or "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers:
        return False
    return not answer.body.rstrip().endswith((b"}", b"]"))


def _reason(error: BaseException) -> str:
    """Return the innermost cause: the outer texts repeat the URL, query included."""
    for _ in range(_MAX_CAUSES):
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    text = str(error).rpartition(": ")[2].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
