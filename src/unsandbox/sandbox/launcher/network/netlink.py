"""The part of rtnetlink that sets address, route and rules of a network namespace, and reads the host's.

The program `ip` could do this too, but needs a process and some milliseconds per sandbox, and may be missing.
The launcher, a bare interpreter, loads this module: standard library only.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Self

from unsandbox.sandbox.launcher.network.addresses import Address, Network

IPV4_ROUTE_GROUP, IPV6_ROUTE_GROUP = 0x40, 0x400
"""What a `Netlink` can be told of as it changes."""

_REQUEST, _ACK, _DUMP, _CREATE, _EXCL = 0x1, 0x4, 0x300, 0x400, 0x200
_ERROR, _DONE = 2, 3
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE, _GET_ROUTE, _NEW_RULE = 16, 20, 24, 26, 32
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAIN_TABLE = 254
_UP = 1
_BUFFER = 1 << 18

TO_TABLE, PROHIBIT = 1, 8
"""Actions of a rule: look on in the main table; refuse with EACCES."""
UNICAST, LOCAL, BROADCAST, ANYCAST, MULTICAST = range(1, 6)
"""Types of a route."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the kernel: where to, which kind, through which gateways (none: directly)."""

    destination: Network
    kind: int
    gateways: Sequence[Address]


class Netlink:
    """A socket to the kernel's routing, in the network namespace of the process that opens it."""

    def __init__(self, groups: int = 0) -> None:
        """Open it; `groups` says of which changes it is told (`IPV4_ROUTE_GROUP`, ...)."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, groups))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, to wait for changes."""
        return self._socket.fileno()

    def carry_out(self, requests: Iterable[tuple[int, bytes]]) -> None:
        """Send requests, as the functions below make them, and wait until the kernel has done every one.

        Raises:
            OSError: The kernel refused one; those after it may have been done.
        """
        messages = []
        for kind, body in requests:
            self._sequence += 1
            flags = _REQUEST | _ACK | (0 if kind == _NEW_LINK else _CREATE | _EXCL)
            messages.append(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        waiting = len(messages)
        if messages:
            self._socket.send(b"".join(messages))
        while waiting:
            for kind, sequence, body in split(self._socket.recv(_BUFFER)):
                if kind == _ERROR and sequence:
                    waiting -= 1
                    code = -struct.unpack_from("=i", body)[0]
                    if code not in (0, errno.EEXIST):
                        raise OSError(code, os.strerror(code))

    def routes(self) -> list[Route]:
        """Return every route of both families, those of all tables; the local one says what is this machine."""
        found: list[Route] = []
        for family in _FAMILY.values():
            self._sequence += 1
            body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            header = _HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST | _DUMP, self._sequence, 0)
            self._socket.send(header + body)
            found += self._dumped_routes(self._sequence)
        return found

    def _dumped_routes(self, wanted: int) -> Iterator[Route]:
        while True:
            for kind, sequence, body in split(self._socket.recv(_BUFFER)):
                if sequence != wanted:
                    continue
                if kind in (_DONE, _ERROR):
                    # A kernel without IPv6 answers with an error: no routes.
                    return
                if kind == _NEW_ROUTE:
                    yield parse_route(body)

    def drain(self) -> None:
        """Throw away what has been told so far."""
        while True:
            try:
                self._socket.recv(_BUFFER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                # Told of more than there was room for, which is no less of a change.
                if error.errno != errno.ENOBUFS:
                    raise


# Requests


def set_up(index: int, *, mtu: int | None = None, rp_filter: int | None = None) -> tuple[int, bytes]:
    """Switch an interface on, with the largest packet and the source check that are given."""
    body = _LINK.pack(0, 0, index, _UP, _UP)
    if mtu is not None:
        body += _attribute(4, struct.pack("=I", mtu))
    if rp_filter is not None:
        setting = _attribute(8, struct.pack("=I", rp_filter))  # IPV4_DEVCONF_RP_FILTER
        body += _attribute(26, _attribute(socket.AF_INET, _attribute(1, setting)))
    return _NEW_LINK, body


def add_address(index: int, address: Address, prefix: int) -> tuple[int, bytes]:
    """Give an interface an address, at once: without asking the neighbours whether they have it."""
    no_dad = 2
    body = _ADDRESS.pack(_FAMILY[address.version], prefix, no_dad, 0, index)
    return _NEW_ADDRESS, body + _attribute(1, address.packed) + _attribute(2, address.packed)


def add_default_route(index: int, gateway: Address) -> tuple[int, bytes]:
    """Send everything to a gateway behind an interface, also where a rule forbids the gateway itself."""
    boot, on_link = 3, 4
    body = _ROUTE.pack(_FAMILY[gateway.version], 0, 0, 0, _MAIN_TABLE, boot, 0, UNICAST, on_link)
    return _NEW_ROUTE, body + _attribute(4, struct.pack("=I", index)) + _attribute(5, gateway.packed)


def add_rule(
    to: Network, action: int, priority: int, *, protocol: int | None = None, port: int | None = None
) -> tuple[int, bytes]:
    """Decide on packets to a network before any route is looked at; lower priorities first.

    Args:
        to: The destinations that it concerns.
        action: `TO_TABLE` or `PROHIBIT`.
        priority: Its place; 0 is the table of local addresses, 32766 the main table.
        protocol: Only for this protocol (`socket.IPPROTO_UDP`).
        port: Only for this destination port.
    """
    table = _MAIN_TABLE if action == TO_TABLE else 0
    body = _RULE.pack(_FAMILY[to.version], to.prefixlen, 0, 0, table, 0, 0, action, 0)
    body += _attribute(6, struct.pack("=I", priority))
    if to.prefixlen:
        body += _attribute(1, to.network_address.packed)
    if protocol is not None:
        body += _attribute(22, bytes([protocol]))
    if port is not None:
        body += _attribute(24, struct.pack("=HH", port, port))
    return _NEW_RULE, body


# Messages


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : size]
        data = data[size + -size % 4 :]
    return found


def split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, sequence number and body of each message in what the kernel sent."""
    while len(data) >= _HEADER.size:
        size, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if size < _HEADER.size:
            # Nothing that the kernel says; without this, no step forward.
            return
        yield kind, sequence, data[_HEADER.size : size]
        data = data[size + -size % 4 :]


def parse_route(body: bytes) -> Route:
    """Read what the kernel says of a route.

    Raises:
        ValueError: It is too short, or holds an address of another length.
    """
    if len(body) < _ROUTE.size:
        raise ValueError("a route is cut off")
    family, prefix, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
    attributes = _attributes(body[_ROUTE.size :])
    gateways = [*_gateways(attributes)]
    hops = attributes.get(9, b"")
    while len(hops) >= _NEXT_HOP.size:
        size = max(_NEXT_HOP.size, _NEXT_HOP.unpack_from(hops)[0])
        gateways += _gateways(_attributes(hops[_NEXT_HOP.size : size]))
        hops = hops[size + -size % 4 :]
    if family == socket.AF_INET:
        return Route(IPv4Network((attributes.get(1, bytes(4)), prefix)), kind, gateways)
    return Route(IPv6Network((attributes.get(1, bytes(16)), prefix)), kind, gateways)


def _gateways(attributes: dict[int, bytes]) -> Iterator[Address]:
    if (gateway := attributes.get(5)) is not None:
        yield ip_address(gateway)
    if (via := attributes.get(18)) is not None:
        # The gateway may be of the other family, which stands before it.
        yield ip_address(via[2:])
