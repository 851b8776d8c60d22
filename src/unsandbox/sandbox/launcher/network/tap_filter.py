"""The last filter of a sandbox's outbound network: a program for the kernel's packet filter.

It is attached to the TAP interface and sees every outgoing frame. The rules of `setup` refuse destinations
earlier, with an error. But if a socket names an interface and no route is found, IPv4 assumes that the
destination is on the link, and no rule applies to link-local multicast. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import IO

from unsandbox.sandbox.launcher import bpf, syscalls
from unsandbox.sandbox.launcher.bpf import (
    AND,
    JA,
    JEQ,
    JSET,
    LD_B_ABS,
    LD_H_ABS,
    LD_H_IND,
    LD_W_ABS,
    LDX_B_MSH,
    RET,
    Instruction,
)
from unsandbox.sandbox.launcher.network.addresses import Address, Network

_PASS: Instruction = (RET, 0, 0, 0xFFFFFFFF)
_DROP: Instruction = (RET, 0, 0, 0)

_ETHERNET = 14
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_FRAGMENT_OFFSET = 0x1FFF
_ROUTER_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 133, 136
_DNS_PORT = 53

_TUNATTACHFILTER = 0x401054D5

TUN = Path("/dev/net/tun")
TUN_DEVICE = os.makedev(10, 200)


def attach(pid: int, program: list[Instruction]) -> None:
    """Attach a program, in place of an earlier one, to the TAP interface that another process serves.

    Args:
        pid: The process; this one must be allowed to trace it.
        program: As `build` returns it.

    Raises:
        ProcessLookupError: The process serves none, or is gone.
        OSError: It is out of reach.
    """
    with _opened(pid) as tap:
        attach_to(tap.fileno(), program)


def attach_to(tap: int, program: list[Instruction]) -> None:
    """Attach a program to the TAP interface behind a descriptor."""
    code = bpf.encode(program)
    buffer = ctypes.create_string_buffer(code, len(code))
    fcntl.ioctl(tap, _TUNATTACHFILTER, struct.pack("HP", len(program), ctypes.addressof(buffer)))


def _opened(pid: int) -> IO[bytes]:
    """Return a copy of the descriptor by which a process serves a TAP interface."""
    try:
        found = list(Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        found = []
    for opened in found:
        # By number: the process may know the device by another name.
        if _device_of(opened) == TUN_DEVICE:
            pidfd = os.pidfd_open(pid)
            try:
                copy = syscalls.pidfd_getfd(pidfd, int(opened.name))
            except OSError as error:
                raise OSError(error.errno, "the TAP interface cannot be filtered") from error
            finally:
                os.close(pidfd)
            return os.fdopen(copy, "r+b", buffering=0)
    raise ProcessLookupError(errno.ESRCH, "nothing serves the TAP interface")


def _device_of(path: Path) -> int | None:
    try:
        return path.stat().st_rdev
    except OSError:
        # Closed in the meantime.
        return None


def build(forbidden: Iterable[Network], resolvers: Iterable[Address]) -> list[Instruction]:
    """Return the program: it drops what goes to a forbidden network, and all that is neither IP nor ARP.

    Args:
        forbidden: Destinations that nothing goes to.
        resolvers: Destinations of DNS by UDP and TCP, though a network of theirs is forbidden.
    """
    networks, names = list(forbidden), list(resolvers)
    v4 = [*_resolvers4([a for a in names if isinstance(a, IPv4Address)])]
    v6 = [*_neighbour_discovery(), *_resolvers6([a for a in names if isinstance(a, IPv6Address)])]
    for network in networks:
        body, place = (v4, _ETHERNET + 16) if network.version == 4 else (v6, _ETHERNET + 24)
        body += _if_address(place, network.network_address, network.netmask, [_DROP])
    return [
        (LD_H_ABS, 0, 0, 12),
        *_if_equal(_ARP, [_PASS]),
        *_if_equal(_IPV4, [*v4, _PASS]),
        *_if_equal(_IPV6, [*v6, _PASS]),
        _DROP,
    ]


def _if_equal(value: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which must end in a return, when the loaded value is this one."""
    return [(JEQ, 1, 0, value), (JA, 0, 0, len(body)), *body]


def _if_address(place: int, address: Address, mask: Address, body: list[Instruction]) -> list[Instruction]:
    """Run `body` when the address at `place` in the frame is this one where the mask has ones."""
    code: list[Instruction] = []
    words = [
        (place + i, address.packed[i : i + 4], mask.packed[i : i + 4]) for i in range(0, len(mask.packed), 4)
    ]
    tests = [(at, int.from_bytes(value), int.from_bytes(bits)) for at, value, bits in words if any(bits)]
    for left, (at, value, bits) in enumerate(reversed(tests)):
        # When a word differs, over this and all that comes after it.
        code = [(LD_W_ABS, 0, 0, at), (AND, 0, 0, bits), (JEQ, 0, 3 * left + len(body), value), *code]
    return [*code, *body]


def _resolvers4(addresses: list[IPv4Address]) -> list[Instruction]:
    dns: list[Instruction] = [
        (LD_B_ABS, 0, 0, _ETHERNET + 9),
        (JEQ, 1, 0, socket.IPPROTO_UDP),
        (JEQ, 0, 6, socket.IPPROTO_TCP),
        # A later fragment has no port.
        (LD_H_ABS, 0, 0, _ETHERNET + 6),
        (JSET, 4, 0, _FRAGMENT_OFFSET),
        (LDX_B_MSH, 0, 0, _ETHERNET),
        (LD_H_IND, 0, 0, _ETHERNET + 2),
        (JEQ, 0, 1, _DNS_PORT),
        _PASS,
        _DROP,
    ]
    full = IPv4Address("255.255.255.255")
    return [step for address in addresses for step in _if_address(_ETHERNET + 16, address, full, dns)]


def _resolvers6(addresses: list[IPv6Address]) -> list[Instruction]:
    dns: list[Instruction] = [
        (LD_B_ABS, 0, 0, _ETHERNET + 6),
        (JEQ, 1, 0, socket.IPPROTO_UDP),
        (JEQ, 0, 3, socket.IPPROTO_TCP),
        (LD_H_ABS, 0, 0, _ETHERNET + 40 + 2),
        (JEQ, 0, 1, _DNS_PORT),
        _PASS,
        _DROP,
    ]
    full = IPv6Address((1 << 128) - 1)
    return [step for address in addresses for step in _if_address(_ETHERNET + 24, address, full, dns)]


def _neighbour_discovery() -> list[Instruction]:
    """Of ICMPv6 only what finds the gateway; it goes to multicast and link-local addresses."""
    kinds = range(_ROUTER_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT + 1)
    tests: list[Instruction] = [(JEQ, len(kinds) - i, 0, kind) for i, kind in enumerate(kinds)]
    body = [(LD_B_ABS, 0, 0, _ETHERNET + 40), *tests, _DROP, _PASS]
    return [(LD_B_ABS, 0, 0, _ETHERNET + 6), (JEQ, 0, len(body), socket.IPPROTO_ICMPV6), *body]
