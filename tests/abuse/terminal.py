"""Typing into, or taking, terminals: a program that does it runs commands as whoever looks at its output."""

from __future__ import annotations

import errno
import fcntl
import os
import pty

from tests.abuse.inside import FILTER, VIRTUAL, attack, call, content, in_child

SESSION = "a session of its own, without a terminal"


def _in_own_terminal(request: int, argument: bytes) -> str:
    """Make the request of a terminal that is really there, as its session's leader."""

    def work() -> str:
        _master, terminal = pty.openpty()
        os.setsid()
        fcntl.ioctl(terminal, 0x540E, 0)
        return call("ioctl", terminal, request, argument)

    return in_child(work)


@attack("typing into a terminal (TIOCSTI)", FILTER, VIRTUAL, control=False)
def type_into_a_terminal():
    return _in_own_terminal(0x5412, b"x")


@attack("TIOCSTI with high bits set, which a filter may compare", FILTER, VIRTUAL, control=False)
def type_with_high_bits():
    return _in_own_terminal(1 << 32 | 0x5412, b"x")


@attack("pasting into a console (TIOCLINUX)", FILTER, VIRTUAL, control=False)
def paste_into_a_console():
    return _in_own_terminal(0x541C, b"\x03")


@attack("taking the machine's console (TIOCCONS)", FILTER, VIRTUAL, control=False)
def take_the_console():
    return _in_own_terminal(0x541D, b"")


@attack("a line discipline, a module loaded on demand (TIOCSETD)", FILTER, VIRTUAL)
def line_discipline():
    return _in_own_terminal(0x5423, b"\x00\0\0\0")


@attack("the terminal from which the server was started", SESSION, control=False)
def terminal_of_the_server():
    fd = os.open("/dev/tty", os.O_RDWR)
    return f"descriptor {fd}"


@attack("consoles of the machine", "no such devices", control=False)
def consoles_of_the_machine():
    for path in ("/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/vcs", "/dev/vcsa1", "/dev/hvc0"):
        if os.path.exists(path):
            return path
    raise OSError(errno.ENOENT, "")


@attack("terminals of others", "a /dev/pts of its own", control=False)
def terminals_of_others():
    return [content(f"/dev/pts/{name}") for name in os.listdir("/dev/pts") if name.isdigit()]
