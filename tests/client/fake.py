"""A server that does to the wire exactly what a test says: other people's servers, and broken networks."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

PUBLIC, SECRET = "unsb-pk-test-test-test-test", "unsb-sk-very1-secre-t0000-00000"
JOB = {"job_id": "j1", "status": "completed", "stdout": "hi\n", "stderr": "", "exit_code": 0}


class Request(NamedTuple):
    """One request as it came off the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        return json.loads(self.body)

    def signature_is_right(self, secret: str = SECRET) -> bool:
        message = f"{self.headers['x-timestamp']}:{self.method}:{self.target}:".encode() + self.body
        return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() == self.headers["x-signature"]


class Raw(NamedTuple):
    """Bytes to write, after which the connection is closed or kept."""

    data: bytes
    close: bool = True


class Hang(NamedTuple):
    """No answer until the test is over."""


Answer = Raw | Hang


def reply(
    status: int = 200, body: Any = JOB, headers: dict[str, str] | None = None, *, close: bool = False
) -> Raw:
    """Make an answer; a `bytes` body goes out as it is."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return Raw("\r\n".join(lines).encode() + b"\r\n\r\n" + data, close)


OURS = {"Unsandbox-Features": "wait, idempotency, stdin"}
CUT = Raw(b"")


class FakeServer:
    """Accepts connections in threads and answers as `respond` says."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.respond: Callable[[Request], Answer] = lambda _: reply()
        self._over = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.settimeout(0.02)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def script(self, *answers: Answer) -> None:
        """Give these answers in turn; the last one again and again."""
        left = list(answers)
        self.respond = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def routes(self, **answers: Answer | Callable[[Request], Answer]) -> None:
        """Answer by `METHOD_first-part-of-path`, such as `POST_execute`."""

        def respond(request: Request) -> Answer:
            path = request.target.partition("?")[0].strip("/").replace("/", "_")
            key = f"{request.method}_{path}"
            answer = answers.get(key) or answers.get(f"{request.method}_{path.partition('_')[0]}")
            if answer is None:
                return reply(404, {"error": "not_found", "message": f"no route {key}"})
            return answer if isinstance(answer, tuple) else answer(request)

        self.respond = respond

    def seen(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.requests]

    def close(self) -> None:
        self._over.set()
        self._listener.close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._acceptor.join(5)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            connection.settimeout(None)
            self.connections += 1
            self._sockets.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
            for request in self._read(stream, number):
                self.requests.append(request)
                answer = self.respond(request)
                if isinstance(answer, Hang):
                    self._over.wait()
                    return
                connection.sendall(answer.data)
                if answer.close:
                    return

    def _read(self, stream: Any, number: int) -> Iterator[Request]:
        while line := stream.readline():
            method, target, _ = line.decode().split(" ")
            headers = {}
            while (header := stream.readline().decode().rstrip("\r\n")) != "":
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", "0")))
            yield Request(method, target, headers, body, number)
