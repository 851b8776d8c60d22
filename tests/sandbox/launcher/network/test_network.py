"""Sandboxes with a network (`semitrusted`): what can be reached from inside, and what cannot, each tried for real."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys

import pytest
from tests.sandbox.launcher.network.attempts import INSIDE, SEMITRUSTED
from tests.sandbox.launcher.network.internet import PORT, reach
from tests.sandbox.support import eventually
from tests.support import SOURCE

from unsandbox.sandbox import (
    BubblewrapBackend,
    EndReason,
    Limits,
    SandboxSpec,
)
from unsandbox.sandbox.launcher.network.netlink import LOCAL, Netlink
from unsandbox.sandbox.spec import NetworkMode

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("slirp4netns"), reason="slirp4netns is not installed"),
]


def routes():
    with Netlink() as kernel:
        return kernel.routes()


def has_ipv6():
    return bool(
        subprocess.run(["ip", "-6", "route", "show", "default"], capture_output=True, check=True).stdout
    )


# What can be reached


async def test_the_probe_says_by_what(backend):
    assert backend.network_refusal(NetworkMode.ZEROTRUST) is None
    assert backend.network_refusal(SEMITRUSTED) is None
    async with BubblewrapBackend() as other:
        await other.close()
        (check,) = [check for check in (await other.open()).checks if check.name == "network: semitrusted"]
    assert (check.ok, check.enforced_by, check.detail) == (
        True,
        "slirp4netns, policy rules and packet filter",
        "",
    )


async def test_tcp_and_udp_reach_a_public_address(attempt, internet):
    got = await attempt(
        {"to": internet.public},
        {"to": internet.public, "kind": "udp"},
        {"to": f"::ffff:{internet.public}"},
        {"to": internet.public, "device": True},
        {"to": internet.public, "port": PORT + 1},
    )
    tcp = f"tcp {internet.public} {internet.near}"
    assert got == [tcp, tcp.replace("tcp", "udp"), tcp, tcp, "ECONNREFUSED"]


async def test_ipv6_is_there_where_the_host_has_it(attempt, internet):
    tcp, udp = await attempt({"to": internet.public6}, {"to": internet.public6, "kind": "udp"})
    if has_ipv6():
        assert (tcp.split()[:2], udp.split()[:2]) == (["tcp", internet.public6], ["udp", internet.public6])
    else:
        assert (tcp, udp) == ("ENETUNREACH", "ENETUNREACH")


async def test_zerotrust_has_no_way_out(attempt, python, internet):
    got = await attempt(
        {"to": internet.public}, {"to": internet.public, "kind": "udp"}, network=NetworkMode.ZEROTRUST
    )
    assert got == ["ENETUNREACH"] * 2
    outcome = await python("import socket; print(socket.if_nameindex(), open('/etc/resolv.conf').read())")
    assert outcome.stdout.data == b"[(1, 'lo')] \n"


NAMES = r"""
import asyncio, json, socket, sys
sys.path[:0] = {paths!r}
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec
from unsandbox.sandbox.spec import NetworkMode
code = '''
import socket
for name in ("public.test", "big.test", "nowhere.test"):
    try:
        with socket.create_connection((name, {port}), 5) as s: print(name, s.recv(100).decode())
    except OSError as error: print(name, type(error).__name__)
for address, port in (("{resolver}", 53), ("10.0.2.3", 54), ("10.0.2.3", {port}), ("10.0.2.2", 53), ("10.0.2.4", 53)):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(type=kind) as s: s.connect((address, port)); print("reached", address, port)
        except OSError as error: print(address, port, error.strerror)
'''
async def main():
    async with BubblewrapBackend() as backend:
        job = await backend.start(SandboxSpec(run=["/usr/bin/python3", "-c", code], network=NetworkMode.SEMITRUSTED))
        outcome = await job.wait()
        print(outcome.stdout.data.decode(), outcome.stderr.data.decode())
