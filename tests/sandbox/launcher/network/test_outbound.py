"""What a sandbox's network is made of, as far as it needs no sandbox: addresses, routes, the resolver."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address, ip_network

import pytest

from unsandbox.sandbox.bubblewrap.outbound import has_ipv6, resolv_conf
from unsandbox.sandbox.launcher.network import setup
from unsandbox.sandbox.launcher.network.netlink import (
    ANYCAST,
    BROADCAST,
    LOCAL,
    MULTICAST,
    UNICAST,
    Netlink,
    Route,
)


def route(to, kind=UNICAST, *gateways):
    return Route(ip_network(to), kind, [ip_address(gateway) for gateway in gateways])


@pytest.mark.parametrize(
    ("found", "forbidden"),
    [
        (route("198.51.100.7/32", LOCAL), ["198.51.100.7/32"]),
        (route("198.51.100.0/24", LOCAL), ["198.51.100.0/24"]),
        (route("198.51.100.255/32", BROADCAST), ["198.51.100.255/32"]),
        (route("2001:db8::/128", ANYCAST), ["2001:db8::/128"]),
        (route("198.51.100.0/24"), ["198.51.100.0/24"]),
        (route("2001:db8:1::/64"), ["2001:db8:1::/64"]),
        # A gateway is a neighbour; what lies behind it is not.
        (route("0.0.0.0/0", UNICAST, "198.51.100.1"), ["198.51.100.1/32"]),
        (route("203.0.113.0/24", UNICAST, "198.51.100.1"), ["198.51.100.1/32"]),
        (route("::/0", UNICAST, "fe80::1", "2001:db8::1"), ["fe80::1/128", "2001:db8::1/128"]),
        (route("203.0.113.0/24", UNICAST, "fe80::1"), ["fe80::1/128"]),
        # Through a tunnel: everything, in one piece or in halves.
        (route("0.0.0.0/0"), []),
        (route("0.0.0.0/1"), []),
        (route("2000::/3"), []),
        (route("ff00::/8", MULTICAST), []),
    ],
)
def test_what_counts_as_this_machine_and_its_neighbours(found, forbidden):
    assert setup.host_networks([found]) == {ip_network(text) for text in forbidden}


def test_rules_are_made_only_where_none_forbids_already():
    networks = [ip_network(text) for text in ("10.1.2.0/24", "fe80::1/128", "198.51.100.0/24", "2001:db8::/64")]
    assert len(setup.rules(networks)) == 2
    assert len(setup.first_rules(networks)) == len(setup.first_rules([])) + 2


def test_a_kernel_without_ipv6_is_sent_no_rules_about_it(monkeypatch):
    networks = [ip_network("2001:db8::/64"), ip_network("198.51.100.0/24")]
    both = setup.first_rules(networks)
    open_socket = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return open_socket(family, kind)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    one = setup.first_rules(networks)
    # What the kernel gets is the same, but for the rules about IPv6. A rule begins with its family.
    assert {body[0] for _, body in both} == {socket.AF_INET, socket.AF_INET6}
    assert one == [(kind, body) for kind, body in both if body[0] == socket.AF_INET]


def test_the_kernel_tells_its_routes():
    with Netlink() as kernel:
        found = kernel.routes()
    assert route("127.0.0.1/32", LOCAL) in found
    assert ip_network("127.0.0.1/32") in setup.host_networks(found)


def test_ipv6_is_offered_where_a_default_route_leads_out():
    assert has_ipv6([route("0.0.0.0/0", UNICAST, "198.51.100.1"), route("::/0", UNICAST, "fe80::1")])
    assert not has_ipv6(
        [route("0.0.0.0/0", UNICAST, "198.51.100.1"), route("2001:db8::/64"), route("::/0", LOCAL)]
    )


@pytest.mark.parametrize(
    ("host", "ipv6", "inside"),
    [
        ("nameserver 192.0.2.53\n", False, "10.0.2.3"),
        (
            "# nameserver 2001:db8::53\nsearch secret.example\nnameserver 127.0.0.53\noptions edns0\n",
            True,
            "10.0.2.3",
        ),
        ("nameserver 2001:db8::53\nnameserver 192.0.2.53\n", True, "10.0.2.3"),
        ("nameserver 2001:db8::53\nnameserver fe80::1%eth0\n", True, "fd00::3"),
        ("nameserver 2001:db8::53\n", False, "10.0.2.3"),
        ("nameserver\nnameserver nonsense\n", True, "10.0.2.3"),
        ("", True, "10.0.2.3"),
    ],
)
def test_the_resolver_inside_has_the_family_of_the_hosts_and_nothing_else_of_it(host, ipv6, inside):
    assert resolv_conf(host, ipv6) == f"nameserver {inside}\n"
