"""Requests that two servers read differently, floods of headers, slow senders, WebSockets."""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import socket
import struct
import time
import zlib

from tests.abuse.served import Result, Target, add, attack, echoed, refused

SMUGGLING, FLOOD, WEBSOCKET = "request smuggling", "header floods and slow senders", "websocket floods"
STRICT = "strict parsing"
INNER = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"

# What stands between the first line and the body; `{host}` is the service's.
AMBIGUOUS = {
    "length and chunks": ("both Content-Length and Transfer-Encoding", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    "two lengths": ("two different lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
    "length with a sign": ("a length of +5", "Content-Length: +5\r\n\r\nabcde"),
    "length in hex": ("a length of 0x5", "Content-Length: 0x5\r\n\r\nabcde"),
    "negative length": ("a length of -1", "Content-Length: -1\r\n\r\nabcde"),
    "list of lengths": ("a length of 5, 6", "Content-Length: 5, 6\r\n\r\nabcdef"),
    "unknown coding": ("Transfer-Encoding: xchunked", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked not last": ("Transfer-Encoding: chunked, identity", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    "chunked twice": ("two Transfer-Encoding headers", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    "space before the colon": ("a header name with a space", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "folded header": ("a header that goes on in the next line", "X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "bare line feed": ("lines that end with a line feed alone", "X-A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "bare carriage return": ("a carriage return within a header", "X-A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "zero byte": ("a zero byte within a header", "X-A: b\0c\r\nContent-Length: 0\r\n\r\n"),
    "chunk of a negative size": ("a chunk of size -1", "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n"),
    "chunk of an enormous size": ("a chunk size of 32 digits", "Transfer-Encoding: chunked\r\n\r\n" + 32 * "f" + "\r\nx\r\n0\r\n\r\n"),
    "chunk size in another notation": ("a chunk size of 0x1", "Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n"),
    "chunk extension with a line feed": ("a line feed in a chunk's extension", "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n"),
    "two hosts": ("two Host headers", "Host: other.localhost\r\nContent-Length: 0\r\n\r\n"),
}  # fmt: skip
FIRST_LINES = {
    "http 0.9": ("a request without a version", "GET /\r\n\r\n"),
    "http 2 preface": ("the beginning of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "connect method": (
        "CONNECT, to use it as a proxy",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: {host}\r\n\r\n",
    ),
    "unknown version": ("HTTP/9.9", "GET / HTTP/9.9\r\nHost: {host}\r\n\r\n"),
    "space in the path": ("a path with a space", "GET /a b HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    "method with a line end": ("a method that holds a line end", "GE\rT / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
}
HOSTS = {
    "no host": "",
    "host with a user": "Host: echo.localhost@127.0.0.1\r\n",
    "host with a path": "Host: echo.localhost/x\r\n",
    "host with a space": "Host: echo.localhost 127.0.0.1\r\n",
    "host with a bad port": "Host: echo.localhost:99999999\r\n",
    "host with an empty label": "Host: echo..localhost\r\n",
    "host of no service": "Host: nobody.localhost\r\n",
    "host with a list": "Host: echo.localhost, 127.0.0.1\r\n",
}


def declare() -> None:
    """Declare the families; the others declare themselves when this file is loaded."""
    for name, (tried, rest) in AMBIGUOUS.items():
        add(name, SMUGGLING, tried, STRICT, _ambiguous(rest))
    for name, (tried, text) in FIRST_LINES.items():
        add(name, SMUGGLING, tried, STRICT, _line(text))
    for name, header in HOSTS.items():
        add(
            name,
            SMUGGLING,
            header.strip() or "a request without Host",
            "one strict reading of one Host",
            _host(header),
        )


def _ambiguous(rest: str) -> object:
    def go(target: Target) -> Result:
        text = f"POST / HTTP/1.1\r\nHost: {target.host}\r\n{rest}" + INNER.format(host=target.host)
        answer = target.send(text.encode("latin-1"), until_closed=False)
        # At most a refusal; a second request must not have come out of it.
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
        return (("a second request" if b"/smuggled" in answer else None) and ("smuggled", "")) or refused(
            status
        )

    return go


def _line(text: str) -> object:
    return lambda target: refused(
        target.status(text.format(host=target.host).encode("latin-1")), (400, 404, 405, 421, 505)
    )


def _host(header: str) -> object:
    def go(target: Target) -> Result:
        answer = target.send(
            f"GET /jobs HTTP/1.1\r\n{header}Connection: close\r\n\r\n".encode(), until_closed=True
        )
        reached = b'"started"' in answer
        return ("the service" if reached else None), answer[9:12].decode()

    return go


@attack(SMUGGLING, "a whole request hidden in a body", "the body is passed on as a body")
def request_in_a_body(target: Target) -> Result:
    inner = INNER.format(host=target.host)
    text = f"POST /outer HTTP/1.1\r\nHost: {target.host}\r\nContent-Length: {len(inner)}\r\n\r\n{inner}"
    seen = echoed(target.send(text.encode()))
    return (
        None if (seen["path"], seen["body"]) == ("/outer", inner) else f"{seen['path']}"
    ), "arrived as a body"


@attack(
    SMUGGLING,
    "a request for one service, a path that names another",
    "the Host header alone decides, or a refusal",
)
def absolute_target(target: Target) -> Result:
    text = f"GET http://127.0.0.1:{target.address[1]}/health HTTP/1.1\r\nHost: {target.host}\r\n\r\n"
    answer = target.send(text.encode())
    return (
        "the API, under the service's name" if b'"status"' in answer and b'"started"' not in answer else None
    ), answer[9:12].decode()


@attack(SMUGGLING, "an Upgrade that leaves a line past the server", "a switch only when it was asked for")
def upgrade_that_was_not_asked_for(target: Target) -> Result:
    text = f"GET /switch HTTP/1.1\r\nHost: {target.host}\r\n\r\n"
    status = target.status(text.encode())
    return ("switched" if status == 101 else None), f"status {status}"


@attack(SMUGGLING, "removing our own headers by naming them hop-by-hop", "set after the hop's headers are gone")
def hop_by_hop_forwarded(target: Target) -> Result:
    text = f"GET / HTTP/1.1\r\nHost: {target.host}\r\nConnection: X-Forwarded-For, Host\r\n\r\n"
    headers = dict(echoed(target.send(text.encode()))["headers"])
    kept = headers.get("X-Forwarded-For") == "127.0.0.1" and headers.get("Host") == target.host
    return (None if kept else f"{headers}"), "both are there"


@attack(
    SMUGGLING, "a request signed for the API, sent to a service that may repeat it", "refused, never passed on"
)
def signed_request_to_a_service(target: Target) -> Result:
    request = target.signed("GET", "/jobs", b"").replace(
        f"127.0.0.1:{target.address[1]}".encode(), target.host.encode()
    )
    answer = target.send(request)
    return ("the service saw it" if b'"started"' in answer else None), answer[9:12].decode()


# Floods and slow senders


@attack(FLOOD, "a header of a megabyte", "8 KiB for a header")
def long_header(target: Target) -> Result:
    return refused(target.status(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + (1 << 20) * b"a" + b"\r\n\r\n"))


@attack(FLOOD, "a hundred thousand headers", "128 headers")
def many_headers(target: Target) -> Result:
    before = target.memory()
    status = target.status(
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(100_000)) + b"\r\n"
    )
    if target.memory() - before > 50 << 20:
        return "50 MB", ""
    return refused(status)


@attack(FLOOD, "headers that never end", "128 headers of 8 KiB")
def endless_headers(target: Target) -> Result:
    with target.connect() as sock, contextlib.suppress(OSError):
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        for n in range(1_000_000):
            sock.sendall(b"X-%d: %b\r\n" % (n, 1000 * b"a"))
        return "a gigabyte was taken", ""
    return None, "closed"


@attack(FLOOD, "a path of a megabyte", "8 KiB for the first line")
def long_path(target: Target) -> Result:
    return refused(target.status(b"GET /" + (1 << 20) * b"a" + b" HTTP/1.1\r\nHost: x\r\n\r\n"))


@attack(
    FLOOD,
    "three hundred connections that send a byte now and then (slowloris)",
    "no thread or process for a connection; a deadline",
)
def slowloris(target: Target) -> Result:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            sock = stack.enter_context(target.connect())
            sock.sendall(b"GET /health HTTP/1.1\r\nX-A: ")
        began = time.monotonic()
        well = target.well()
    return (
        None if well else "others are not served"
    ), f"others are served in {(time.monotonic() - began) * 1000:.0f} ms"


@attack(FLOOD, "a body that never comes, by a stranger", "headers are judged before a body is read")
def body_that_never_comes(target: Target) -> Result:
    return refused(target.status(b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"), (401,))


@attack(FLOOD, "a body of a petabyte, announced by a valid key", "limit of a body")
def enormous_body(target: Target) -> Result:
    request = target.signed("POST", "/execute", b"{}").replace(
        b"Content-Length: 2", b"Content-Length: 1000000000000000"
    )
    return refused(target.status(request), (413,))


@attack(
    FLOOD, "chunks without end, by a stranger", "refused at once; what comes then is dropped, for ten seconds"
)
def endless_chunks(target: Target) -> Result:
    before, chunk = target.memory(), b"10000\r\n" + bytes(65536) + b"\r\n"
    with target.connect() as sock, contextlib.suppress(OSError):
        sock.sendall(b"POST /execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        status = sock.recv(12)[9:12].decode()
        for _ in range(3000):
            sock.sendall(chunk)
    kept = target.memory() - before
    return (f"{kept} bytes kept" if kept > 50 << 20 or status != "401" else None), f"status {status}"


# Bodies that unfold


def _signed_body(name: str, tried: str, by: str, body: bytes, extra: str = "") -> None:
    def go(target: Target) -> Result:
        before = target.memory()
        status = target.status(target.signed("POST", "/execute", body, extra))
        if target.memory() - before > 300 << 20:
            return "300 MB", ""
        return refused(status)

    add(name, "decompression bombs", tried, by, go)


def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


_signed_body(
    "gzip bomb",
    "200 KB that unfold to 200 MB",
    "bodies are read as they are sent",
    _bomb(200 << 20),
    "Content-Encoding: gzip\r\n",
)
_signed_body(
    "gzip in gzip",
    "a bomb within a bomb",
    "bodies are read as they are sent",
    gzip.compress(_bomb(64 << 20)),
    "Content-Encoding: gzip, gzip\r\n",
)
_signed_body(
    "deep JSON", "a hundred thousand brackets", "the decoder's own limit", b'{"code": ' + 100_000 * b"[" + b"}"
)
_signed_body(
    "long number",
    "a number of a million digits",
    "the decoder's own limit",
    b'{"ttl": ' + 1_000_000 * b"9" + b"}",
)
_signed_body("many members", "a hundred thousand unknown members", "limit of a body; no hashing by attacker's choice",
             b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}")  # fmt: skip


# WebSockets


def _upgrade(target: Target, path: str, host: str, extra: str = "") -> tuple[socket.socket, bytes]:
    key = base64.b64encode(os.urandom(16)).decode()
    sock = target.connect()
    try:
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n".encode()
        )
        return sock, sock.recv(65536)
    except BaseException:
        sock.close()
        raise


def _frame(first: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBQ", first, 0x80 | 127, length) + b"\0\0\0\0" + data


def _terminal(target: Target) -> str:
    status, session = target.call("POST", "/sessions", {"network": "zerotrust"})
    assert status == 200, session
    return str(session.get("id") or session["session_id"])


@attack(WEBSOCKET, "the terminal of a session that does not exist", "ids of 96 random bits")
def terminal_by_guess(target: Target) -> Result:
    sock, answer = _upgrade(target, "/sessions/session_0/shell", f"127.0.0.1:{target.address[1]}")
    sock.close()
    return ("open" if b" 101 " in answer else None), answer[9:12].decode()


@attack(
    WEBSOCKET,
    "a frame that announces an exabyte; a flood of fragments; a bomb in a compressed frame",
    "a mebibyte for a message",
)
def enormous_frames(target: Target) -> Result:
    session = _terminal(target)
    host = f"127.0.0.1:{target.address[1]}"
    before, unfolded = target.memory(), zlib.compressobj(9, wbits=-15)
    bomb = unfolded.compress(bytes(100 << 20)) + unfolded.flush(zlib.Z_SYNC_FLUSH)
    attempts = {
        "an exabyte": ("", _frame(0x82, 1 << 60)),
        "fragments": ("", _frame(0x02, 1 << 16, bytes(1 << 16)) + 100 * _frame(0x00, 1 << 16, bytes(1 << 16))),
        "bomb": ("Sec-WebSocket-Extensions: permessage-deflate\r\n", _frame(0xC2, len(bomb), bomb)),
    }
    kept = []
    for name, (extra, data) in attempts.items():
        sock, answer = _upgrade(target, f"/sessions/{session}/shell", host, extra)
        if b" 101 " not in answer:
            return f"no terminal: {answer[:100]!r}", ""
        with sock, contextlib.suppress(OSError):
            sock.sendall(data)
            began = time.monotonic()
            while sock.recv(65536) and time.monotonic() - began < 15:
                pass
            if time.monotonic() - began >= 15:
                kept.append(name)
    grown = target.memory() - before
    target.call("DELETE", f"/sessions/{session}")
    return (f"kept open: {kept}; {grown} bytes" if kept or grown > 100 << 20 else None), "closed"


@attack(
    WEBSOCKET,
    "two hundred WebSockets to a service, none of which says anything",
    "no thread or process for a connection",
)
def many_websockets(target: Target) -> Result:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            sock = stack.enter_context(target.connect())
            sock.sendall(
                f"GET /hold HTTP/1.1\r\nHost: {target.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
        well = target.well()
    return (None if well else "others are not served"), "others are served"