asyncio.run(main())
"""


async def test_names_are_resolved_by_a_resolver_that_cannot_be_reached_itself(internet, tmp_path):
    """The whole server has another resolv.conf, mounted over the host's as container engines do it."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"search home.example\nnameserver {internet.resolver}\nnameserver 127.0.0.53\n")
    code = NAMES.format(paths=[str(SOURCE)], port=PORT, resolver=internet.resolver)
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-ec", 'mount --bind "$1" /etc/resolv.conf; exec "$2" -c "$3"', "sh",
        str(resolv_conf), sys.executable, code, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    lines = out.decode().strip().splitlines()
    reply = f"tcp {internet.public} {internet.near}"
    assert lines[:3] == [f"public.test {reply}", f"big.test {reply}", "nowhere.test gaierror"]
    assert len(lines) == 13
    assert all(line.endswith("Permission denied") for line in lines[3:]), lines


# What cannot be reached


def refused(got, tries):
    """At once and by name, or, when the socket names an interface, by silence."""
    wrong = [(how, result) for how, result in zip(tries, got, strict=True)
             if result != "EACCES" and not (how.get("device") and result in ("TimeoutError", "EHOSTUNREACH"))]  # fmt: skip
    assert wrong == []


async def test_private_ranges_cannot_be_reached(attempt, internet):
    tries = [
        {"to": address} | how
        for address in internet.private
        for how in ({}, {"kind": "udp"}, {"device": True}, {"direct": True}, {"source": "::" if ":" in address else "10.0.2.100"})
    ]  # fmt: skip
    mapped = [{"to": f"::ffff:{address}"} | how for address in internet.private if ":" not in address
              for how in ({}, {"device": True}, {"kind": "udp"})]  # fmt: skip
    # They are there: the host reaches every one.
    for address in internet.private:
        assert reach(address).startswith(f"tcp {address}")
        assert reach(address, "udp").startswith(f"udp {address}")
    refused(await attempt(*tries, *mapped), [*tries, *mapped])


async def test_neighbours_and_metadata_cannot_be_reached(attempt, internet):
    assert reach(internet.gateway).startswith("tcp")
    gateways = [gateway for route in routes() for gateway in route.gateways]
    addresses = {internet.gateway, "169.254.169.254", "168.63.129.16", "100.100.100.200", "0.0.0.1", "240.0.0.1",
                 "fd00:ec2::254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::7f00:1", "fec0::1",
                 "10.0.2.2", "10.0.2.4", "fd00::2", *map(str, gateways)}  # fmt: skip
    tries = [{"to": address, "port": port} for address in sorted(addresses) for port in (53, 80, PORT)]
    tries += [{"to": "fe80::2%tap0", "port": 80}, {"to": "fe80::2%tap0", "kind": "udp", "port": 53}]
    # The resolver's address is one that slirp4netns itself serves, and answers for on the link.
    tries += [{"to": address, "port": port, "kind": kind, "device": True} for kind in ("tcp", "udp")
              for address, port in (("10.0.2.3", PORT), ("10.0.2.3", 80), ("10.0.2.2", 53), ("fd00::3", 80))]  # fmt: skip
    refused(await attempt(*tries), tries)


async def test_no_address_of_the_host_can_be_reached(attempt, internet):
    """A listener on every address and port of the host hears nothing from inside."""
    heard = []
    own = sorted({str(route.destination.network_address) for route in routes() if route.kind == LOCAL})
    assert {"127.0.0.1", "::1", internet.near} <= set(own)
    tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    port = tcp.getsockname()[1]
    loop = asyncio.get_running_loop()
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", port))
    for sock in (tcp, udp):
        sock.setblocking(False)

    def accept():
        connection, peer = tcp.accept()
        connection.close()
        heard.append(("tcp", peer))

    loop.add_reader(tcp, accept)
    loop.add_reader(udp, lambda: heard.append(("udp", udp.recvfrom(100)[1])))
    try:
        addresses = [
            *(f"{address}%tap0" if address.startswith("fe80") else address for address in own),
            *(f"::ffff:{address}" for address in own if "." in address),
            "0.0.0.0",
            "::",
            "localhost",
        ]
        tries = [{"to": address, "port": port} | how for address in addresses
                 for how in ({}, {"kind": "udp"}, {"device": True})]  # fmt: skip
        got = await attempt(*tries)
        # To the sandbox its own loopback is 127.0.0.1, where nobody listens.
        loopback = {
            "::1",
            "0.0.0.0",
            "::",
            "localhost",
            *(address for address in addresses if "127.0.0." in address),
        }
        refused([result for how, result in zip(tries, got, strict=True) if how["to"] not in loopback],
                [how for how in tries if how["to"] not in loopback])  # fmt: skip
        assert not [result for result in got if result.startswith(("tcp", "udp"))]
        assert heard == []
        socket.create_connection((internet.near, port)).close()
        await eventually(lambda: heard)
    finally:
        loop.remove_reader(tcp)
        loop.remove_reader(udp)
        tcp.close()
        udp.close()


