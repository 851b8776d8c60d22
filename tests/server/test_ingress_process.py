"""The process that serves visitors: what it may do, how it ends and comes back, and whose connections it gets."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support import Serve, eventually, signature_headers

from unsandbox.server.ingress.connections import Connections
from unsandbox.server.ingress.front import host_of

APPS = Path(__file__).with_name("apps")


class Place:
    """A server with the service `echo`, as a client sees it."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.keys = serve.keys()
        url = urlsplit(serve.url)
        self.address = (str(url.hostname), int(url.port or 0))
        self.host = f"echo.localhost:{self.address[1]}"

    def add(self, name: str, app: str) -> None:
        body = {
            "name": name,
            "bootstrap_content": (APPS / app).read_text(),
            "ports": [8000],
            "network": "zerotrust",
        }
        status, answer = self.serve.call(self.keys, "POST", "/services", body)
        assert status == 200, answer

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=30)

    def ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None):
        connection.request(method, path, body, {"Host": self.host})
        response = connection.getresponse()
        return response.status, response.read()

    def call(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b""):
        connection.request(method, path, body or None, signature_headers(*self.keys, method, path, body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def visit(self) -> int:
        with contextlib.closing(self.connection()) as connection:
            try:
                return self.ask(connection, "GET", "/")[0]
            except (OSError, http.client.HTTPException):
                return 0

    def ingress(self) -> int:
        """The id of the process, 0 while there is none."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.serve.process.pid and b"server.ingress" in (path / "cmdline").read_bytes():
                    return int(path.name)
        return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    with Serve(tmp_path_factory.mktemp("data")) as serve:
        found = Place(serve)
        found.add("echo", "echo.py")
        eventually(lambda: found.visit() == 200, 60)
        yield found
        assert serve.stop() == 0


def test_it_has_no_rights_and_no_secrets(place):
    pid = place.ingress()
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    if os.geteuid() == 0:
        assert "Uid:\t65534\t65534\t65534\t65534" in status
        assert "CapEff:\t0000000000000000" in status
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"UNSANDBOX" not in environment
    files = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [name for name in files if str(place.serve.data) in name]


MOST_S = 5.0
"""Seconds for an answer of the API on a busy machine; an idle one needs some milliseconds."""


@contextlib.contextmanager
def health_watched(place: Place) -> Iterator[list[float]]:
    """Ask for the health of the API again and again on one connection; give the seconds of each answer."""
    over, took = threading.Event(), list[float]()

    def ask() -> None:
        with contextlib.closing(place.connection()) as connection:
            while not over.wait(0.01):
                began = time.monotonic()
                connection.request("GET", "/health")
                response = connection.getresponse()
                response.read()
                took.append(time.monotonic() - began if response.status == 200 else math.inf)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        eventually(lambda: took)
        yield took
    finally:
        over.set()
        thread.join(30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_it_comes_back_and_the_api_notices_nothing(place, number):
    before = place.ingress()
    with health_watched(place) as took, contextlib.closing(place.connection()) as api:
        assert place.call(api, "GET", "/jobs")[0] == 200
        os.kill(before, number)
        assert place.call(api, "GET", "/jobs")[0] == 200
        eventually(lambda: place.visit() == 200, 30)
        during = len(took)
        eventually(lambda: len(took) > during)
    assert place.ingress() not in (0, before)
    assert max(took) < MOST_S


def test_signals_for_the_server_are_not_its_own(place):
    pid = place.ingress()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    assert place.visit() == 200
    assert place.ingress() == pid


@pytest.mark.parametrize("first", ["api", "service"])
def test_one_connection_may_be_used_for_both(place, first):
    code = json.dumps({"language": "bash", "code": "echo hi"}).encode()
    with contextlib.closing(place.connection()) as connection:
        for _ in range(3):
            if first == "api":
                assert place.call(connection, "GET", "/jobs")[0] == 200
            status, seen = place.ask(connection, "POST", "/", b"x" * 100_000)
            assert (status, len(json.loads(seen)["body"])) == (200, 100_000)
            assert place.call(connection, "POST", "/execute", code)[1]["stdout"] == "hi\n"
            assert place.ask(connection, "GET", "/")[0] == 200


@pytest.mark.parametrize("size", [3, 300_000])
def test_a_chunked_body_may_change_the_process(place, size):
    with contextlib.closing(place.connection()) as connection:
        for _ in range(3):
            assert place.call(connection, "GET", "/jobs")[0] == 200
            headers = {"Host": place.host, "Transfer-Encoding": "chunked"}
            pieces = [b"a" * 1000] * (size // 1000) or [b"abc"]
            connection.request("POST", "/", iter(pieces), headers, encode_chunked=True)
            response = connection.getresponse()
            if response.status == 421:
                # More had come by then than is handed over.
                assert size > 100_000
                assert response.headers["Connection"] == "close"
                break
            assert len(json.loads(response.read())["body"]) == sum(map(len, pieces))


def test_requests_before_their_turn_are_told_to_use_another_connection(place):
    get = "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n"
    with socket.create_connection(place.address, 30) as sock:
        sock.sendall((get.format("/health", "localhost") + get.format("/", place.host)).encode())
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 421" in answer


@pytest.mark.parametrize("host", ["echo", "api"])
def test_a_head_that_comes_in_single_bytes_finds_its_way(place, host):
    name = place.host if host == "echo" else "localhost"
    path = "/" if host == "echo" else "/health"
    with socket.create_connection(place.address, 30) as sock:
        for byte in f"GET {path} HTTP/1.1\r\nX-A: b\r\nhost:\t{name} \r\n\r\n".encode():
            sock.sendall(bytes([byte]))
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert (b'"backend"' in answer) == (host == "api")


def test_a_host_behind_a_long_head_finds_its_way(place):
    padding = "".join(f"X-{number}: {'a' * 4000}\r\n" for number in range(10))
    with socket.create_connection(place.address, 30) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\n{padding}Host: {place.host}\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_visitors_do_not_wait_for_one_that_says_nothing(place):
    silent = [socket.create_connection(place.address, 30) for _ in range(50)]
    try:
        assert place.visit() == 200
        assert place.serve.call(place.keys, "GET", "/jobs")[0] == 200
    finally:
        for sock in silent:
            sock.close()


def test_it_ends_with_a_server_that_is_killed(tmp_path):
    with Serve(tmp_path / "data") as serve:
        place = Place(serve)
        with socket.create_connection(place.address, 30) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: none.localhost\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 404")
        pid = place.ingress()
        assert pid
        serve.kill()
        eventually(lambda: not Path(f"/proc/{pid}").exists(), 20)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,DNS:echo.localhost,DNS:none.localhost", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def test_with_tls_the_server_name_says_who_is_meant(tmp_path, certificate):
    cert, key = map(str, certificate)
    context = ssl.create_default_context(cafile=cert)
    with Serve(tmp_path / "data", "--tls-cert", cert, "--tls-key", key) as serve:
        place = Place(serve)
        place.serve.call = lambda keys, *rest: Serve.call(serve, keys, *rest, context=context)  # type: ignore[method-assign]
        serve.url = serve.url.replace("127.0.0.1", "localhost")
        place.add("echo", "echo.py")

        def asked(name: str, host: str, path: str = "/") -> bytes:
            with (
                socket.create_connection(place.address, 30) as raw,
                context.wrap_socket(raw, server_hostname=name) as sock,
            ):
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = b""
                while part := sock.recv(65536):
                    answer += part
                return answer

        eventually(lambda: asked("echo.localhost", "echo.localhost").startswith(b"HTTP/1.1 200"), 60)
        assert b'"X-Forwarded-Proto", "https"' in asked("echo.localhost", "echo.localhost")
        assert asked("localhost", "localhost", "/health").startswith(b"HTTP/1.1 200")
        assert asked("none.localhost", "none.localhost").startswith(b"HTTP/1.1 404")
        # An encrypted connection stays where it is.
        assert asked("localhost", "echo.localhost").startswith(b"HTTP/1.1 421")
        assert asked("echo.localhost", "localhost", "/health").startswith(b"HTTP/1.1 421")
        with socket.create_connection(place.address, 30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert not plain.recv(100).startswith(b"HTTP")


def test_one_address_gets_half_of_the_connections():
    connections = Connections(10)
    assert [connections.add("a") for _ in range(7)] == [True] * 5 + [False] * 2
    assert [connections.add("b") for _ in range(7)] == [True] * 5 + [False] * 2
    connections.remove("a")
    assert connections.add("c")
    assert not connections.add("d")
    assert (len(connections), connections.refused) == (10, 5)


@pytest.mark.parametrize(
    ("data", "host"),
    [
        (b"", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", "a"),
        (b"GET / HTTP/1.1\nhOST:a\nX: y\n", "a"),
        (b"GET / HTTP/1.1\r\nX-Host: b\r\n\r\n", ""),
        (b"GET / HTTP/1.1\r\n\r\nHost: b\r\n", ""),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "a"),
    ],
)
def test_the_host_of_a_first_request(data, host):
    assert host_of(data) == host


def own_address() -> str:
    """An address of this machine that is not a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # Sends nothing.
        return str(sock.getsockname()[0])


def test_what_a_stranger_says_of_its_origin_does_not_arrive(tmp_path):
    said = {"X-Real-IP": "203.0.113.9", "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    with Serve(tmp_path / "data", "--host", "0.0.0.0") as serve:
        place = Place(serve)
        place.address = ("127.0.0.1", place.address[1])
        serve.url = f"http://127.0.0.1:{place.address[1]}"
        place.add("echo", "echo.py")
        eventually(lambda: place.visit() == 200, 60)
        seen = {}
        for address in ("127.0.0.1", own_address()):
            with contextlib.closing(
                http.client.HTTPConnection(address, place.address[1], timeout=30)
            ) as connection:
                connection.request("GET", "/", headers={"Host": place.host, **said})
                seen[address] = connection.getresponse().read()
        believed, stripped = seen.values()
        assert believed.count(b"203.0.113.9") == 3  # From this machine: a proxy says it.
        assert b"203.0.113.9" not in stripped
        assert b"X-Real-IP" not in stripped


def test_threads_of_visitors_get_their_own_answers(place):
    wrong: list[object] = []

    def ask(number: int) -> None:
        with contextlib.closing(place.connection()) as connection:
            for step in range(10):
                _, seen = place.ask(connection, "GET", f"/{number}-{step}")
                if json.loads(seen)["path"] != f"/{number}-{step}":
                    wrong.append(seen)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
