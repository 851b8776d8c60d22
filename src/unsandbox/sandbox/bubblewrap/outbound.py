"""Finds out whether this machine can give sandboxes an outbound network (`semitrusted`)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.launcher.fd_numbers import BLOCK_FD
from unsandbox.sandbox.launcher.messages import Network
from unsandbox.sandbox.launcher.network.netlink import UNICAST, Netlink, Route
from unsandbox.sandbox.launcher.network.setup import RESOLVER, openable_by_all
from unsandbox.sandbox.launcher.network.tap_filter import TUN
from unsandbox.sandbox.layout import PATH
from unsandbox.sandbox.remedies import find_container

PROGRAM = "slirp4netns"
INSTALL = f"apt-get install {PROGRAM}"


@dataclass(frozen=True, slots=True)
class Outbound:
    """The means for the outbound network of sandboxes."""

    program: str
    """Path of slirp4netns."""
    ipv6: bool
    """Whether this machine has an IPv6 route."""
    resolv_conf: Path
    """The sandboxes' `/etc/resolv.conf`."""

    def words(self) -> list[str]:
        """Return bubblewrap's options: the resolver's configuration, and waiting for the network."""
        return ["--ro-bind", str(self.resolv_conf), "/etc/resolv.conf", "--block-fd", str(BLOCK_FD)]


def network_request(outbound: Outbound | None) -> Network | None:
    """Return the network configuration for the launcher."""
    return None if outbound is None else Network(outbound.program, outbound.ipv6)


def find_outbound(runtime: Path, host_resolv_conf: Path = Path("/etc/resolv.conf")) -> Outbound:
    """Return this machine's means for the outbound network.

    Args:
        runtime: Folder for the sandboxes' `resolv.conf`.
        host_resolv_conf: The host's `resolv.conf`.

    Raises:
        SandboxUnavailable: A requirement is missing; the message names it and how to get it.
    """
    program = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:{PATH}")
    if program is None:
        raise SandboxUnavailable(f"{PROGRAM} is not installed: {INSTALL}")
    _check_tun()
    try:
        with Netlink() as kernel:
            ipv6 = has_ipv6(kernel.routes())
    except OSError as error:
        raise SandboxUnavailable(f"cannot read the kernel's routes: {error.strerror}") from error
    try:
        text = host_resolv_conf.read_text("utf-8", "replace")
    except OSError:
        text = ""
    path = runtime / "resolv.conf"
    path.write_text(resolv_conf(text, ipv6))
    path.chmod(0o444)
    return Outbound(program, ipv6, path)


def _check_tun() -> None:
    if os.geteuid() == 0 and not openable_by_all(TUN):
        # The launcher creates a private device node; only an attempt shows whether it may.
        return
    try:
        if not stat.S_ISCHR(TUN.stat().st_mode):
            raise SandboxUnavailable(f"{TUN} is not a device")
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            todo = f"let users open it: chmod 0666 {TUN}"
        else:
            container = find_container()
            todo = f"let the container have it: --device {TUN}" if container else "load it: modprobe tun"
        raise SandboxUnavailable(f"{TUN} cannot be opened ({error.strerror}): {todo}") from error


def has_ipv6(routes: Iterable[Route]) -> bool:
    """Return whether there is a default route for IPv6."""
    return any(
        route.kind == UNICAST and route.destination.version == 6 and route.destination.prefixlen == 0
        for route in routes
    )


def resolv_conf(host_text: str, ipv6: bool) -> str:
    """Return the sandboxes' `resolv.conf` with the address that leads to the host's resolver.

    Nothing else of the host's file is copied, such as its search domains.

    Args:
        host_text: The host's `/etc/resolv.conf`.
        ipv6: Whether sandboxes get IPv6.
    """
    versions = set()
    for line in host_text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                versions.add(ip_address(words[1].partition("%")[0]).version)
            except ValueError:
                continue
    version = 6 if versions == {6} and ipv6 else 4
    return f"nameserver {RESOLVER[version]}\n"