async def test_many_cannot_be_reached_at_once(attempt):
    tries = (
        {"to": "255.255.255.255", "kind": "udp", "broadcast": True},
        {"to": "239.255.255.250", "kind": "udp", "port": 1900},
        {"to": "224.0.0.251", "kind": "udp", "port": 5353},
        # These leave the socket; what becomes of their frames, `test_tap_filter` shows.
        {"to": "10.0.2.255", "kind": "udp", "broadcast": True, "out": True},
        {"to": "224.0.0.251", "kind": "udp", "port": 5353, "out": True},
        {"to": "ff02::fb%tap0", "kind": "udp", "port": 5353, "device": True},
    )
    assert await attempt(*tries) == ["EACCES"] * 3 + ["TimeoutError"] * 3


async def test_the_route_in_a_packet_is_not_obeyed(attempt, internet):
    """Options that name another hop: either end of the detour must be allowed, and the option is not passed on."""
    got = await attempt({"to": internet.private[0], "via": internet.gateway}, {"to": internet.private[0], "via": internet.public},
                        {"to": internet.public, "via": internet.private[0]})  # fmt: skip
    assert not [reply for reply in got if internet.private[0] in reply or internet.gateway in reply], got


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 that could be misused")
async def test_a_chosen_interface_does_not_pass_by_the_rules(attempt, internet):
    """IPv6 skips unreachable *routes* when a socket names an interface; hence rules."""
    private6 = internet.private[-1]
    got = await attempt(
        {"to": private6, "kind": "udp", "info": True}, {"to": internet.public6, "kind": "udp", "info": True}
    )
    assert got[0] == "EACCES"
    assert got[1].startswith("udp 2001:db8")


async def test_an_address_that_the_host_gets_later_is_forbidden_too(backend, internet):
    code = f"PORT = {PORT}\n{INSIDE}\n" + f"""
import time
print(attempt({{"to": {internet.movable!r}}}), flush=True)
while (got := attempt({{"to": {internet.movable!r}}})) != "EACCES": time.sleep(0.01)
print(got)
"""  # fmt: skip
    said = []
    spec = SandboxSpec(run=["/usr/bin/python3", "-c", code], network=SEMITRUSTED, limits=Limits(wall_s=20))
    job = await backend.start(spec, lambda stream, data: said.append(data))
    await eventually(lambda: said, 10)
    internet.take_over()
    outcome = await job.wait()
    assert outcome.reason is EndReason.EXITED
    assert outcome.stdout.data.decode() == f"tcp {internet.movable} {internet.near}\nEACCES\n"


# What the tenant cannot do


