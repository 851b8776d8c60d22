"""A small internet for tests: a network namespace beyond a cable of its own, with servers on many addresses.

`python internet.py ADDRESS...` is the server process in there: TCP and UDP on port 7000, DNS on port 53. Of the
ranges for documentation a few addresses at a time are used, and only while the tests run: on some machines they
mean something.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

PORT = 7000
NAMES = ("public.test", "big.test")
"""Both are the public address; the answer about the second is too big for UDP."""


@dataclass(frozen=True)
class Internet:
    """Addresses and what is on them. All of them answer when the host asks."""

    namespace: str
    link: str
    gateway: str
    """The far end of the cable: a neighbour of this machine."""
    near: str
    """The near end: an address of this machine."""
    public: str
    movable: str
    """A public address that `take_over` makes this machine's own."""
    public6: str
    private: tuple[str, ...]
    """Beyond the cable, too, but in ranges that are somebody's own."""
    resolver: str
    """One of `private`."""

    def take_over(self) -> None:
        ip("addr", "add", f"{self.movable}/32", "dev", self.link)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def made() -> Iterator[Internet]:
    """Make it; everything is gone afterwards, whatever happened."""
    name = f"unsbx-{os.getpid()}"
    link, far = f"ut{os.getpid()}a"[:15], f"ut{os.getpid()}b"[:15]
    internet = None
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    try:
        ip("netns", "add", name)
        ip("link", "add", link, "type", "veth", "peer", "name", far, "netns", name)
        internet = _wire(name, link, far)
        addresses = [internet.gateway, internet.public, internet.movable, internet.public6, *internet.private]
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, __file__, *addresses],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout.readline() == "ready\n"
            yield internet
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
    finally:
        # The other end goes with it, and with the ends every address and route.
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _wire(name: str, link: str, far: str) -> Internet:
    for turn in range(30):
        block = 8 * ((os.getpid() + turn) % 30 + 1)
        near, gateway, public, movable = (f"198.51.100.{block + n}" for n in (1, 2, 5, 6))
        try:
            ip("addr", "add", f"{near}/30", "dev", link)
            ip("link", "set", link, "up")
            ip("route", "add", f"{public}/32", "via", gateway)
            break
        except subprocess.CalledProcessError:
            # Somebody else's tests have it.
            ip("addr", "flush", "dev", link)
    else:
        raise AssertionError("no free addresses")
    net6, public6 = f"2001:db8:{block:x}:1", f"2001:db8:{block:x}:2::5"
    private = (f"10.213.{block}.9", f"172.29.{block}.9", f"192.168.{block}.209", f"100.99.{block}.9", f"198.18.{block}.9",
               f"169.254.213.{block}", f"192.0.0.{block}", f"fd3c:{block:x}::9")  # fmt: skip
    ip("-n", name, "link", "set", "lo", "up")
    ip("-n", name, "link", "set", far, "up")
    ip("-n", name, "addr", "add", f"{gateway}/30", "dev", far)
    ip("-n", name, "addr", "add", f"{net6}::2/64", "dev", far, "nodad")
    ip("addr", "add", f"{net6}::1/64", "dev", link, "nodad")
    for address in (public, movable, public6, *private):
        ip("-n", name, "addr", "add", address, "dev", "lo")
        if address != public:
            ip("route", "add", address, "via", f"{net6}::2" if ":" in address else gateway)
    ip("-n", name, "route", "add", "default", "via", near)
    ip("-n", name, "route", "add", "default", "via", f"{net6}::1")
    return Internet(name, link, gateway, near, public, movable, public6, private, private[0])


# The server


def bound(address: str, port: int, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock


def echo_tcp(address: str) -> None:
    server = bound(address, PORT, socket.SOCK_STREAM)
    server.listen(64)
    while True:
        connection, peer = server.accept()
        connection.sendall(f"tcp {address} {peer[0]}".encode())
        connection.close()


def echo_udp(address: str) -> None:
    server = bound(address, PORT, socket.SOCK_DGRAM)
    while True:
        said, peer = server.recvfrom(2048)
        if said.startswith(b"from "):
            # Let others answer in its place.
            for other in said.decode().split()[1:]:
                with bound(other, 0, socket.SOCK_DGRAM) as stranger:
                    stranger.sendto(f"udp {other}".encode(), peer)
        else:
            server.sendto(f"udp {address} {peer[0]}".encode(), peer)


def answer(question: bytes, address: str, truncated: bool) -> bytes:
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    name, (kind,) = ".".join(labels), struct.unpack_from(">H", question, at + 1)
    known = name in NAMES
    cut = truncated and name == "big.test"
    answers = 1 if known and kind == 1 and not cut else 0
    flags = 0x8180 | (0x0200 if cut else 0) | (0 if known else 3)
    head = question[:2] + struct.pack(">HHHHH", flags, 1, answers, 0, 0) + question[12 : at + 5]
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
    return head + record * answers


def names_udp(address: str, public: str) -> None:
    server = bound(address, 53, socket.SOCK_DGRAM)
    while True:
        question, peer = server.recvfrom(2048)
        server.sendto(answer(question, public, truncated=True), peer)


def names_tcp(address: str, public: str) -> None:
    server = bound(address, 53, socket.SOCK_STREAM)
    server.listen(64)
    while True:
        connection, _ = server.accept()
        with contextlib.suppress(OSError, struct.error):
            # The C library asks for both kinds of address over one connection.
            while True:
                (size,) = struct.unpack(">H", connection.recv(2, socket.MSG_WAITALL))
                reply = answer(connection.recv(size, socket.MSG_WAITALL), public, truncated=False)
                connection.sendall(struct.pack(">H", len(reply)) + reply)
        connection.close()


def main(addresses: list[str]) -> None:
    public = addresses[1]
    # Listening before it is said; the threads only serve.
    for address in addresses:
        threading.Thread(target=echo_tcp, args=(address,), daemon=True).start()
        threading.Thread(target=echo_udp, args=(address,), daemon=True).start()
    for serve in (names_udp, names_tcp):
        threading.Thread(target=serve, args=(addresses[4], public), daemon=True).start()
    for address in addresses:
        reach(address)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


def reach(address: str, kind: str = "tcp", port: int = PORT) -> str:
    """Return what a server says to this process, once it is there."""
    for _ in range(500):
        sock = socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM,
        )
        with sock:
            sock.settimeout(2)
            try:
                sock.connect((address, port))
                if kind == "udp":
                    sock.send(b"?")
                return sock.recv(100).decode()
            except ConnectionRefusedError:
                threading.Event().wait(0.01)
    raise AssertionError(f"nothing answers on {address}")


if __name__ == "__main__":
    main(sys.argv[1:])
