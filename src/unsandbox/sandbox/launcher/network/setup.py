"""Sets up the inside of a sandbox's network namespace; `gate` starts these steps.

The functions with `fds` run in forked children of the launcher: they become the sandbox's user, never return
to the launcher's code, and hold only these descriptors. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import NoReturn

from unsandbox.sandbox.launcher import syscalls
from unsandbox.sandbox.launcher.bpf import Instruction
from unsandbox.sandbox.launcher.cgroups import Group
from unsandbox.sandbox.launcher.network import netlink, tap_filter
from unsandbox.sandbox.launcher.network.addresses import NOT_PUBLIC, Address, Network
from unsandbox.sandbox.launcher.network.tap_filter import TUN, TUN_DEVICE

INTERFACE = "tap0"
READY = b"ready"
"""The report of `configure` when everything is done; any other report is an error."""
RESOLVER: dict[int, Address] = {4: IPv4Address("10.0.2.3"), 6: IPv6Address("fd00::3")}
"""The resolver's address inside the sandbox; slirp4netns forwards its queries to the host's resolver."""
_GATEWAY: dict[int, Address] = {4: IPv4Address("10.0.2.2"), 6: IPv6Address("fd00::2")}
_OWN: dict[int, tuple[Address, int]] = {4: (IPv4Address("10.0.2.100"), 24), 6: (IPv6Address("fd00::100"), 64)}
_MTU = 65520
_DNS_PORT = 53
_RP_STRICT = 1
"""Packets from unreachable sources are dropped, so hosts in private ranges cannot send any into a sandbox."""

_ALLOW, _FORBID = 10, 20
"""Priorities of the rules. Only the table of the namespace's own addresses comes before, at 0."""

_EVERYBODY = stat.S_IROTH | stat.S_IWOTH
_READY_TIMEOUT_S = 20
_TOOL_FILES = 1024
"""Descriptors of slirp4netns: each connection takes one, and one port of the host."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The program of a sandbox's outbound network, and its user."""

    program: str
    """Path of slirp4netns."""
    ipv6: bool
    """Whether there is IPv6 to be had."""
    uid: int | None
    """User that the sandbox runs as, when the launcher is root."""
    group: Group | None
    """The sandbox's control group; slirp4netns is counted in it."""


def host_networks(routes: Iterable[netlink.Route]) -> set[Network]:
    """Return what belongs to this machine or lies beside it: its addresses, its links, its gateways.

    Args:
        routes: The machine's routes, of all tables.
    """
    found: set[Network] = set()
    for route in routes:
        found.update(ip_network(gateway) for gateway in route.gateways)
        # A default route may lead to no gateway but to a tunnel, often in two halves; that is not a neighbour.
        beside = route.kind == netlink.UNICAST and not route.gateways and route.destination.prefixlen >= 8
        if route.kind in (netlink.LOCAL, netlink.BROADCAST, netlink.ANYCAST) or beside:
            found.add(route.destination)
    return found


def present_networks() -> set[Network]:
    """Return `host_networks` of this machine as it is now.

    Raises:
        OSError: The kernel does not tell.
    """
    with netlink.Netlink() as kernel:
        return host_networks(kernel.routes())


def rules(forbidden: Iterable[Network]) -> list[tuple[int, bytes]]:
    """Return the requests that forbid networks, except those that are forbidden anyway."""
    return _forbid(
        network
        for network in forbidden
        if not any(network.version == other.version and network.subnet_of(other) for other in NOT_PUBLIC)  # type: ignore[arg-type]
    )


def first_rules(forbidden: Iterable[Network]) -> list[tuple[int, bytes]]:
    """Return the requests of a new namespace: names may be asked for, and nothing else that is not public."""
    requests = [
        netlink.add_rule(
            ip_network(RESOLVER[version]), netlink.TO_TABLE, _ALLOW, protocol=protocol, port=_DNS_PORT
        )
        for version in spoken_versions()
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
    ]
    return [*requests, *_forbid(NOT_PUBLIC), *rules(forbidden)]


def _forbid(networks: Iterable[Network]) -> list[tuple[int, bytes]]:
    versions = spoken_versions()
    return [
        netlink.add_rule(network, netlink.PROHIBIT, _FORBID)
        for network in networks
        if network.version in versions
    ]


def spoken_versions() -> tuple[int, ...]:
    """Return the versions of IP that this kernel speaks; of one that it does not, it takes no rules either."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return (4,)
        raise
    return (4, 6)


# In the forked children


def _enter(launcher: int, uid: int | None, user: int, net: int | None = None) -> None:
    """Become the sandbox's user, who owns its namespaces and nothing else, and go into them."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    syscalls.setns(user, syscalls.CLONE_NEWUSER)
    if net is not None:
        syscalls.setns(net, syscalls.CLONE_NEWNET)
    syscalls.die_with_parent(launcher)


