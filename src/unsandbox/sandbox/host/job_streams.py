"""The connections between a job's sandbox and the server: a socket for reports, and two pipes for output."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from unsandbox.sandbox.host.descriptors import DescriptorStack, pipe
from unsandbox.sandbox.launcher.fd_numbers import CONTROL_FD


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
    kept.enter_context(here)
    return here, sent.add(there.detach())
