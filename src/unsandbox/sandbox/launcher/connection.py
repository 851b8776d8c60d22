"""The launcher's side of the socket to its server. Standard library only."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.messages import (
    FDS_PER_MESSAGE,
    MAX_MESSAGE,
    Answered,
    Ask,
    Ended,
    Message,
    MoreDescriptors,
    PrepareWarm,
    Start,
)

_NO_ROOM = "too many open files in the launcher process"
"""The kernel drops descriptors if the receiver has too many open files."""


class ServerConnection:
    """Receives requests with all of their descriptors, and sends answers.

    Args:
        sock: A SOCK_SEQPACKET socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._pending_fds: list[int] = []
        self._pending_job = 0
        self._incomplete = False
        self.closed = False
        """Whether the server has closed its end."""

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return a request and its descriptors, which the caller owns; None if no request is complete.

        A request whose descriptors this process has no room for is refused here.

        Raises:
            MessageError: The packet is not a message.
        """
        size = socket.CMSG_SPACE(4 * FDS_PER_MESSAGE)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(MAX_MESSAGE, size, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, ancillary, flags = b"", [], 0
        if not data:
            self.closed = True
            return None
        received = _descriptors(ancillary)
        try:
            message = messages.decode(data)
        except messages.MessageError:
            _close(received)
            raise
        job = getattr(message, "job", 0)
        if job != self._pending_job:
            # The server was interrupted and never finished the earlier request.
            _close(self._pending_fds)
            self._pending_fds, self._pending_job, self._incomplete = [], job, False
        self._pending_fds += received
        self._incomplete = self._incomplete or bool(flags & socket.MSG_CTRUNC)
        if isinstance(message, MoreDescriptors):
            return None
        attached, self._pending_fds = self._pending_fds, []
        incomplete, self._incomplete = self._incomplete, False
        if not incomplete:
            return message, attached
        _close(attached)
        self._refuse(message)
        return None

    def _refuse(self, message: Message) -> None:
        if isinstance(message, Ask):
            self.send(Answered(ask=message.ask, error=_NO_ROOM))
        elif isinstance(message, Start | PrepareWarm):
            self.send(Ended(job=message.job, exit_code=None, error=_NO_ROOM))

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send an answer; errors are ignored, because the end of the socket shows that the server is gone."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([messages.encode(message)], ancillary)
        except OSError:
            self.closed = True


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return fds.tolist()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
