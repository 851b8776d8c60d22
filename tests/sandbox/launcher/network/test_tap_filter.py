"""The filter on a sandbox's way out, in a network namespace of its own: frames go in, and some come out."""

from __future__ import annotations

import ipaddress
import json
import struct
import subprocess
import sys

import pytest
from tests.support import SOURCE

from unsandbox.sandbox.launcher.network import tap_filter
from unsandbox.sandbox.launcher.network.addresses import NOT_PUBLIC
from unsandbox.sandbox.launcher.network.setup import RESOLVER

HOST = ["203.0.113.0/24", "2001:db8:77::/48"]

pytestmark = pytest.mark.root

# Puts each frame on the interface as the kernel's own protocols would, and prints which ones its reader gets.
SIEVE = r"""
import fcntl, ipaddress, json, os, select, socket, struct, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox.launcher.network import tap_filter
from unsandbox.sandbox.launcher.network.addresses import NOT_PUBLIC
from unsandbox.sandbox.launcher.network.setup import RESOLVER
forbidden = [*NOT_PUBLIC, *map(ipaddress.ip_network, {host!r})]
tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x1002))
tap_filter.attach_to(tun, tap_filter.build(forbidden, RESOLVER.values()))
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind(("tap0", 0))
up = struct.pack("16sH22x", b"tap0", 1)
for name in ("all", "tap0"):
    open(f"/proc/sys/net/ipv6/conf/{{name}}/disable_ipv6", "w").write("1")
fcntl.ioctl(sender, 0x8914, up)
passed = []
for number, frame in enumerate(json.load(sys.stdin)):
    sender.send(bytes.fromhex(frame))
    # The filter is asked before send returns.
    while True:
        try: got = os.read(tun, 65536)
        except BlockingIOError: break
        if got.hex() == frame: passed.append(number)
print(json.dumps(passed))
"""


def frame(kind: int, body: bytes) -> bytes:
    return bytes(6) + b"\x02\0\0\0\0\x01" + struct.pack(">H", kind) + body


def ipv4(to: str, protocol: int = 6, port: int = 80, fragment: int = 0, options: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45 + options, 0, 40, 0, fragment, 64, protocol, 0)
    ports = struct.pack(">HH", 40000, port) + bytes(16)
    return frame(
        0x0800, head + bytes([10, 0, 2, 100]) + ipaddress.ip_address(to).packed + bytes(4 * options) + ports
    )


def ipv6(to: str, following: int = 6, port: int = 80, body: bytes | None = None) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, 24, following, 64) + ipaddress.ip_address("fd00::100").packed
    ports = struct.pack(">HH", 40000, port) + bytes(16)
    return frame(0x86DD, head + ipaddress.ip_address(to).packed + (ports if body is None else body))


def sieve(frames: list[bytes]) -> list[bytes]:
    """Return those of `frames` that get through."""
    code = SIEVE.format(paths=[str(SOURCE)], host=HOST)
    result = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code], input=json.dumps([one.hex() for one in frames]),
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [frames[number] for number in json.loads(result.stdout)]


def test_each_network_is_held_back_to_its_last_address_and_its_public_neighbours_pass():
    networks = [*NOT_PUBLIC, *map(ipaddress.ip_network, HOST)]
    inside, outside = [], []
    for network in networks:
        make = ipv4 if network.version == 4 else ipv6
        low, high = int(network.network_address), int(network.broadcast_address)
        kind = type(network.network_address)
        inside += [make(str(kind(value))) for value in {low, high, (low + high) // 2}]
        next_ones = [kind(value) for value in (low - 1, high + 1) if 0 <= value < 1 << network.max_prefixlen]
        outside += [make(str(near)) for near in next_ones if not any(near in other for other in networks)]
    assert len(outside) > 20
    assert sieve(inside) == []
    assert sieve(outside) == outside


def test_of_the_resolver_only_dns_is_let_through():
    passing = [
        ipv4("10.0.2.3", 17, 53),
        ipv4("10.0.2.3", 6, 53),
        ipv4("10.0.2.3", 17, 53, options=2),
        ipv4("10.0.2.3", 6, 53, fragment=0x4000),
        ipv6("fd00::3", 17, 53),
        ipv6("fd00::3", 6, 53),
    ]
    held = [
        ipv4("10.0.2.3", 17, 54),
        ipv4("10.0.2.3", 6, 80),
        ipv4("10.0.2.3", 1, 53),
        ipv4("10.0.2.3", 132, 53),
        # A later fragment, whose first bytes look like the port.
        ipv4("10.0.2.3", 17, 53, fragment=0x0001),
        ipv4("10.0.2.3", 17, 53, fragment=0x2001),
        # Options that hold 53 where the port would be without them.
        frame(
            0x0800,
            ipv4("10.0.2.3", 17, 80, options=1)[14:34] + struct.pack(">HH", 0, 53) + struct.pack(">HH", 1, 80),
        ),
        ipv4("10.0.2.2", 17, 53),
        ipv4("10.0.2.4", 17, 53),
        ipv6("fd00::3", 17, 54),
        ipv6("fd00::3", 0, 53),
        ipv6("fd00::3", 44, 53),
        ipv6("fd00::2", 17, 53),
    ]
    assert sieve(passing + held) == passing


def test_what_finds_the_gateway_passes_and_no_other_protocol_of_the_link():
    passing = [frame(0x0806, bytes(28)), *(ipv6("ff02::2", 58, body=bytes([kind]) + bytes(23)) for kind in range(133, 137)),
               ipv6("fe80::2", 58, body=b"\x87" + bytes(23)), ipv4("198.51.100.1", 17, 5353), ipv4("198.51.100.1", 1, 0)]  # fmt: skip
    held = [
        ipv4("255.255.255.255", 17, 67),
        ipv4("224.0.0.251", 17, 5353),
        ipv6("ff02::fb", 17, 5353),
        ipv6("fe80::2", 6, 80),
        *(ipv6("ff02::1", 58, body=bytes([kind]) + bytes(23)) for kind in (1, 128, 129, 132, 137, 143)),
        frame(0x8100, struct.pack(">HH", 1, 0x0800) + ipv4("198.51.100.1")[14:]),
        frame(0x8847, bytes(40)),
        frame(0x88CC, bytes(40)),
        frame(0x0800, b"\x45" + bytes(10)),
    ]
    assert sieve(passing + held) == passing


def test_the_program_stays_far_from_the_kernels_bound():
    program = tap_filter.build(
        [*NOT_PUBLIC, *(ipaddress.ip_network(f"198.51.{n}.0/24") for n in range(200))], RESOLVER.values()
    )
    assert len(program) < 4096
    assert all(0 <= step[1] < 256 and 0 <= step[2] < 256 for step in program)
