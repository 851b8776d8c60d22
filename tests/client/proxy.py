"""A broken network in front of a real server: cuts, refuses, delays, as a test says."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit


class Fate(NamedTuple):
    """What happens to one request.

    Attributes:
        answer: Sent instead of asking the server.
        cut_before: Break the connection before the server sees the request.
        cut_within: Break it when the server has seen so many bytes of the body.
        cut_after: Break it after so many bytes of the answer.
        delay_s: Wait before anything.
    """

    answer: bytes | None = None
    cut_before: bool = False
    cut_within: int | None = None
    cut_after: int | None = None
    delay_s: float = 0.0


PASS = Fate()


def refusal(status: int, *headers: str) -> Fate:
    """The answer of something on the way that is not the server."""
    lines = [f"HTTP/1.1 {status} No", "Content-Length: 2", "Connection: close", *headers, "", "no"]
    return Fate(answer="\r\n".join(lines).encode())


class Proxy:
    """Passes requests on, one per connection, each by its own fate."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.rule: Callable[[str], Fate] = lambda _: PASS
        """Called with method and target of each request."""
        self.seen: list[str] = []
        self.passed: list[str] = []
        """What reached the server."""
        self._open: set[socket.socket] = set()
        self._over = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def break_all(self) -> None:
        """Break every connection that is open now."""
        for connection in list(self._open):
            _break(connection)

    def close(self) -> None:
        self._over = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._over:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        with client, contextlib.suppress(OSError, ValueError):
            head, body = _request(client)
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            name = f"{method} {target}"
            self.seen.append(name)
            fate = self.rule(name)
            time.sleep(fate.delay_s)
            if fate.cut_before:
                _break(client)
            elif fate.answer is not None:
                client.sendall(fate.answer)
            else:
                self.passed.append(name)
                self._pass_on(client, head, body, fate)
        self._open.discard(client)

    def _pass_on(self, client: socket.socket, head: bytes, body: bytes, fate: Fate) -> None:
        left = fate.cut_after
        with socket.create_connection(self._upstream) as server:
            self._open.add(server)
            if b"upgrade: websocket" in head.lower():
                server.sendall(head + body)
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            else:
                lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
                server.sendall(
                    b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]) + body[: fate.cut_within]
                )
                if fate.cut_within is not None:
                    _break(client)
                    server.shutdown(socket.SHUT_WR)
            while data := server.recv(65536):
                if left is not None and len(data) >= left:
                    client.sendall(data[:left])
                    _break(client)
                    break
                client.sendall(data)
                left = None if left is None else left - len(data)
            self._open.discard(server)
            # Another thread may still read from it: closing alone would tell nobody.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _request(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            raise ValueError("no request")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n", body


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _break(connection: socket.socket) -> None:
    """Close with a reset, as a router that forgot us does."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