def configure(
    way: NetworkConfig, first: int, tool: int, forbidden: Sequence[Network], launcher: int, fds: list[int]
) -> None:
    """Make the rules, let slirp4netns begin, filter and configure the interface that it makes."""
    user, net, report, go, ready = fds
    # Whatever hangs, hangs no longer than this.
    signal.alarm(_READY_TIMEOUT_S)
    try:
        # Before that, slirp4netns has an unmapped user there.
        while not Path(f"/proc/{first}/gid_map").read_text():
            time.sleep(0.0005)
        _enter(launcher, way.uid, user, net)
        with netlink.Netlink() as kernel:
            kernel.carry_out(first_rules(forbidden))
            os.write(go, b"1")
            # Nothing comes when it ends; then there is nothing to attach to.
            os.read(ready, 1)
            tap_filter.attach(tool, _filter(forbidden))
            kernel.carry_out(_interface(socket.if_nametoindex(INTERFACE), [4, 6] if way.ipv6 else [4]))
    except OSError as error:
        os.write(report, str(error).encode())
    else:
        os.write(report, READY)


def renew(
    way: NetworkConfig,
    tool: int,
    new: Sequence[Network],
    forbidden: Sequence[Network],
    launcher: int,
    fds: list[int],
) -> None:
    """Forbid further networks in a living sandbox's namespace.

    Args:
        way: How it gets out.
        tool: Number of its slirp4netns, -1 when that has ended.
        new: What is to be forbidden now.
        forbidden: Everything of the host's, with that.
        launcher: Number of the process that forked this one.
        fds: A place for error messages, its user and its network namespace.
    """
    log, user, net = fds
    os.dup2(log, 2)
    signal.alarm(_READY_TIMEOUT_S)
    _enter(launcher, way.uid, user, net)
    with netlink.Netlink() as kernel:
        kernel.carry_out(rules(new))
    if tool > 0:
        # Without a server, the interface leads nowhere.
        with contextlib.suppress(ProcessLookupError):
            tap_filter.attach(tool, _filter(forbidden))


def _filter(forbidden: Sequence[Network]) -> list[Instruction]:
    return tap_filter.build([*NOT_PUBLIC, *forbidden], RESOLVER.values())


def _interface(index: int, versions: Sequence[int]) -> list[tuple[int, bytes]]:
    requests = [netlink.set_up(index, mtu=_MTU, rp_filter=_RP_STRICT)]
    for version in versions:
        address, prefix = _OWN[version]
        requests.append(netlink.add_address(index, address, prefix))
        requests.append(netlink.add_default_route(index, _GATEWAY[version]))
    return requests


def become_tool(way: NetworkConfig, launcher: int, fds: list[int]) -> NoReturn:
    """Become slirp4netns, in the sandbox's group and user namespace, as soon as the rules are there.

    Its network stays the host's. It may do what the sandbox's user may, and gives up most of that: it shuts
    itself into an almost empty folder, with a filter on its system calls.
    """
    log, exit_read, go, ready, user, net = fds
    os.dup2(log, 2)
    if way.group is not None:
        way.group.enter()
    Path("/proc/self/oom_score_adj").write_text("1000")
    _find_tun()
    os.chdir("/")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _TOOL_FILES if hard == resource.RLIM_INFINITY else min(_TOOL_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if os.read(go, 1) != b"1":
        os._exit(1)
    _enter(launcher, way.uid, user)
    for fd in (exit_read, ready, net):
        os.set_inheritable(fd, True)
    words = [way.program, f"--exit-fd={exit_read}", f"--ready-fd={ready}", "--netns-type=path"]
    words += [f"--mtu={_MTU}", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp"]
    if way.ipv6:
        words.append("--enable-ipv6")
    os.execve(way.program, [*words, f"/proc/self/fd/{net}", INTERFACE], {})  # noqa: S606 - a fixed program


def openable_by_all(path: Path) -> bool:
    """Tell whether a device node lets every user read and write it."""
    try:
        return path.stat().st_mode & _EVERYBODY == _EVERYBODY
    except OSError:
        return False


def _find_tun() -> None:
    """Give this process alone a device node that its user may open, where the host's is not such a one."""
    if os.geteuid() != 0 or openable_by_all(TUN):
        return
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    folder = TUN.parent if TUN.parent.is_dir() else Path("/dev")
    syscalls.mount("tmpfs", str(folder), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, "mode=755")
    TUN.parent.mkdir(exist_ok=True)
    TUN.parent.chmod(0o755)
    os.mknod(TUN, stat.S_IFCHR, TUN_DEVICE)
    TUN.chmod(0o666)
