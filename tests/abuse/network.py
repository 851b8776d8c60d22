"""The network of a sandbox that has none, sockets of the host, services that answer whoever is on the machine."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

from tests.abuse.inside import CAPS, SETTINGS, VIRTUAL, attack, in_child

NET, MOUNTS = "network namespace", "mount namespace"


def _connect(address: tuple[str, int]) -> str:
    with socket.create_connection(address, 1):
        return f"connected to {address}"


@attack("the host's 127.0.0.1", NET)
def loopback_of_the_host():
    return _connect(("127.0.0.1", SETTINGS["port"]))


@attack("the host's ::1", NET)
def loopback_of_the_host_by_ipv6():
    return _connect(("::1", SETTINGS["port6"]))


@attack("the host by 0.0.0.0", NET)
def host_by_the_zero_address():
    return _connect(("0.0.0.0", SETTINGS["port"]))


@attack("the host by an IPv4 address inside IPv6", NET)
def host_by_a_mapped_address():
    return _connect(("::ffff:127.0.0.1", SETTINGS["port"]))


@attack("the host by another address of its loopback", NET)
def host_by_another_loopback_address():
    return _connect(("127.1.2.3", SETTINGS["port"]))


@attack("the host by its own address", NET, control=False)
def host_by_its_own_address():
    return _connect((SETTINGS["address"], SETTINGS["port"])) if SETTINGS["address"] else None


@attack("the cloud's metadata service", NET, control=False)
def metadata_service():
    return _connect(("169.254.169.254", 80))


@attack("the metadata service by IPv6", NET, control=False)
def metadata_service_by_ipv6():
    return _connect(("fd00:ec2::254", 80))


@attack("the public internet", NET, control=False)
def public_internet():
    return _connect(("1.1.1.1", 443))


@attack("private networks around the machine", NET, control=False)
def private_networks():
    for address in ("10.0.0.1", "172.17.0.1", "192.168.0.1", "100.64.0.1"):
        try:
            return _connect((address, 80))
        except OSError as error:
            last = error
    raise last


@attack("data out by DNS", NET, control=False)
def names_of_the_internet():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"\0" * 12, ("8.8.8.8", 53))


@attack("interfaces but the loopback", NET)
def interfaces():
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@attack("connections of the host in /proc/net", NET)
def connections_of_the_host():
    port = f":{SETTINGS['port']:04X} "
    return [line for line in Path("/proc/net/tcp").read_text().splitlines() if port in line][:1]


@attack("an abstract socket of the host", NET)
def abstract_socket():
    return _unix("\0" + SETTINGS["abstract"])


@attack("a named socket of the host", MOUNTS)
def named_socket():
    return _unix(SETTINGS["socket"])


@attack("Docker's socket", MOUNTS, control=False)
def docker_socket():
    return _unix("/var/run/docker.sock")


@attack("the machine's message bus", MOUNTS, control=False)
def message_bus():
    return _unix("/run/dbus/system_bus_socket")


def _unix(address: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)
        return "connected"


@attack("an address added to an interface", CAPS, VIRTUAL, control=False)
def add_an_address():
    message = struct.pack("=IHHII", 24, 20, 0x605, 1, 0) + struct.pack("=BBBBI", 2, 8, 0, 0, 1)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(1)
        sock.send(message)
        code = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if code:
        raise OSError(code, os.strerror(code))
    return "added"


@attack("the loopback taken down", CAPS, VIRTUAL, control=False)
def take_the_loopback_down():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", 0))


@attack("a listening port below 1024", CAPS, "harmless: a network of its own", control=False)
def privileged_port():
    if SETTINGS["where"] != "bubblewrap":
        return None
    with socket.create_server(("127.0.0.1", 80)):
        return "listening"


@attack("raw ICMP, to scan or flood", CAPS, VIRTUAL)
def raw_icmp():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "raw socket"


@attack("a tunnel device", "no such device", VIRTUAL)
def tunnel_device():
    def work() -> str:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"abuse0", 0x1002))
        return "made"

    return in_child(work)


@attack("forwarding between networks", "user namespace", control=False)
def forwarding():
    return Path("/proc/sys/net/ipv4/ip_forward").write_text("1") and "on"
