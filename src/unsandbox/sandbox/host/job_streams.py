"""The connections between a job's sandbox and the server: a socket for reports, and two pipes for output."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from dataclasses import dataclass

from unsandbox.sandbox.host.descriptors import DescriptorStack, pipe
from unsandbox.sandbox.launcher.fd_numbers import CONTROL_FD

_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@ll")


@dataclass(frozen=True, slots=True)
class JobStreams:
    """The server's ends.

    Attributes:
        control: The socket on which the sandbox reports.
        stdout_fd: Read end of its standard output.
        stderr_fd: Read end of its standard error.
    """

    control: socket.socket
    stdout_fd: int
    stderr_fd: int


def open_streams(
    uid: int | None,
    sent: DescriptorStack,
    kept: DescriptorStack,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> tuple[JobStreams, dict[int, int]]:
    """Open the streams of one job; return the server's ends, and the sandbox's by their numbers in it.

    Args:
        uid: Host user of the sandbox, which may open its output by name; None for the server's user.
        sent: Receives the sandbox's ends, which are closed once the launcher has copies.
        kept: Receives the server's ends, which are closed unless a job takes them over.
        kind: Type of the socket.

    Raises:
        OSError: There are no descriptors left.
    """
    control, theirs = socket_pair(sent, kept, kind)
    read, write = [], {CONTROL_FD: theirs}
    for number in (1, 2):
        ours, write[number] = pipe(uid)
        kept.add(ours)
        sent.add(write[number])
        read.append(ours)
    return JobStreams(control, *read), write


def socket_pair(
    sent: DescriptorStack, kept: DescriptorStack, kind: socket.SocketKind = socket.SOCK_STREAM
) -> tuple[socket.socket, int]:
    """Return the server's end of a new socket pair, and the descriptor of the sandbox's; see `open_streams`."""
    here, there = socket.socketpair(socket.AF_UNIX, kind)
    if kind is not socket.SOCK_STREAM:
        here.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    kept.enter_context(here)
    return here, sent.add(there.detach())


def receive(control: socket.socket, size: int, most_fds: int = 0) -> tuple[bytes, list[int], float]:
    """Receive a report; return it, its descriptors, and when it was sent, as of `time.monotonic`.

    The kernel notes the time, because this process may be busy when a report comes. Of the sockets of reports,
    those of packets have it; on others, a report counts as sent when it is read.

    Args:
        control: The socket.
        size: The most bytes.
        most_fds: The most descriptors; others are closed.
    """
    room = socket.CMSG_SPACE(_STAMP.size) + socket.CMSG_SPACE(4 * most_fds)
    data, ancillary, _, _ = control.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    fds, at = array.array("i"), time.monotonic()
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        elif level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack(content[: _STAMP.size])
            at -= max(0.0, time.time() - seconds - nanoseconds / 1e9)
    for fd in fds[most_fds:]:
        os.close(fd)
    return data, list(fds[:most_fds]), at
