"""Heads of requests: too large ones are answered, unfinished ones are bounded, and none is taken for another."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.test_ingress_process import Place
from tests.support import Serve, eventually, signature_headers

from unsandbox.server.ingress.arriving import Arriving
from unsandbox.server.ingress.connections import HeldBytes, network_of

MIB = 1 << 20
HOSTS = ("localhost", "echo.localhost")
LONG = b"X-%d: " + b"a" * 7000 + b"\r\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    with Serve(tmp_path_factory.mktemp("data"), "--log-level", "warning") as serve:
        found = Place(serve)
        found.add("echo", "echo.py")
        eventually(lambda: found.visit() == 200, 60)
        yield found
        assert serve.stop() == 0


def head(host: str, *lines: bytes, target: bytes = b"/health") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\n" + b"".join(lines)


def answer_to(place: Place, data: bytes, *, whole: bool = True) -> bytes:
    """Return everything that is answered; what cannot be sent any more is not an error."""
    with socket.create_connection(place.address, 30) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := sock.recv(65536):
                answer += part
                if not whole:
                    break
        return answer


TOO_LARGE = {
    "headers": ([LONG % number for number in range(12)], 431, "head_too_large"),
    "lines": ([b"X-A: b\r\n"] * 9000, 431, "head_too_large"),
    "one line": ([b"X-A: " + b"a" * 100_000 + b"\r\n"], 431, "head_too_large"),
    "one name": ([b"a" * 100_000], 431, "head_too_large"),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_that_is_too_large_is_told_so(place, name, host):
    lines, status, code = TOO_LARGE[name]
    answer = answer_to(place, head(host, *lines))
    assert answer.split()[1] == str(status).encode(), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == code
    assert b"aiohttp" not in answer


@pytest.mark.parametrize("host", HOSTS)
def test_a_target_that_is_too_long_is_told_so(place, host):
    answer = answer_to(place, head(host, b"\r\n", target=b"/" + b"x" * 9000))
    assert answer.split()[1] == b"414", answer[:200]


@pytest.mark.parametrize("host", HOSTS)
def test_a_head_of_usual_size_is_taken(place, host):
    lines = [LONG % number for number in range(8)]
    assert answer_to(place, head(host, *lines, b"Connection: close\r\n\r\n")).split()[1] == b"200"


@pytest.mark.parametrize("host", HOSTS)
def test_trailers_without_an_end_are_given_up(place, host):
    begin = b"POST / HTTP/1.1\r\nHost: " + host.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with socket.create_connection(place.address, 10) as sock:
        sock.sendall(begin)
        with pytest.raises(ConnectionError):
            _send_on(sock)


def _send_on(sock: socket.socket) -> None:
    for number in range(100_000):
        sock.sendall((LONG % number) * 10)


@pytest.mark.parametrize("host", HOSTS)
def test_many_requests_at_once_are_all_answered(place, host):
    count = 600
    answer = answer_to(place, head(host, b"\r\n") * (count - 1) + head(host, b"Connection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200") == count


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("host", HOSTS)
def test_unfinished_heads_of_one_address_are_bounded(place, host):
    pid = place.serve.process.pid if host == "localhost" else place.ingress()
    before = resident(pid)
    lines = [LONG % number for number in range(8)]
    with contextlib.ExitStack() as stack:
        # They would take 100 MiB twice, in the parser and for the hand-over.
        socks = [stack.enter_context(socket.create_connection(place.address, 30)) for _ in range(1800)]
        for sock in socks:
            sock.sendall(head(host, *lines))
        eventually(lambda: _refused(socks) > 1000, 60)
        assert resident(pid) - before < 150 * MIB
        # A small request is still read: one byte at a time would be refused no more than that.
        assert answer_to(place, head("127.0.0.1", b"Connection: close\r\n\r\n")).split()[1] in (b"200", b"503")
    eventually(
        lambda: answer_to(place, head(host, *lines, b"Connection: close\r\n\r\n")).split()[1] == b"200", 30
    )


def _refused(socks: list[socket.socket]) -> int:
    count = 0
    for sock in socks:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            count += sock.recv(12, socket.MSG_PEEK).endswith(b"503")
    return count


def test_bytes_of_an_address_have_a_bound_and_are_given_back():
    held = HeldBytes(100)
    assert [held.add("a", 30) for _ in range(3)] == [True, False, False]
    assert held.add("b", 50)
    held.remove("a", 30)
    held.remove("b", 50)
    assert (len(held), held.refused) == (0, 2)


def test_an_ipv6_network_is_one_sender():
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")


SLOW = json.dumps({"language": "bash", "code": "sleep 1; echo hi"}).encode()


def _after_a_slow_request(place: Place, *pieces: bytes) -> bytes:
    """Send a request that takes a second with the first piece, then the others while it runs."""
    headers = signature_headers(*place.keys, "POST", "/execute", SLOW)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    begin = f"POST /execute HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(SLOW)}\r\n\r\n".encode()
    with socket.create_connection(place.address, 30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(begin + SLOW + pieces[0])
        for piece in pieces[1:]:
            time.sleep(0.2)  # So that the server reads them one by one.
            sock.sendall(piece)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


def test_a_request_that_began_behind_another_is_not_cut(place):
    half = head("echo.localhost", b"X-A: ", target=b"/outer")
    answer = _after_a_slow_request(place, half, b"GET /inner HTTP/1.1\r\n\r\n")
    assert [int(part.split()[0]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 421], answer


def test_a_request_does_not_stand_in_for_the_one_before_it(place):
    second, third = (head("echo.localhost", b"\r\n", target=target) for target in (b"/second", b"/third"))
    answer = _after_a_slow_request(place, second, third)
    assert [int(part.split()[0]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 421], answer
    assert b"/third" not in answer


class Body:
    def __init__(self, total: int, *, eof: bool) -> None:
        self.total_bytes, self._eof = total, eof

    def is_eof(self) -> bool:
        return self._eof


def test_what_begins_in_the_middle_is_not_kept():
    arriving = Arriving()
    arriving.add(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /", 1, in_body=False)
    arriving.parsed(Body(0, eof=True), 1, new=1, in_body=False, all_read=True)
    assert (arriving.take(1) or b"").endswith(b"GET /")
    arriving.add(b"x HTTP/1.1\r\nHost: a\r\n\r\n", 2, in_body=False)
    arriving.parsed(Body(0, eof=True), 2, new=1, in_body=False, all_read=True)
    assert arriving.take(2) is None
    arriving.add(b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n", 3, in_body=False)
    assert arriving.take(2) is None
    assert arriving.take(3) == b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n"