async def test_the_tenant_cannot_change_its_network(python):
    code = r"""
import ctypes, errno, fcntl, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, act):
    try:
        act()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOENT, errno.EROFS, errno.EINVAL, errno.ENOSYS): return
        print(name, "failed otherwise:", error)
    else:
        print(name, "was not refused")
def kernel(kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        s.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        code = -struct.unpack_from("=i", s.recv(65536), 16)[0]
        if code: raise OSError(code, os.strerror(code))
tap = socket.if_nametoindex("tap0")
attribute = lambda kind, value: struct.pack("=HH", 4 + len(value), kind) + value
refused("add a route", lambda: kernel(24, 0x600, struct.pack("=BBBBBBBBI", 2, 8, 0, 0, 254, 3, 0, 1, 4)
        + attribute(1, bytes([10, 0, 0, 0])) + attribute(4, struct.pack("=I", tap)) + attribute(5, bytes([10, 0, 2, 2]))))
refused("add a rule", lambda: kernel(32, 0x600, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + attribute(6, struct.pack("=I", 1))))
refused("delete a rule", lambda: kernel(33, 0, struct.pack("=BBBBBBBBI", 2, 8, 0, 0, 0, 0, 0, 8, 0)
        + attribute(1, bytes([10, 0, 0, 0])) + attribute(6, struct.pack("=I", 20))))
refused("take an interface down", lambda: kernel(16, 0, struct.pack("=BxHiII", 0, 0, tap, 0, 1)))
refused("make an interface", lambda: kernel(16, 0x600, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(18, attribute(1, b"dummy\0\0\0"))))
refused("add an address", lambda: kernel(20, 0x600, struct.pack("=BBBBI", 2, 32, 0, 0, tap) + attribute(2, bytes([1, 2, 3, 4]))))
for family, kind, protocol in ((2, 3, 1), (2, 3, 255), (10, 3, 58), (17, 3, 0x300), (17, 2, 0x300), (2, 10, 0), (2, 2, 1), (40, 1, 0)):
    refused(f"socket {family} {kind} {protocol}", lambda: socket.socket(family, kind, protocol).close())
refused("transparent", lambda: socket.socket().setsockopt(socket.IPPROTO_IP, 19, 1))
refused("mark", lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1))
refused("unshare", lambda: libc.unshare(0x40000000) and (_ for _ in ()).throw(OSError(ctypes.get_errno(), "")))
refused("tun", lambda: open("/dev/net/tun", "r+b", buffering=0))
for name in ("ipv4/ip_forward", "ipv4/conf/tap0/rp_filter", "ipv4/ping_group_range", "ipv6/conf/tap0/accept_ra"):
    refused(name, lambda: open("/proc/sys/net/" + name, "w").write("1"))
print([name for _, name in socket.if_nameindex()])
"""
    outcome = await python(code, network=SEMITRUSTED)
    assert outcome.stderr.data == b""
    assert outcome.stdout.data.decode() == "['lo', 'tap0']\n"


async def test_what_is_sent_to_a_service_of_the_host_does_not_come_in(backend, internet):
    """Pasta would take a program's own port number on the host, and with it another service's datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind(("0.0.0.0", 0))
        service.settimeout(5)
        port = service.getsockname()[1]
        code = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", {port}))
listener = socket.create_server(("0.0.0.0", {port}))
s.sendto(b"?", ("{internet.public}", {PORT}))
print(s.recv(100).decode(), flush=True)
s.settimeout(0.5)
try: print(s.recv(100))
except TimeoutError: print("nothing")
"""
        said = []
        spec = SandboxSpec(run=["/usr/bin/python3", "-c", code], network=SEMITRUSTED, limits=Limits(wall_s=10))
        job = await backend.start(spec, lambda stream, data: said.append(data))
        await eventually(lambda: said, 10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for address in ("127.0.0.1", internet.near):
                client.sendto(b"for the service", (address, port))
                assert service.recv(100) == b"for the service"
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((address, port), 2)
        outcome = await job.wait()
    assert outcome.stdout.data.decode() == f"udp {internet.public} {internet.near}\nnothing\n"


async def test_a_stranger_in_a_private_range_cannot_answer(python, internet):
    """The port of a UDP socket in use is open to whoever guesses it; not, by IPv4, to what is forbidden."""
    private = [address for address in internet.private if ":" not in address]
    code = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"from {" ".join(private)} {internet.gateway} {internet.public}", ("{internet.public}", {PORT}))
s.settimeout(5)
print(s.recv(100).decode())
s.settimeout(0.3)
try: print(s.recv(100).decode())
except TimeoutError: print("nothing")
print(open("/proc/sys/net/ipv4/conf/tap0/rp_filter").read())
"""
    outcome = await python(code, network=SEMITRUSTED)
    assert outcome.stdout.data.decode().split("\n")[:3] == [f"udp {internet.public}", "nothing", "1"]
