"""The server's side of the ingress: starts its process, watches it, answers its questions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable

from unsandbox.sandbox.host.descriptors import readable
from unsandbox.server.config import TlsFiles
from unsandbox.server.hosts import host_name
from unsandbox.server.ingress.channel import (
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
from unsandbox.server.ingress.routing import ServiceHosts

logger = logging.getLogger("unsandbox.server.ingress")

_START = """
import json, sys
arguments = json.loads(sys.argv[1])
sys.path[:] = arguments["path"]
from unsandbox.server.ingress.process import main
main(arguments)
"""
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Variables of the environment that the process needs; secrets may be in others."""
_PING_EVERY_S = 5.0
SILENT_S = 30.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 5.0
_STOP_S = 6.0
_MOST_QUEUED = 256
"""Visitors that wait while the process starts."""
_MOST_ASKS = 2000
_MOST_ASKS_OF_ONE = 128
"""Visitors that wait for one service: for its start, or for a place in the queue of its program."""


class IngressProcess:
    """The process that serves visitors. It is started when the first one comes, and again when it ends.

    Args:
        hosts: The host names of services.
        take: Takes back a connection whose request is for the API, and what was read of it.
        tls: For connections that begin with a TLS handshake.
        idle_s: Seconds within which a visitor must have sent the head of the next request.
    """

    def __init__(
        self,
        hosts: ServiceHosts,
        take: Callable[[socket.socket, bytes], None],
        *,
        tls: TlsFiles | None = None,
        idle_s: float = 75.0,
    ) -> None:
        self._hosts = hosts
        self._take = take
        self._tls = tls
        self._idle_s = idle_s
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._queue: deque[list[int]] = deque()
        self._asks: dict[int, asyncio.Task[None]] = {}
        self._asked: Counter[str] = Counter()
        self._watching: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._closed = False
        self.last_ping = Ping()
        """What the process said last of what is open in it; it is asked every few seconds."""
        self.starts = 0
        """How often the process was started."""

    @property
    def pid(self) -> int | None:
        """Id of the process while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, if it was not started yet."""
        if self._watching is None and not self._closed:
            self._watching = asyncio.create_task(self._watch())

    def give(self, fd: int, prefix: bytes = b"") -> bool:
        """Hand over a visitor's connection and what was read of it; return False when there is no room."""
        self.start()
        fds = [fd, *keep(prefix)]
        if self._channel is not None:
            return self._channel.send(Visitor(), *fds)
        if self._closed or len(self._queue) >= _MOST_QUEUED:
            close_all(fds)
            return False
        self._queue.append(fds)
        return True

    async def close(self) -> None:
        """End the process, after it has ended what is under way or after some seconds."""
        self._closed = True
        if self._channel is not None:
            self._channel.send(Stop())
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await _ended(self._process)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._forget_all()
        while self._queue:
            close_all(self._queue.popleft())

    async def _watch(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stopping():
            began = asyncio.get_running_loop().time()
            await self._run_once()
            lasted_s = asyncio.get_running_loop().time() - began
            delay_s = _FIRST_DELAY_S if lasted_s > 10 * _LONGEST_DELAY_S else min(_LONGEST_DELAY_S, 2 * delay_s)
            if self._stopping():
                return
            logger.warning("the ingress process has ended; it is started again in %.1f s", delay_s)
            await asyncio.sleep(delay_s)

    def _stopping(self) -> bool:
        return self._closed

    async def _run_once(self) -> None:
        """Start the process, and return when it has ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lost = asyncio.Event()
        with theirs:
            try:
                process = self._process = _spawn(theirs, self._tls, self._idle_s)
            except OSError:
                ours.close()
                logger.exception("the ingress process cannot be started")
                return
        self.starts += 1
        self._channel = Channel(ours, self._on_message, lost.set)
        try:
            while self._queue:
                self._channel.send(Visitor(), *self._queue.popleft())
            await self._until_ended(process, lost)
        finally:
            self._channel.close()
            self._channel = None
            self.last_ping = Ping()
            self._forget_all()
            process.kill()
            await _ended(process)
            self._process = None

    async def _until_ended(self, process: subprocess.Popen[bytes], lost: asyncio.Event) -> None:
        losing, ending = asyncio.create_task(lost.wait()), asyncio.create_task(_ended(process))
        try:
            while self._channel is not None:
                self._answered.clear()
                self._channel.send(Ping())
                done, _ = await asyncio.wait(
                    {losing, ending}, timeout=_PING_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                if done:
                    return
                if not self._answered.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SILENT_S):
                            await self._answered.wait()
                    if not self._answered.is_set():
                        logger.error("the ingress process does not answer; it is killed")
                        return
        finally:
            losing.cancel()
            ending.cancel()
            await asyncio.gather(losing, ending, return_exceptions=True)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        # The process serves strangers: what it says is not believed any more than what they say.
        match message:
            case Visitor() if fds:
                self._take_back(*fds)
                return
            case Ask():
                self._ask(message)
            case Forget() if (asking := self._asks.get(message.number)) is not None:
                asking.cancel()
            case Ping():
                self.last_ping = message
                self._answered.set()
            case Log():
                logger.log(max(logging.DEBUG, min(message.level, logging.ERROR)), "%r", message.text)
        close_all(fds)

    def _take_back(self, fd: int, *prefix: int) -> None:
        try:
            data = kept(list(prefix))
            sock = socket.socket(fileno=fd)
        except (OSError, ValueError):
            close_all([fd])
            return
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            sock.close()
            return
        sock.setblocking(False)
        self._take(sock, data)

    def _ask(self, ask: Ask) -> None:
        name = host_name(ask.host) or ""
        service = self._hosts.service_of(name)
        if (
            len(self._asks) >= _MOST_ASKS
            or self._asked[service] >= _MOST_ASKS_OF_ONE
            or ask.number in self._asks
        ):
            self._reply(Answer(ask.number, "service_busy", service))
            return
        self._asked[service] += 1
        task = self._asks[ask.number] = asyncio.create_task(self._answer(ask, name))
        task.add_done_callback(lambda _: self._answered_one(ask.number, service))

    async def _answer(self, ask: Ask, name: str) -> None:
        answer, fds = await self._hosts.answer(ask.number, name, ask.token, connect=ask.connect)
        self._reply(answer, *fds)

    def _answered_one(self, number: int, service: str) -> None:
        self._asks.pop(number, None)
        self._asked[service] -= 1
        if self._asked[service] <= 0:
            del self._asked[service]

    def _reply(self, answer: Answer, *fds: int) -> None:
        if self._channel is not None:
            self._channel.send(answer, *fds)
        else:
            close_all(fds)

    def _forget_all(self) -> None:
        for asking in list(self._asks.values()):
            asking.cancel()


def _spawn(channel: socket.socket, tls: TlsFiles | None, idle_s: float) -> subprocess.Popen[bytes]:
    arguments = {
        "path": sys.path,
        "channel": channel.fileno(),
        "parent": os.getpid(),
        "idle_s": idle_s,
        "tls": None if tls is None else [str(tls.certificate), str(tls.key)],
    }
    return subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(arguments)],
        pass_fds=[channel.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        start_new_session=True,
    )


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Return when a process has ended, and is no zombie any more."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        process.wait()
        return
    try:
        await readable(pidfd)
    finally:
        os.close(pidfd)
    process.wait()
