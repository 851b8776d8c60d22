"""Connections into a persistent sandbox, created by helpers in its network, which wait for further requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from unsandbox.sandbox.host.process import reports
from unsandbox.sandbox.launcher.messages import Answered, Failed, Message

_HELPERS = 4
"""Maximum number of helpers; a port whose queue is full holds up a helper for some seconds."""


class Connector:
    """Connects to ports of a sandbox's loopback; keeps helpers, because starting one takes long.

    Args:
        start: Lets the launcher start a helper that reads requests from a socket; returns the future answer.
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
                # The helper was idle for long and has exited, or is about to.
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
        """End all helpers; no further connections are possible."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _order(self, helper: socket.socket, port: int) -> tuple[Message, list[int]] | None:
        """Return a helper's answer, or None if it has exited; otherwise keep it for the next request."""
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
