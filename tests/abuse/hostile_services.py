"""Services that attack their visitors, the ingress and the API; visitors that attack services."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.abuse.served import Result, Target, add, attack
from tests.support import eventually

ANSWERS, VISITORS = "answers of services", "visitors of services"
BY = "answers are read strictly, in a process of its own, and written anew"
MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\n"

# Path to bytes that the service sends, whatever it is asked; then it closes.
RAW: dict[str, tuple[str, bytes]] = {
    "nothing": ("a connection that is closed at once", b""),
    "garbage": ("bytes that are no HTTP", b"\x16\x03\x01\x02\x00\x01" * 50),
    "http-0.9": ("a body without a head", b"<html>hello</html>"),
    "version": ("a version that there is not", b"HTTP/7.7 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "status-words": ("a status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok"),
    "status-large": ("a status of 20 digits", b"HTTP/1.1 20000000000000000000 OK\r\nContent-Length: 2\r\n\r\nok"),
    "status-negative": ("a negative status", b"HTTP/1.1 -200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "status-99": ("the status 99", b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok"),
    "two-lengths": ("two lengths", HEAD + b"Content-Length: 2\r\nContent-Length: 50\r\n\r\nok" + b"x" * 48),
    "length-and-chunks": ("a length and chunks", HEAD + b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n"),
    "length-negative": ("a negative length", HEAD + b"Content-Length: -5\r\n\r\nok"),
    "length-words": ("a length of 0x10", HEAD + b"Content-Length: 0x10\r\n\r\nok"),
    "length-large": ("a length of 30 digits", HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nok"),
    "chunk-negative": ("a chunk of size -1", HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nok\r\n0\r\n\r\n"),
    "chunk-large": ("a chunk of 32 digits", HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 32 + b"\r\nok"),
    "chunk-words": ("a chunk size that is no number", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
    "coding": ("a transfer coding that there is not", HEAD + b"Transfer-Encoding: gzip, chunked, evil\r\n\r\nok"),
    "zero-in-header": ("a zero byte in a header", HEAD + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\nok"),
    "line-end-in-header": ("a carriage return in a header", HEAD + b"X-A: a\rX-Evil: 1\r\nContent-Length: 2\r\n\r\nok"),
    "folded": ("a folded header", HEAD + b"X-A: a\r\n X-Evil: 1\r\nContent-Length: 2\r\n\r\nok"),
    "header-without-colon": ("a header without a colon", HEAD + b"evil\r\nContent-Length: 2\r\n\r\nok"),
    "header-megabyte": ("a header of a megabyte", HEAD + b"X-A: " + b"a" * MIB + b"\r\nContent-Length: 2\r\n\r\nok"),
    "headers-many": ("10,000 headers", HEAD + b"X-A: b\r\n" * 10_000 + b"Content-Length: 2\r\n\r\nok"),
    "reason-megabyte": ("a reason of a megabyte", b"HTTP/1.1 200 " + b"a" * MIB + b"\r\nContent-Length: 2\r\n\r\nok"),
    "early": ("an end before the length is reached", HEAD + b"Content-Length: 1000\r\n\r\nok"),
    "early-chunk": ("an end within a chunk", HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\nok"),
    "two-answers": ("a second answer behind the first", HEAD + b"Content-Length: 2\r\n\r\nok" + HEAD + b"X-Evil: 1\r\nContent-Length: 0\r\n\r\n"),
    "upgrade": ("a switch that nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /jobs HTTP/1.1\r\n\r\n"),
    "interim": ("ten thousand interim answers", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 10_000 + HEAD + b"Content-Length: 2\r\n\r\nok"),
    "interim-101": ("a switch as an interim answer", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 X\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nok"),
    "trailers": ("a megabyte of trailers", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + b"X-A: b\r\n" * 130_000 + b"\r\n"),
    "trailer-smuggled": ("a length in a trailer", HEAD + b"Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 50\r\n\r\n"),
    "no-content": ("a body of an answer that has none", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nX-Evil: 1\r\n"),
    "not-modified": ("a body of a 304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 90\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1\r\n\r\n"),
    "tiny-chunks": ("a hundred thousand chunks of a byte", HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"),
}  # fmt: skip
APP = """
import json, os, socket, threading
RAW = {name: bytes.fromhex(data) for name, data in json.load(open("/tmp/input/raw.json")).items()}
def serve(sock):
    try:
        head = b""
        while b"\\r\\n\\r\\n" not in head: head += sock.recv(65536) or b"\\r\\n\\r\\n"
        name = head.split(b" ")[1].decode().strip("/").partition("?")[0]
        if name == "started": sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        elif name == "pour":
            sock.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
            while True: sock.sendall(bytes(65536))
        elif name == "socket":
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\\r\\n\\r\\n")
            while True: sock.sendall(b"\\x82\\x7e\\xff\\xff" + bytes(65535))
        else: sock.sendall(RAW[name])
    except OSError: pass
    finally: sock.close()
server = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "8000"))), backlog=128)
while True: threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def declare() -> None:
    """Declare the families."""
    for name, (tried, _) in RAW.items():
        add(f"answer with {tried}", ANSWERS, tried, BY, _answered(name))


