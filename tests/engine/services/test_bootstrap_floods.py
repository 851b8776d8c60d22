"""Servers that a bootstrap URL may lead to: they answer without an end, and name servers do not answer at all."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from unsandbox.engine.errors import InvalidRequest, LimitReached, TooLarge
from unsandbox.engine.services.bootstrap import MOST_FETCHED, fetch_script, read_bootstrap
from unsandbox.protocol.services import ServiceRequest
from unsandbox.sandbox.host.blocking import run_long

OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def server(head: bytes, piece: bytes) -> Iterator[str]:
    """Answers every connection with `head`, and then `piece` for ever."""
    stop = threading.Event()

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.recv(65536)
            sock.sendall(head)
            block = piece * (65536 // len(piece) + 1) if piece else b""
            while block and not stop.is_set():
                sock.sendall(block)
            stop.wait(5)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        stop.set()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"X-A: b\r\n"),
        (OK + b"X-A: ", b"b"),
        (b"HTTP/1.1 200 ", b"b"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(64 << 20)), b""),
        (OK + b"\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-A: b\r\n"),
    ],
    ids=["interim", "headers", "header", "status", "bomb", "body", "chunks", "trailers"],
)
async def test_an_answer_without_an_end_is_given_up(head, piece):
    worst, begun, ended = 0.0, time.monotonic(), asyncio.Event()

    async def watch() -> None:
        nonlocal worst
        while not ended.is_set():
            cpu, now = time.thread_time(), time.monotonic()
            await asyncio.sleep(0)
            worst = max(worst, min(time.thread_time() - cpu, time.monotonic() - now))

    with server(head, piece) as url:
        watching = asyncio.create_task(watch())
        with pytest.raises((InvalidRequest, TooLarge)):
            await fetch_script(url, lambda _: True)
        ended.set()
        await watching
    # By its own deadline; the rest is room for a busy machine.
    assert time.monotonic() - begun < 90
    # CPU time of this thread between two turns of the event loop.
    assert worst < 0.5


async def test_a_key_fetches_few_scripts_at_a_time():
    with server(b"", b"") as url:
        request = ServiceRequest(name="a", bootstrap_url=url)
        fetching = [
            asyncio.create_task(read_bootstrap("me", request, lambda _: True)) for _ in range(MOST_FETCHED)
        ]
        await asyncio.sleep(0)
        with pytest.raises(LimitReached, match="bootstrap URLs"):
            await read_bootstrap("me", request, lambda _: True)
        others = asyncio.create_task(read_bootstrap("other", request, lambda _: True))
        await asyncio.sleep(0)
        for task in (*fetching, others):
            assert not task.done()
            task.cancel()
        await asyncio.gather(*fetching, others, return_exceptions=True)
        again = [asyncio.create_task(read_bootstrap("me", request, lambda _: True)) for _ in fetching]
        await asyncio.sleep(0)
        for task in again:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*again, return_exceptions=True)


async def test_name_servers_that_do_not_answer_hold_up_nothing_else(monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer.wait(30) and [])
    asked = [asyncio.create_task(fetch_script(f"http://{n}.example/", lambda _: True)) for n in range(40)]
    try:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: 1) == 1
            assert await run_long(lambda: 2) == 2
    finally:
        answer.set()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_long_work_holds_up_no_short_work():
    go_on = threading.Event()
    long = [asyncio.create_task(run_long(go_on.wait, 30)) for _ in range(40)]
    try:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: 1) == 1
    finally:
        go_on.set()
        await asyncio.gather(*long)
