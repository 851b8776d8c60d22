"""The ingress process: serves the connections that the server hands over, and asks it where services are.

It holds no key and no data of anybody, and gives up root. It ends with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import resource
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

from aiohttp import web

from unsandbox.server.ingress.channel import (
    NOT_A_SERVICE,
    Answer,
    Ask,
    Channel,
    Forget,
    Log,
    Message,
    Ping,
    Stop,
    Visitor,
    close_all,
    keep,
    kept,
)
from unsandbox.server.ingress.connections import Connections
from unsandbox.server.ingress.handler import Ingress, NotAServiceError, NotReachedError, Way
from unsandbox.server.ingress.handoff import hand_over, misdirected
from unsandbox.server.protocols import Accepting, http_logger

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_NICENESS = 5
"""The API comes first where processors are short."""
_OOM_SCORE = b"500"
_NOBODY = 65534
_END_S = 5.0
_LINES_A_SECOND = 10
_READ_BYTES = 64 * 1024
"""Of a visitor's body that are held while a service does not take it; twice as many, to be exact."""


def main(arguments: dict[str, Any]) -> None:
    """Serve until the server ends or says so.

    Args:
        arguments: See `supervisor._spawn`.
    """
    _end_with(arguments["parent"])
    context = None
    if arguments["tls"] is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments["tls"])
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop_factory = _loop_factory()
    _give_up_rights()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(arguments["channel"], context, arguments["idle_s"]))


async def _serve(channel: int, context: ssl.SSLContext | None, idle_s: float) -> None:
    serving = _Serving(socket.socket(fileno=channel), context, idle_s)
    await serving.stopped.wait()
    await serving.end()


class _Serving:
    """All visitors of this process."""

    def __init__(self, channel: socket.socket, context: ssl.SSLContext | None, idle_s: float) -> None:
        self.stopped = asyncio.Event()
        self._ingress = Ingress(self._is_service, self._connect, self._misdirected)
        self._server = web.Server(
            self._ingress.handle,
            access_log=None,
            logger=http_logger(),
            keepalive_timeout=idle_s,
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
        )
        self._accepting = Accepting(self._server, context)
        self._connections = Connections()
        self._numbers = itertools.count()
        self._asks: dict[int, asyncio.Future[tuple[Answer, list[int]]]] = {}
        self._channel = Channel(channel, self._on_message, self.stopped.set)
        logging.basicConfig(level=logging.INFO, handlers=[_ToServer(self._channel)])

    async def end(self) -> None:
        """End what is under way, within a few seconds."""
        await self._server.shutdown(_END_S)
        await self._ingress.close()
        self._channel.close()

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message:
            case Visitor() if fds:
                self._take(socket.socket(fileno=fds[0]), kept(fds[1:]))
                return
            case Answer() if (asking := self._asks.pop(message.number, None)) is not None and not asking.done():
                asking.set_result((message, fds))
                return
            case Ping():
                self._channel.send(Ping(len(self._connections), len(self._accepting.held)))
            case Stop():
                self.stopped.set()
        close_all(fds)

    def _take(self, sock: socket.socket, prefix: bytes) -> None:
        sock.setblocking(False)
        try:
            address = str(sock.getpeername()[0])
        except OSError:
            sock.close()
            return
        if not self._connections.add(address):
            sock.close()
            return
        self._accepting.take(sock, prefix, lambda: self._connections.remove(address))

    async def _is_service(self, name: str) -> bool:
        answer, fds = await self._ask(name, connect=False)
        close_all(fds)
        return answer.code != NOT_A_SERVICE

    async def _connect(self, name: str, token: str) -> Way:
        answer, fds = await self._ask(name, token, connect=True)
        if answer.code == NOT_A_SERVICE:
            raise NotAServiceError
        if answer.code or not fds:
            close_all(fds)
            raise NotReachedError(answer.code or "service_unavailable", answer.port, answer.freeze_page)
        return Way(answer.service, answer.port, fds[0])

    async def _ask(self, name: str, token: str = "", *, connect: bool) -> tuple[Answer, list[int]]:
        number = next(self._numbers)
        asking: asyncio.Future[tuple[Answer, list[int]]] = asyncio.get_running_loop().create_future()
        self._asks[number] = asking
        try:
            if not self._channel.send(Ask(number, name, token, connect)):
                return Answer(number, "service_busy"), []
            return await asking
        except asyncio.CancelledError:
            self._channel.send(Forget(number))
            if asking.done() and not asking.cancelled():
                close_all(asking.result()[1])
            raise
        finally:
            self._asks.pop(number, None)

    def _misdirected(self, request: web.BaseRequest) -> web.StreamResponse:
        handed_over = hand_over(request, lambda fd, raw: self._channel.send(Visitor(), fd, *keep(raw)))
        return handed_over or misdirected(request)


class _ToServer(logging.Handler):
    """Sends lines to the log of the server, a bounded number a second: visitors cause most of them."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._second = 0
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        if int(record.created) != self._second:
            self._second, self._lines = int(record.created), 0
        self._lines += 1
        if self._lines <= _LINES_A_SECOND:
            with contextlib.suppress(Exception):
                self._channel.send(Log(record.levelno, record.getMessage()[:1000]))


def _end_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        # The server says when to stop; a signal to the whole group is meant for it.
        signal.signal(number, signal.SIG_IGN)


def _give_up_rights() -> None:
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE)
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        # The kernel forgets both when the user changes.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
