"""Connections into a live sandbox: made by helpers in its network, which stay a while for the next one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from unsandbox.sandbox.host.process import reports
from unsandbox.sandbox.launcher.messages import Answered, Failed, Message

_HELPERS = 4
"""So many connections are made at once; a port whose queue is full holds a helper for some seconds."""


class Connector:
    """Connects to ports of a sandbox's own loopback. To start a helper takes longer than all that it does.

    Args:
        start: Has the launcher start a helper that takes its orders from a socket; returns its answer to come.
    """

    def __init__(self, start: Callable[[int], Awaitable[asyncio.Future[Answered]]]) -> None:
        self._start = start
        self._room = asyncio.Semaphore(_HELPERS)
        self._idle: list[socket.socket] = []
        self._closed = False

    async def connect(self, port: int) -> int:
        """Return a connected, non-blocking socket.

        Raises:
            ConnectionError: Nothing listens there.
            SandboxError: The sandbox has ended.
        """
        async with self._room:
            while self._idle:
                helper = self._idle.pop()
                # One that was idle for long has left, or does so just now.
                if (answer := await self._order(helper, port)) is not None:
                    return _taken(answer, port)
            helper, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                with there:
                    asked = await self._start(there.fileno())
            except BaseException:
                helper.close()
                raise
            answer = await self._order(helper, port)
            if answer is None:
                await asked
                raise ConnectionError(f"the connection to port {port} of the sandbox was lost")
            return _taken(answer, port)

    def close(self) -> None:
        """Let all helpers go; nothing is connected any more."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _order(self, helper: socket.socket, port: int) -> tuple[Message, list[int]] | None:
        """Return what a helper says, or None when it has left; it is kept for the next order if it has not."""
        with contextlib.ExitStack() as kept:
            kept.callback(helper.close)
            helper.setblocking(False)
            try:
                helper.send(b"%d" % port)
            except ConnectionError:
                return None
            async with contextlib.aclosing(reports(helper)) as said:
                async for answer in said:
                    if not self._closed:
                        kept.pop_all()
                        self._idle.append(helper)
                    return answer
        return None


def _taken(answer: tuple[Message, list[int]], port: int) -> int:
    message, fds = answer
    if not fds:
        why = message.error if isinstance(message, Failed) else "too many open files in this process"
        raise ConnectionError(f"nothing listens on port {port} of the sandbox: {why}")
    return fds[0]
