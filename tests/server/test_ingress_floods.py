"""Services whose answers never end, and visitors who never stop: nobody else waits for them, and little is held."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.server.test_ingress_process import Place
from tests.support import Serve, eventually, signature_headers

MIB = 1 << 20
FACTOR = 3.0
_TRIES = 4
_VISITORS = 2
_REQUESTS = 25


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    with Serve(tmp_path_factory.mktemp("data"), "--log-level", "warning") as serve:
        found = Place(serve)
        found.host = f"hostile.localhost:{found.address[1]}"
        found.add("hostile", "hostile.py")
        eventually(lambda: found.visit() == 200, 60)
        yield found
        assert serve.stop() == 0


def latencies(place: Place) -> tuple[float, float]:
    """The worst but one of some requests for /health, and of some hello worlds."""
    body = json.dumps({"language": "python", "code": "print(1)"}).encode()
    with contextlib.closing(place.connection()) as connection:

        def health() -> None:
            connection.request("GET", "/health")
            assert connection.getresponse().read()

        def hello() -> None:
            headers = signature_headers(*place.keys, "POST", "/execute", body)
            connection.request("POST", "/execute", body, headers)
            assert json.loads(connection.getresponse().read())["stdout"] == "1\n"

        return _worst(health), _worst(hello)


def _worst(work: Callable[[], None]) -> float:
    times = []
    for _ in range(_REQUESTS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times)[-2]


@contextlib.contextmanager
def visitors(place: Place, visit: Callable[[Place, threading.Event], None]) -> Iterator[None]:
    """Some visitors at a time, each begins anew when its visit has ended."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                visit(place, stop)

    threads = [threading.Thread(target=go_on, daemon=True) for _ in range(_VISITORS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def asks(path: str, extra: str = "") -> Callable[[Place, threading.Event], None]:
    """A visitor who reads whatever comes."""

    def visit(place: Place, stop: threading.Event) -> None:
        with socket.create_connection(place.address, 2) as sock:
            sock.sendall(
                f"GET /{path} HTTP/1.1\r\nHost: {place.host}\r\nConnection: close\r\n{extra}\r\n".encode()
            )
            while not stop.is_set() and sock.recv(65536):
                pass

    return visit


def sends(begin: str, piece: bytes, pause_s: float = 0.0) -> Callable[[Place, threading.Event], None]:
    """A visitor who sends without an end."""
    block = piece if pause_s else piece * (65536 // len(piece) + 1)

    def visit(place: Place, stop: threading.Event) -> None:
        with socket.create_connection(place.address, 2) as sock:
            sock.sendall(begin.format(host=place.host).encode())
            while not stop.is_set():
                sock.sendall(block)
                stop.wait(pause_s)

    return visit


WEBSOCKET = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
HEAD = "POST /ok HTTP/1.1\r\nHost: {host}\r\n"
FLOODS = {
    "interim answers": asks("interim"),
    "slow interim answers": asks("slow-interim"),
    "one-byte chunks": asks("chunks"),
    "headers": asks("headers"),
    "one long header": asks("header"),
    "status line": asks("status-line"),
    "trailers": asks("trailers"),
    "chunk extension": asks("extension"),
    "body": asks("body"),
    "one byte of a head a moment": asks("slow-head"),
    "silence": asks("silence"),
    "upgrade and frames": asks("upgrade", WEBSOCKET),
    "upgrade that nobody asked for": asks("switched"),
    "short visits": asks("ok"),
    "visits of nobody": asks("nothing", "Host: none.localhost\r\n"),
    "visitor's one-byte chunks": sends(HEAD + "Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "visitor's headers": sends(HEAD, b"X-A: b\r\n"),
    "visitor's trailers": sends(HEAD + "Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
    "visitor's slow head": sends(HEAD, b"X-A: b\r\n", 0.05),
    "visitor's slow body": sends(HEAD + "Content-Length: 100000\r\n\r\n", b"x", 0.05),
    "visitor's pipeline": sends("", b"GET /ok HTTP/1.1\r\nHost: hostile.localhost\r\n\r\n"),
}


QUICK = (
    "interim answers",
    "one-byte chunks",
    "body",
    "upgrade and frames",
    "visitor's one-byte chunks",
    "visitor's pipeline",
)
"""One of each kind, also for `make test`: each takes a second of a processor, or four on a busy machine."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in FLOODS]
)
def test_the_api_does_not_wait_for_a_flood(place, name):
    worst: list[str] = []
    for _ in range(_TRIES):
        before = latencies(place)
        with visitors(place, FLOODS[name]):
            during = latencies(place)
        ratios = [after / max(earlier, 0.01) for earlier, after in zip(before, during, strict=True)]
        if max(ratios) <= FACTOR:
            break
        worst.append(f"{before} -> {during}")
    else:
        pytest.fail(f"health and hello took more than {FACTOR} times as long, {_TRIES} times: {worst}")


def test_floods_leave_nothing_in_memory(place):
    assert place.visit() == 200
    assert _held(place.ingress()) < 150 * MIB
    assert _held(place.serve.process.pid) < 200 * MIB


def _held(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("path", ["interim", "slow-interim", "headers", "header", "status-line", "switched"])
def test_an_answer_without_a_usable_head_is_given_up(place, path):
    with socket.create_connection(place.address, 60) as sock:
        sock.sendall(f"GET /{path} HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode())
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 502"), answer
    assert b"aiohttp" not in answer
    assert b"bad_answer" in answer


@pytest.mark.slow  # Its silence must last.
def test_the_ingress_is_killed_and_started_again_when_it_does_not_answer(place):
    from unsandbox.server.ingress import supervisor

    before = place.ingress()
    os.kill(before, 19)
    eventually(lambda: place.ingress() not in (0, before), 3 * supervisor.SILENT_S)
    eventually(lambda: place.visit() == 200, 30)


UNUSABLE = {
    "headers": b"GET /health HTTP/1.1\r\nHost: {host}\r\n" + b"X-A: b\r\n" * 8000,
    "trailers": b"POST /execute HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    + b"X: b\r\n" * 9000,
    "zeros": bytes(65536),
    "one long word": b"G" * 65536,
    "one long target": b"GET /" + b"x" * 65536,
}


@pytest.mark.parametrize("host", ["localhost", "hostile.localhost"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_request_is_not_kept(place, name, host):
    assert place.visit() == 200
    data = UNUSABLE[name].replace(b"{host}", host.encode())
    pids = place.serve.process.pid, place.ingress()
    before = [_held(pid) for pid in pids]

    def send() -> None:
        with contextlib.suppress(OSError), socket.create_connection(place.address, 5) as sock:
            for _ in range(200):
                sock.sendall(data)

    # At a time: the server reads on for two seconds after it has refused one.
    senders = [threading.Thread(target=send) for _ in range(10)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    after = [_held(pid) for pid in pids]
    assert all(late - early < 20 * MIB for early, late in zip(before, after, strict=True)), (before, after)
