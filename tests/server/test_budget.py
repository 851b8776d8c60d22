"""Everything that strangers and keys can open or leave on a server has a bound, and `/metrics` tells of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.test_ingress_process import Place
from tests.support import UN, Serve, eventually, signature_headers

DESCRIPTORS = 1200
MOST = DESCRIPTORS // 4
KIB = 1 << 10


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    """A server that may have few descriptors, so that its bounds are near."""
    program = ["prlimit", f"--nofile={DESCRIPTORS}", *UN]
    with Serve(tmp_path / "data", "--log-level", "warning", "--max-running", "1", program=program) as serve:
        yield Place(serve)
        assert serve.stop() == 0


def numbers(connection: http.client.HTTPConnection) -> dict[tuple[str, ...], float]:
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def opened(place: Place, source: str, data: bytes) -> socket.socket | None:
    try:
        sock = socket.create_connection(place.address, 10, (source, 0))
    except OSError:
        return None
    try:
        sock.sendall(data)
    except OSError:
        sock.close()
        return None
    return sock


def head(path: str, host: str, size: int = 0, headers: dict[str, str] | None = None) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {size}\r\n\r\n".encode()


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def test_what_can_be_opened_is_bounded(place):
    pid = place.serve.process.pid
    body = json.dumps({"language": "bash", "code": "echo hi"}).encode()
    unproved = signature_headers(place.keys[0], "wrong", "POST", "/execute", b"")
    kinds = [
        b"",  # Says nothing.
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 4 * KIB,
        b"GET / HTTP/1.1\r\nHost: none.localhost\r\nX-A: " + b"a" * 4 * KIB,
        head("/execute", "localhost", 60 * KIB, unproved) + b"x" * KIB,
        head("/execute", "localhost", 2048 * KIB, unproved) + b"x" * 512 * KIB,
    ]
    with contextlib.closing(place.connection()) as first, contextlib.ExitStack() as stack:
        assert place.call(first, "POST", "/execute", body)[1]["stdout"] == "hi\n"
        before = descriptors(pid)
        for number in range(3 * MOST):
            # Several addresses, each with several kinds: one would be stopped at its half.
            sock = opened(place, f"127.0.0.{2 + number % 7}", kinds[number % len(kinds)])
            if sock is not None:
                stack.callback(sock.close)
        eventually(lambda: numbers(first)["unsandbox_refused_total", "connections"] > 0, 30)
        found = eventually(
            lambda: (seen := numbers(first))["unsandbox_held_bytes", "unproved_disk"] and seen, 30
        )
        # The first one is signed and counts apart.
        assert MOST // 2 < found["unsandbox_connections", "api"] <= MOST + 1
        assert found["unsandbox_connections", "ingress"] <= MOST
        assert found["unsandbox_held_bytes", "heads"] > 4 * KIB
        assert found["unsandbox_held_bytes", "unproved_memory"] > 0
        # Each connection may have a file for its body and no more.
        assert found["unsandbox_open_descriptors",] <= before + 2 * MOST + 50
        # Work goes on for those who are connected.
        assert place.call(first, "POST", "/execute", body)[1]["stdout"] == "hi\n"
        stack.close()
        # All of it is released.
        eventually(lambda: numbers(first)["unsandbox_connections", "api"] == 1, 30)
        found = eventually(lambda: _nothing(numbers(first)), 60)
        assert descriptors(pid) <= before + 50


def _nothing(found: dict[tuple[str, ...], float]) -> bool:
    kinds = ("heads", "unproved_memory", "unproved_disk", "job_input")
    return all(not found["unsandbox_held_bytes", kind] for kind in kinds)


def test_input_of_waiting_jobs_is_counted_until_they_start(place):
    file = {"filename": "a", "content": "QUJD" * 100_000}
    with contextlib.closing(place.connection()) as connection:
        slow = json.dumps({"language": "bash", "code": "sleep 60"}).encode()
        large = json.dumps({"language": "bash", "code": "true", "input_files": [file]}).encode()
        bodies = [slow] * 25 + [large]
        jobs = [place.call(connection, "POST", "/execute/async", body)[1]["job_id"] for body in bodies]
        eventually(lambda: numbers(connection)["unsandbox_held_bytes", "job_input"] >= 300_000, 20)
        for job in jobs:
            place.call(connection, "DELETE", f"/jobs/{job}")
        eventually(lambda: not numbers(connection)["unsandbox_held_bytes", "job_input"], 20)