def host(target: Target) -> str:
    """Start the hostile service once; return its host name."""
    if not target.hostile:
        files = base64.b64encode(
            json.dumps({name: data.hex() for name, (_, data) in RAW.items()}).encode()
        ).decode()
        body = {
            "name": "hostile",
            "bootstrap_content": f"cat > /tmp/app.py <<'E'\n{APP}\nE\nexec python3 /tmp/app.py",
            "input_files": [{"filename": "raw.json", "content": files}],
            "ports": [8000],
            "network": "zerotrust",
            "unfreeze_on_demand": True,
        }
        status, answer = target.call("POST", "/services", body)
        assert status == 200, answer
        target.hostile = f"hostile.localhost:{target.address[1]}"
        eventually(lambda: target.status(_request(target.hostile, "started")) == 200, 60)
    return target.hostile


def _request(name: str, path: str, extra: str = "") -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: {name}\r\n{extra}\r\n".encode()


def _answered(name: str) -> Callable[[Target], Result]:
    def go(target: Target) -> Result:
        ask = _request(host(target), name, "Connection: close\r\n")
        began = time.monotonic()
        answer = target.send(ask, timeout=15)
        took = time.monotonic() - began
        head = answer.partition(b"\r\n\r\n")[0].lower()
        # A header of the service's own making, or a second answer, would be read by whoever shares the connection.
        evil = b"\r\nx-evil" in head or answer.count(b"HTTP/1.1 200") > 1
        evil = evil or (bool(answer) and re.match(rb"HTTP/1\.1 [2-9]\d\d ", answer) is None)
        if evil or took > 14 or not target.well():
            return f"{answer[:60]!r}, {took:.0f} s", ""
        return None, f"status {answer[9:12].decode() or 'closed'}"

    return go


def ingress(target: Target) -> int:
    """The process that serves visitors."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == target.serve.process.pid and b"server.ingress" in (path / "cmdline").read_bytes():
                return int(path.name)
    return 0


def memory(pid: int) -> int:
    """Bytes that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _visitors(target: Target, count: int, request: bytes) -> tuple[int, int, bool]:
    """Let visitors ask and not read; return what both processes hold more, and whether others are served."""
    target.status(_request(host(target), "started"))
    pid = ingress(target)
    before = memory(pid), target.memory()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(target.connect())
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.sendall(request)
        time.sleep(3)
        well = target.well() and target.status(_request(host(target), "started")) == 200
        return memory(pid) - before[0], target.memory() - before[1], well


def _judged(found: tuple[int, int, bool], most: int = 64 * MIB) -> Result:
    visits, api, well = found
    told = f"{visits // MIB} MiB in the ingress, {api // MIB} MiB in the server"
    return (told if visits > most or api > 16 * MIB or not well else None), told


@attack(VISITORS, "fifty that ask for an endless answer and do not read", "small buffers; the service waits")
def visitors_that_do_not_read(target: Target) -> Result:
    return _judged(_visitors(target, 50, _request(host(target), "pour")))


@attack(
    VISITORS, "fifty WebSockets that a service floods, and that do not read", "small buffers; the service waits"
)
def websocket_visitors_that_do_not_read(target: Target) -> Result:
    extra = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n"
    )
    return _judged(_visitors(target, 50, _request(host(target), "socket", extra)))


@attack(VISITORS, "two hundred heads that are never complete", "64 KiB a head, 64 MiB together, a deadline")
def heads_that_are_never_complete(target: Target) -> Result:
    head = _request(host(target), "started", "".join(f"X-{n}: {'a' * 7000}\r\n" for n in range(8)))[:-2]
    return _judged(_visitors(target, 200, head))


@attack(VISITORS, "a hundred bodies that are announced and never come", "a visit each, and no byte")
def bodies_that_never_come(target: Target) -> Result:
    request = f"POST /started HTTP/1.1\r\nHost: {host(target)}\r\nContent-Length: 1000000000\r\n\r\n".encode()
    return _judged(_visitors(target, 100, request))


@attack(VISITORS, "a hundred bodies with a megabyte of trailers", "8 KiB a header; strict parsing")
def trailers_of_visitors(target: Target) -> Result:
    request = f"POST /started HTTP/1.1\r\nHost: {host(target)}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n".encode()
    return _judged(_visitors(target, 30, request + b"X-A: b\r\n" * 130_000))


@attack(VISITORS, "a thousand pipelined requests on one connection", "one after the other")
def pipelined_requests(target: Target) -> Result:
    return _judged(_visitors(target, 5, _request(host(target), "started") * 1000))


@attack(VISITORS, "a hundred visitors of a frozen service at once", "woken once; a visit each")
def visitors_that_wake(target: Target) -> Result:
    name = host(target)
    target.call("POST", "/services/hostile/freeze")
    answers: list[int] = []

    def visit() -> None:
        with contextlib.suppress(OSError):
            answers.append(target.status(_request(name, "started")))

    threads = [threading.Thread(target=visit) for _ in range(100)]
    for thread in threads:
        thread.start()
    well = target.well()
    for thread in threads:
        thread.join(40)
    seen = {status: answers.count(status) for status in set(answers)}
    good = well and seen.get(200, 0) > 0 and set(seen) <= {200, 429, 503, 502}
    return (None if good else f"{seen}"), f"{seen}"


@attack(
    VISITORS, "the ingress killed again and again while it is visited", "started again; the API is not touched"
)
def ingress_killed(target: Target) -> Result:
    worst = 0.0
    for _ in range(3):
        eventually(lambda: ingress(target), 20)
        os.kill(ingress(target), signal.SIGKILL)
        began = time.monotonic()
        target.call("GET", "/health")
        worst = max(worst, time.monotonic() - began)
        eventually(lambda: target.status(_request(host(target), "started")) == 200, 30)
    return (f"{worst:.1f} s" if worst > 5 else None), f"health within {worst * 1000:.0f} ms"
