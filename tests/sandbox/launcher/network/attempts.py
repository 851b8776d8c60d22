"""The program that tries to reach something from inside, and the processes that make its connections."""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.support import children_of, launchers

from unsandbox.sandbox.spec import NetworkMode

SEMITRUSTED = NetworkMode.SEMITRUSTED


INSIDE = r"""
import errno, json, os, socket, struct, sys
def attempt(how):
    address, kind = how["to"], how.get("kind", "tcp")
    v6 = ":" in address
    try:
        with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET,
                           socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as s:
            s.settimeout(0.3 if how.get("device") or how.get("out") else 5)
            if how.get("device"): s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0\0")
            if how.get("direct"): s.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
            if how.get("broadcast"): s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if how.get("source"): s.bind((how["source"], 0))
            if how.get("out"): s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.2.100"))
            if via := how.get("via"):
                s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x83\x07\x04" + socket.inet_aton(via) + b"\0")
            if how.get("info"):
                packed = socket.inet_pton(socket.AF_INET6, "fd00::100") + struct.pack("i", socket.if_nametoindex("tap0"))
                s.sendmsg([b"?"], [(socket.IPPROTO_IPV6, 50, packed)], 0, (address, how.get("port", PORT)))
                return s.recv(100).decode()
            address, _, scope = address.partition("%")
            place = (address, how.get("port", PORT))
            s.connect((*place, 0, socket.if_nametoindex(scope)) if scope else place)
            if kind == "udp": s.send(b"?")
            return s.recv(100).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
"""


def tools(launcher_pid=None):
    """Numbers of the slirp4netns processes of this process's launchers."""
    of = [launcher_pid] if launcher_pid else launchers()
    return [child for launcher in of for child in children_of(launcher) if name_of(child) == "slirp4netns\n"]


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
